"""`lstm-deploy train`: its options, and what it says."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from msgspec.structs import replace

from lstm_deploy.cli import arguments, console
from lstm_deploy.cli.options import ForceFlag, JsonFlag
from lstm_deploy.errors import InputError
from lstm_deploy.training import (
    Generator,
    LossOn,
    Missing,
    Optimizer,
    Pooling,
    Precision,
    Range,
    Recipe,
    Scaling,
    Schedule,
    Strategy,
    TaskName,
    check_values,
    is_first_process,
    make_recipe,
    option_of,
)

if TYPE_CHECKING:
    from lstm_deploy.training import Found, Material, Trained

OF_TASK: dict[TaskName, tuple[str, ...]] = {
    "forecast": ("target", "features", "missing", "data", "rows"),
    "lm": (),
    "classify": ("text_column", "label_column", "vectors"),
}
"""Options that say how data is read, by the task that they belong to."""
LONGEST_NAME = 200
"""Bytes of a file name, so that what is written beside it has a name, too."""
OF_FILE = ("target", "features", "missing")


def train(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DATA]",
            help="Table (CSV, Parquet, .npz, .npy) for a forecast, or of texts and labels; UTF-8 text for lm.",
        ),
    ] = None,
    task: Annotated[
        TaskName | None, typer.Option(help="What to learn: the next values, the next character, or labels of texts.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Checkpoint to write, with a folder of log, plots and state beside it [default: DATA's name].",
        ),
    ] = None,
    # Data
    data: Annotated[Generator | None, typer.Option(help="Instead of DATA, for a forecast: a generated series.")] = None,
    rows: Annotated[
        int | None, typer.Option(min=2, max=10**7, help="With --data: its length [1000; sines: 5000].")
    ] = None,
    target: Annotated[str | None, typer.Option(help="forecast: columns to predict, comma-separated.")] = None,
    features: Annotated[
        str | None, typer.Option(help="forecast: columns to predict from, comma-separated [default: all of numbers].")
    ] = None,
    missing: Annotated[
        Missing | None,
        typer.Option(help="forecast: what becomes of missing values [previous]."),
    ] = None,
    horizon: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="forecast: steps to predict at once [1].")
    ] = None,
    scaling: Annotated[
        Scaling | None, typer.Option(help="forecast: of each column, to (-1, 1) or to mean 0, deviation 1 [minmax].")
    ] = None,
    season: Annotated[
        int | None, typer.Option(min=2, help="forecast: steps of a season, for the seasonal naive forecast [found].")
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="classify: column of the texts [text].")] = None,
    label_column: Annotated[str | None, typer.Option(help="classify: column of the labels [label].")] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(help="classify: word vectors, a text (word number number …) or .npz (words, vectors)."),
    ] = None,
    freeze_vectors: Annotated[
        bool | None, typer.Option("--freeze-vectors", help="classify: leave them as they are.")
    ] = None,
    unit: Annotated[
        Literal["character", "byte", "word", "token"] | None,
        typer.Option(help="What one token is; lm: character or byte; classify: token, word or character."),
    ] = None,
    vocabulary_size: Annotated[int | None, typer.Option(min=2, help="classify: entries at most [20000].")] = None,
    least_count: Annotated[
        int | None, typer.Option(min=1, help="classify: how often a word of the vocabulary occurs at least [2].")
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=1, help="Steps in one example [20; lm: 100; classify: 200].")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(min=1, help="Steps from one example to the next [1; lm, with --state reset: the window]."),
    ] = None,
    state: Annotated[
        Literal["carry", "reset"] | None,
        typer.Option(help="lm: go on from where the example before ended, or begin each anew [carry]."),
    ] = None,
    loss_on: Annotated[LossOn | None, typer.Option(help="Steps of an example that are learned from [every].")] = None,
    test: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Part held out for the metrics: the end; of texts, any [0.2; lm: 0.1]."),
    ] = None,
    validation: Annotated[
        float | None, typer.Option(min=0, max=1, help="Part of the rest that chooses the best epoch [0.1; lm: 0.02].")
    ] = None,
    # Network
    hidden_size: Annotated[
        int | None, typer.Option(min=1, max=16384, help="Width of the LSTM [32; lm: 128; classify: 64].")
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, max=64, help="LSTM layers [2; classify: 1].")] = None,
    bidirectional: Annotated[
        bool | None, typer.Option(help="Read windows both ways; it can then not stream [classify: yes].")
    ] = None,
    proj_size: Annotated[int | None, typer.Option(min=1, help="Width of a projection of h.")] = None,
    dropout: Annotated[
        float | None, typer.Option(min=0, max=0.9, help="Between layers and before the head [0; classify: 0.3].")
    ] = None,
    embedding_size: Annotated[
        int | None, typer.Option(min=0, help="Width of a learned vector for each token [one-hot; classify: 64].")
    ] = None,
    window_norm: Annotated[
        bool | None,
        typer.Option("--window-norm", help="forecast: BatchNorm over the window, which fixes its length."),
    ] = None,
    layer_norm: Annotated[bool | None, typer.Option("--layer-norm", help="LayerNorm of what the LSTM gives.")] = None,
    pooling: Annotated[
        Pooling | None,
        typer.Option(help="One output for a window: of its last step, or over all [none; classify: max]."),
    ] = None,
    head_size: Annotated[int | None, typer.Option(min=0, help="Width of a layer with a ReLU before the last.")] = None,
    residual: Annotated[
        bool | None, typer.Option(help="forecast: predict the change from the present value [yes].")
    ] = None,
    # Training
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data [30; lm, classify: 10].")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Examples in one step of one device [64; lm, classify: 32].")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0, help="[0.002; lm: 0.005].")] = None,
    optimizer: Annotated[Optimizer | None, typer.Option(help="[adam].")] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0, help="[0].")] = None,
    schedule: Annotated[
        Schedule | None,
        typer.Option(
            help="Of the learning rate: plateau halves it when validation stands still [constant; lm: cosine]."
        ),
    ] = None,
    warmup: Annotated[int | None, typer.Option(min=0, help="Steps in which the learning rate rises [0].")] = None,
    patience: Annotated[
        int | None, typer.Option(min=0, help="Epochs without improvement after which training ends [all are run].")
    ] = None,
    clip: Annotated[float | None, typer.Option(min=0, help="Norm that gradients are clipped to; 0: never [1].")] = None,
    accumulate: Annotated[int | None, typer.Option(min=1, help="Batches whose gradients make one step [1].")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Of the weights, the order, and what is generated.")] = 0,
    search: Annotated[int | None, typer.Option(min=1, help="Try so many recipes first, and train the best.")] = None,
    span: Annotated[
        list[str] | None,
        typer.Option("--range", help="With --search: OPTION=LOW..HIGH[:log] or OPTION=A,B,C; repeat for several."),
    ] = None,
    search_epochs: Annotated[
        int | None, typer.Option(min=1, help="With --search: epochs of one trial [a third].")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the same command was stopped.")] = False,
    # Machines
    precision: Annotated[Precision | None, typer.Option(help="[32].")] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="GPUs, or processes on a CPU [1].")] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Machines [1].")] = None,
    strategy: Annotated[Strategy | None, typer.Option(help="For several devices: ddp [auto].")] = None,
    force: ForceFlag = False,
    json: JsonFlag = False,
) -> None:
    """Train a network on a file; it scales its own inputs, so raw units go in and come out."""
    given = dict(locals())  # every option by its name

    if task is None:
        raise InputError("What is to be learned? Give --task forecast, lm or classify.")
    recipe = make_recipe(task, **{name: given[_option(name)] for name in Recipe.__struct_fields__})
    output = output or Path(f"{data or (file.stem if file else '') or 'model'}.safetensors")
    folder = output.with_suffix(".training")
    _check_options(task, given, recipe)
    _check_output(output, folder, force=force, resume=resume)
    training_data = _read(task, given, output)
    if is_first_process():
        for remark in training_data.remarks:
            console.note(remark)
    result = _train(task, training_data, recipe, folder, given)
    _finish(result, output, folder, json)


def _read(task: TaskName, given: dict[str, Any], output: Path) -> "Material":
    from lstm_deploy.training import training_data

    file, generator = given["file"], given["data"]
    if (file is None) == (generator is None):
        raise InputError("What is to be learned from? Give a file, or --data sine or sines, and not both.")
    if file is None:
        return training_data.generated(generator, given["rows"], given["seed"])
    match task:
        case "forecast":
            features, target = arguments.names(given["features"]), arguments.names(given["target"])
            found = training_data.series(file, features, target, given["missing"] or "previous")
        case "lm":
            found = training_data.text(file)
        case "classify":
            found = training_data.labelled(file, given["text_column"], given["label_column"], given["vectors"])
    return replace(found, origin={**found.origin, **training_data.origin_of(file, output)})


def _train(
    task: TaskName, training_data: "Material", recipe: Recipe, folder: Path, given: dict[str, Any]
) -> "tuple[Trained, Found | None]":
    from lstm_deploy.training import belongs_to, train

    resume, found = given["resume"], None
    if given["search"]:
        from lstm_deploy.training import search

        epochs = given["search_epochs"] or -(-recipe.epochs // 3)
        ranges = _ranges(given)
        try:
            with console.progress("search") as on_trial:
                found = search(
                    training_data, task, recipe, given["search"], ranges, epochs, folder, on_trial, resume=resume
                )
        except KeyboardInterrupt:
            console.note("repeat the command with --resume to go on with the search.")
            raise
        recipe, resume = found.recipe, resume and belongs_to(folder, found.recipe)
    with console.progress("training", shown=is_first_process()) as on_progress:
        return train(training_data, recipe, on_progress, folder=folder, resume=resume), found


def _finish(result: "tuple[Trained, Found | None]", output: Path, folder: Path, json: bool) -> None:
    from msgspec import to_builtins

    from lstm_deploy.exporters import report
    from lstm_deploy.training import checkpoint, plots as training_plots

    trained, found = result
    checkpoint.save(output, trained.tensors, trained.spec)
    plots = {}
    for name, figure in training_plots.plots(trained.history, trained.evaluation, trained.spec.task).items():
        plots[name] = folder / f"{name}.png"
        report.save_plot(figure, plots[name])
    for remark in trained.remarks:
        console.note(remark)
    metrics = trained.evaluation.metrics
    if json:
        document = {"checkpoint": str(output), "folder": str(folder), "interrupted": trained.interrupted}
        document["plots"] = {name: str(path) for name, path in plots.items()}
        document |= {"epochs": len(trained.history), "search": to_builtins(found.tried) if found else None}
        console.say_json(document | trained.spec.training)
    else:
        if found:
            console.say_table(*report.search_table(found.tried))
        console.say_table(["on held-out data", ""], report.metric_rows(metrics))
        console.say(report.verdict(metrics))
    console.note(f"\nwrote {output} and {folder}/ ({', '.join([*plots, 'log.csv'])})")
    if trained.interrupted:
        console.note(
            f"interrupted after epoch {len(trained.history)}: {output} is the best so far, of epoch "
            f"{trained.spec.training['best_epoch']}; repeat the command with --resume to go on."
        )
        raise typer.Exit(console.INTERRUPTED)
    console.note(f"next: lstm-deploy export {quote(str(output))} -o exported/{output.stem}")


def _check_options(task: TaskName, given: dict[str, Any], recipe: Recipe) -> None:
    """Raise `InputError` for options of other tasks, and for those that go with others."""
    for other, names in OF_TASK.items():
        if wrong := [name for name in names if other != task and given[name] is not None]:
            raise InputError(f"--{wrong[0].replace('_', '-')} means nothing for --task {task}; leave it out.")
    if given["data"] and (wrong := [name for name in OF_FILE if given[name] is not None]):
        raise InputError(f"--{wrong[0]} is for files; leave it out with --data.")
    if given["rows"] and not given["data"]:
        raise InputError("--rows goes with --data; leave it out.")
    if given["freeze_vectors"] and not given["vectors"]:
        raise InputError("--freeze-vectors goes with --vectors; add them, or leave it out.")
    if given["vectors"] and given["embedding_size"] is not None:
        raise InputError("The width of an embedding is that of its --vectors; leave out --embedding-size.")
    if given["search"] is None and (given["span"] or given["search_epochs"]):
        raise InputError("--range and --search-epochs go with --search; add it.")
    if given["search"] and not recipe.validation:
        raise InputError("A search compares recipes by their validation; give a --validation above 0.")
    if given["search"] and recipe.processes > 1:
        raise InputError("A search runs on one device; leave out --devices and --nodes, and train the winner on them.")
    for field, span in _ranges(given).items() if given["search"] else ():
        for value in span.choices or (span.low, span.high):
            check_values(replace(recipe, **{field: value}))


def _check_output(output: Path, folder: Path, *, force: bool, resume: bool) -> None:
    from lstm_deploy.training import LAST

    if output.suffix != ".safetensors":
        raise InputError(f"{output} must end in .safetensors, the only format that train writes.")
    if output.is_dir():
        raise InputError(f"{output} is a directory; give a file name with -o.")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, and the training writes a folder of that name; choose another with -o.")
    if force and resume:
        raise InputError("--force begins anew and --resume goes on; leave one of them out.")
    if resume or not is_first_process():
        return
    if len(output.name.encode()) > LONGEST_NAME:
        raise InputError(f"The name of {output} is too long; give one of {LONGEST_NAME} bytes or fewer with -o.")
    if force:
        return
    if output.exists():
        raise InputError(f"{output} already exists; replace it with --force or choose another name with -o.")
    if (folder / LAST).exists():
        raise InputError(
            f"{folder} holds a training that was stopped; go on with --resume, or begin anew with --force."
        )


def _ranges(given: dict[str, Any]) -> dict[str, Range]:
    """What a search tries: what is said, or what is usual, but for options that have a value already."""
    ranges = arguments.ranges(given["span"])
    if given["span"]:
        return ranges
    if left := {field: span for field, span in ranges.items() if given[_option(field)] is None}:
        return left
    raise InputError("All that a search tries by itself is given; name what it shall try with --range.")


def _option(field: str) -> str:
    return option_of(field).replace("-", "_")
