"""`lstm-deploy train`: from a file to a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import Struct
from msgspec.structs import replace

from lstm_deploy.cli import arguments, console, next_steps
from lstm_deploy.cli.options import ForceFlag, JsonFlag, Panel, argument, grouped, option
from lstm_deploy.cli.recipe_options import OPTIONS, RecipeOptions
from lstm_deploy.errors import InputError, require
from lstm_deploy.training import Generator, Missing, Recipe, TaskName, make_recipe

if TYPE_CHECKING:
    from lstm_deploy.training import SearchResult, SearchSpace, Trained, TrainingData

LONGEST_NAME = 200
"""Bytes of a file name, so that what is written beside it has a name, too."""

ResumeFlag = Annotated[bool, option(Panel.OUTPUT, "--resume", help="Continue where the same command was interrupted.")]
DataArgument = Annotated[
    Path | None,
    argument(
        "DATA",
        "Table to forecast (CSV, Parquet, .npz, .npy), text for a language model, or table of texts and labels.",
    ),
]
TaskOption = Annotated[
    TaskName | None,
    option(
        Panel.INPUT,
        metavar="TASK",
        help="What to learn: forecast (the next values of a table), lm (the next character of a text) or classify (the "
        "label of a text; not of numbers).",
    ),
]
OutputOption = Annotated[
    Path | None,
    option(
        Panel.OUTPUT,
        "-o",
        "--output",
        metavar="FILE",
        help="Checkpoint to write, with a folder of log, plots and state beside it. [default: DATA, as .safetensors]",
    ),
]


class DataOptions(Struct, frozen=True, kw_only=True):
    """How the data is read, or generated."""

    target: Annotated[
        list[str] | None,
        option(Panel.INPUT, metavar="NAME,…", help="forecast: columns to predict. Needed if there are several."),
    ] = None
    features: Annotated[
        list[str] | None,
        option(Panel.INPUT, metavar="NAME,…", help="forecast: columns to predict from. [default: all numeric columns]"),
    ] = None
    missing: Annotated[
        Missing | None, option(Panel.INPUT, help="forecast: how to fill missing values. [default: previous]")
    ] = None
    text_column: Annotated[
        str | None, option(Panel.INPUT, metavar="NAME", help="classify: column of the texts. [default: text]")
    ] = None
    label_column: Annotated[
        str | None, option(Panel.INPUT, metavar="NAME", help="classify: column of the labels. [default: label]")
    ] = None
    vectors: Annotated[
        Path | None,
        option(
            Panel.INPUT,
            metavar="FILE",
            help="classify: word vectors to start from, as text (one word and its numbers a line) or .npz (words, "
            "vectors).",
        ),
    ] = None
    data: Annotated[
        Generator | None, option(Panel.INPUT, help="forecast: generate a series to try things out, instead of DATA.")
    ] = None
    rows: Annotated[
        int | None,
        option(
            Panel.INPUT,
            metavar="N",
            min=2,
            max=10**7,
            help="Length of a series from --data. [default: 1000; sines: 5000]",
        ),
    ] = None


class SearchOptions(Struct, frozen=True, kw_only=True):
    """A search of the hyper-parameters before the training."""

    search: Annotated[
        int | None,
        option(Panel.SEARCH, metavar="TRIALS", min=1, help="Try this many sets of options, then train with the best."),
    ] = None
    range: Annotated[
        list[str] | None,
        option(
            Panel.SEARCH,
            metavar="OPTION=VALUES",
            help="Values to try: OPTION=LOW..HIGH, OPTION=LOW..HIGH:log or OPTION=A,B,C; repeat it for several options "
            "[default: learning-rate, hidden-size, layers and dropout]",
        ),
    ] = None
    search_epochs: Annotated[
        int | None, option(Panel.SEARCH, metavar="N", min=1, help="Epochs of one trial. [default: a third of --epochs]")
    ] = None


@grouped
def train(
    file: DataArgument = None,
    *,
    task: TaskOption = None,
    output: OutputOption = None,
    data: DataOptions,
    recipe: Annotated[Any, RecipeOptions],
    search: SearchOptions,
    resume: ResumeFlag = False,
    force: ForceFlag = False,
    json: JsonFlag = False,
) -> None:
    """Train a network on a table, a text or labelled texts.

    The network takes and gives raw units: it scales its inputs itself. An option whose help begins with a task
    (forecast:, lm:, classify:) is for that task only.
    """
    from lstm_deploy.artifacts import check_output, check_parent
    from lstm_deploy.training import is_rank_zero

    if task is None:
        raise InputError("Missing --task; give --task forecast, lm or classify.")
    given = {field: getattr(recipe, option) for field, option in OPTIONS.items()}
    chosen = make_recipe(task, **given)

    output = output or Path(f"{data.data or (file.stem if file else '') or 'model'}.safetensors")
    if (file is None) == (data.data is None):
        raise InputError(
            "Missing DATA; name a file to learn from, or generate a series with --data sine."
            if file is None
            else "DATA and --data are both given; leave out one of them."
        )
    space = _search_space(search, chosen, given)
    if output.suffix != ".safetensors":
        raise InputError(f"{output} must end in .safetensors, the only format that train writes; name a file with -o.")
    folder = output.with_suffix(".training")
    check_output(output, file, data.vectors)
    check_parent(folder / "any")
    _check_replaced(output, folder, force=force, resume=resume)
    require("lightning")  # whose extra has all that training needs, PyTorch included
    training_data = _read(task, file, data, chosen.seed, output)
    if is_rank_zero():
        for remark in training_data.remarks:
            console.note(remark)
    result = _train(task, training_data, chosen, folder, search, space, resume)
    _finish(result, output, folder, json, "--resume in place of --force" if force else "--resume")


def _read(task: TaskName, file: Path | None, options: DataOptions, seed: int, output: Path) -> "TrainingData":
    from lstm_deploy.training import training_data

    if file is None:
        assert options.data is not None
        return training_data.generate_series(options.data, options.rows, seed)
    match task:
        case "forecast":
            features, target = arguments.listed(options.features), arguments.listed(options.target)
            loaded = training_data.load_series(file, features or None, target or None, options.missing or "previous")
        case "lm":
            loaded = training_data.load_text(file)
        case "classify":
            loaded = training_data.load_labelled_texts(file, options.text_column, options.label_column, options.vectors)
    return replace(loaded, origin={**loaded.origin, **training_data.origin_of(file, output)})


def _train(
    task: TaskName,
    training_data: "TrainingData",
    recipe: Recipe,
    folder: Path,
    options: SearchOptions,
    space: "SearchSpace",
    resume: bool,
) -> "tuple[Trained, SearchResult | None]":
    from lstm_deploy.training import belongs_to, is_rank_zero, train

    best = None
    if options.search:
        from lstm_deploy.training import search

        epochs = options.search_epochs or -(-recipe.epochs // 3)
        try:
            with console.progress("search") as on_trial:
                best = search(
                    training_data, task, recipe, options.search, space, epochs, folder, on_trial, resume=resume
                )
        except KeyboardInterrupt:
            console.note("repeat the command with --resume to go on with the search.")
            raise
        recipe, resume = best.recipe, resume and belongs_to(folder, best.recipe)
    if recipe.nodes > 1:
        console.note(f"waiting until all {recipe.nodes} machines have started this command; Ctrl-C ends the wait.")
    with console.progress("training", shown=is_rank_zero()) as on_progress:
        return train(training_data, recipe, on_progress, folder=folder, resume=resume), best


def _finish(result: "tuple[Trained, SearchResult | None]", output: Path, folder: Path, json: bool, resume: str) -> None:
    from msgspec import to_builtins

    from lstm_deploy.exporters import report
    from lstm_deploy.training import checkpoint, plots as training_plots, result_tables

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
        document |= {"epochs": len(trained.history), "search": to_builtins(found.trials) if found else None}
        console.say_json(document | trained.spec.training)
    else:
        if found:
            console.say(("Trials of the search, the best first", console.HEADING))
            console.say_table(*result_tables.search_table(found.trials))
            console.say()
        console.say(("On held-out data", console.HEADING))
        console.say_table(*result_tables.metric_table(metrics))
        console.say()
        verdict = result_tables.baseline_verdict(metrics)
        console.say((verdict, console.GOOD if verdict.startswith("Better") else console.WARNING))
    console.note(f"wrote {output} and {folder}/ ({', '.join([*plots, 'log.csv'])})", hang=2)
    if trained.interrupted:
        console.note(
            f"interrupted after epoch {len(trained.history)}: {output} is the best so far, of epoch "
            f"{trained.spec.training['best_epoch']}; repeat this training with {resume} to go on.",
            hang=2,
        )
        raise typer.Exit(console.INTERRUPTED)
    console.say_next(next_steps.export(output))


def _search_space(options: SearchOptions, recipe: Recipe, given: Mapping[str, Any]) -> "SearchSpace":
    """The ranges to search; raises `InputError` for what cannot be searched, before any data is read."""
    if options.search is None:
        return {}
    if not recipe.validation:
        raise InputError("A search compares recipes by their validation; give a --validation above 0.")
    if recipe.devices * recipe.nodes > 1:
        raise InputError("A search runs on one device; leave out --devices and --nodes, and train the best on them.")
    from lstm_deploy.training import make_search_space

    fixed = [field for field, value in given.items() if value is not None]
    return make_search_space(arguments.pairs("range", options.range or ()), recipe, fixed)


def _check_replaced(output: Path, folder: Path, *, force: bool, resume: bool) -> None:
    """Raise `InputError` for what is there already, unless that is wanted."""
    from lstm_deploy.training import LAST_STATE, is_rank_zero

    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, and the training writes a folder of that name; choose another with -o.")
    if force and resume:
        raise InputError("--force starts over and --resume continues; leave out one of them.")
    if resume or not is_rank_zero():
        return
    if len(output.name.encode()) > LONGEST_NAME:
        raise InputError(f"The name of {output} is too long; give one of {LONGEST_NAME} bytes or fewer with -o.")
    if force:
        return
    if output.exists():
        raise InputError(f"{output} already exists; replace it with --force or choose another name with -o.")
    if (folder / LAST_STATE).exists():
        raise InputError(
            f"{folder} holds an interrupted training; continue it with --resume, or start over with --force."
        )
