"""`lstm-deploy run`: a bundle used on a file, a prompt or a pipe."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from msgspec import Struct

from lstm_deploy.cli import completion, console, effects, next_steps
from lstm_deploy.cli.options import JsonFlag, Panel, Provider, argument, grouped, option
from lstm_deploy.errors import InputError


class WhereOptions(Struct, frozen=True, kw_only=True):
    """The artifact that is run, and what runs it."""

    runtime: Annotated[
        Literal["onnx", "native", "torchscript"] | None,
        option(
            Panel.MACHINE,
            metavar="RUNTIME",
            help="onnx, native (compiles the C) or torchscript (needs PyTorch). [default: the first in the bundle]",
        ),
    ] = None
    provider: Annotated[Provider, option(Panel.MACHINE, help="What to run on.")] = "cpu"
    precision: Annotated[
        Literal["float32", "int8", "float16"],
        option(Panel.MACHINE, metavar="PRECISION", help="Artifact to run: float32, int8 or float16."),
    ] = "float32"


class TextOptions(Struct, frozen=True, kw_only=True):
    """How a language model's text is sampled, and where it ends."""

    temperature: Annotated[
        float,
        option(
            Panel.TEXT, metavar="X", min=0, max=1e6, help="Higher is more varied; 0: always the likeliest character."
        ),
    ] = 0.0
    top_k: Annotated[
        int, option(Panel.TEXT, metavar="N", min=0, max=2**31, help="Sample from the N likeliest only; 0: from all.")
    ] = 0
    stop: Annotated[
        str | None,
        option(
            Panel.TEXT,
            metavar="CHARACTER",
            help="End before this character. [default: none; --stream: a new line]",
        ),
    ] = None
    seed: Annotated[int, option(Panel.TEXT, metavar="N", min=0, help="Seed of the sampling.")] = 0


BundleArgument = Annotated[Path, argument("BUNDLE", "Bundle to use.", autocompletion=completion.bundles)]
InputOption = Annotated[
    Path | None,
    option(
        Panel.INPUT,
        metavar="FILE",
        help="Series to forecast from (CSV, Parquet, .npz, .npy), or texts to classify (a line each, or a CSV "
        "with the column of the training).",
    ),
]
PromptOption = Annotated[
    list[str] | None,
    option(Panel.INPUT, metavar="TEXT", help="Text to continue. Repeat it for several texts."),
]
StreamFlag = Annotated[
    bool, option(Panel.INPUT, "--stream", help="Read standard input line by line, and answer each line at once.")
]
RawFlag = Annotated[
    bool,
    option(Panel.INPUT, "--raw", help="With --stream: read and write raw float32 (little-endian) instead of lines."),
]
StepsOption = Annotated[
    int | None,
    option(
        Panel.OUTPUT,
        metavar="N",
        min=1,
        help="How many values or characters to give. [default: what the model predicts at once; text: 200]",
    ),
]
OutputOption = Annotated[
    Path | None, option(Panel.OUTPUT, "-o", "--output", metavar="FILE", help="Write the answer to a file.")
]
PlotOption = Annotated[
    Path | None, option(Panel.OUTPUT, metavar="FILE", help="Plot the forecast (.png, .svg or .pdf).")
]


@grouped
def run(
    context: typer.Context,
    bundle: BundleArgument,
    *,
    input: InputOption = None,  # noqa: A002 - the option's name
    prompt: PromptOption = None,
    stream: StreamFlag = False,
    raw: RawFlag = False,
    steps: StepsOption = None,
    text: TextOptions,
    where: WhereOptions,
    output: OutputOption = None,
    plot: PlotOption = None,
    json: JsonFlag = False,
) -> None:
    """Use a bundle: forecast, generate text, classify, or stream.

    The bundle says what its model is for. PyTorch is not needed, unless TorchScript is to run.
    """
    from lstm_deploy.runtimes import Model

    if plot:
        from lstm_deploy.exporters import report

        report.check_plot(plot)
    model = Model(bundle)
    on: dict[str, str] = {"provider": where.provider, "precision": where.precision}
    if where.runtime:
        on["runtime"] = where.runtime
    _refuse_unused(context, model.signature.task, stream=stream, samples=text.temperature > 0)
    if stream:
        _stream(model, on, text, steps, raw, json)
        return
    _check_outputs(bundle, input, output, plot)
    result, document = _answer(model, on, input, prompt, steps, text, plot)
    if output:
        console.write_text(output, result + "\n")
    if json:
        console.say_json(document)
    elif not output:
        console.say_data(result)
    if not json and not output and console.is_terminal():
        console.say_next(*next_steps.after_run(bundle, input, prompt or [], plot, text.temperature, steps))


USE = {
    "Forecast": "This bundle forecasts series; give one with --input FILE, or a pipe with --stream, no --prompt.",
    "LanguageModel": "This bundle continues text; give some with --prompt TEXT, or a pipe with --stream, no --input.",
    "Classify": "This bundle classifies text; give lines with --input FILE, or a pipe with --stream.",
}
"""How a bundle of each task is used."""


def _use(signature: Any) -> str:
    """How a bundle is used, by its task; without one, what is possible."""
    if signature.task is not None:
        return USE[type(signature.task).__name__]
    ways = (
        *(["export it with --task"] if len(signature.inputs) == 1 else []),
        *(["answer a pipe with --stream"] if signature.streaming != "none" else []),
        "call it from Python with lstm_deploy.open",
    )
    return f"This bundle does not say what its model is for; {', or '.join(ways)}."


def _refuse_unused(context: typer.Context, task: Any, *, stream: bool, samples: bool) -> None:
    """Raise `InputError` for options that have no effect on a bundle of this task."""
    sampling = TextOptions.__struct_fields__
    match type(task).__name__:
        case "Forecast":
            effects.refuse(context, "on a bundle that forecasts", *sampling)
            if stream:
                effects.refuse(context, "with --stream, which answers each row", "steps")
        case "LanguageModel":
            effects.refuse(context, "on a bundle that continues text", "plot")
            if not samples:
                effects.refuse(context, "without --temperature above 0", "top_k", "seed")
        case "Classify":
            effects.refuse(context, "on a bundle that classifies", "plot", "steps", *sampling)
        case _:
            effects.refuse(context, "on a bundle without a task", "plot", "steps", *sampling)


def _check_outputs(bundle: Path, file: Path | None, output: Path | None, plot: Path | None) -> None:
    """Raise `InputError` for files that cannot be written, before anything is computed."""
    from lstm_deploy.artifacts import check_output

    read = (file, *(bundle.iterdir() if bundle.is_dir() else [bundle]))
    for path in (output, plot):
        if path is not None:
            check_output(path, *read)
    if output is not None and plot is not None and output.resolve() == plot.resolve():
        raise InputError(f"{output} cannot be both the forecast and its plot; give another name to one of them.")


def _answer(
    model: Any,
    on: dict[str, str],
    file: Path | None,
    prompts: list[str] | None,
    steps: int | None,
    text: TextOptions,
    plot: Path | None,
) -> tuple[str, Any]:
    """Text and JSON of what the model gives for a file or for prompts."""
    from lstm_deploy.contract import Classify, Forecast, LanguageModel

    match model.signature.task:
        case Forecast() as task if file and not prompts:
            return _forecast(model, task, file, steps or task.horizon, on, plot)
        case LanguageModel() as task if prompts and not file:
            return _generate(model, task, prompts, steps or 200, text, on)
        case Classify() as task if file and not prompts:
            return _classify(model, task, file, on)
        case _:
            raise InputError(_use(model.signature))


def _forecast(
    model: Any, task: Any, file: Path, steps: int, on: dict[str, str], plot: Path | None
) -> tuple[str, dict[str, Any]]:
    """CSV and JSON of the values that follow a series."""
    from lstm_deploy.cli import predictions
    from lstm_deploy.exporters import report
    from lstm_deploy.training import read_series

    series = read_series(file, task.features, fixed=True)
    if series.filled:
        console.note(f"{series.filled} missing value(s) take the latest value before them.")
    values = predictions.forecast(model, task, series, steps, on)
    if console.is_terminal():
        following = f"The next {steps} steps" if steps > 1 else "The next step"
        console.note(f"{following} after {series.labels[-1]}, the last of {file}:")
    lines = [",".join(("step", *task.targets))]
    lines += [",".join((str(step), *(f"{value:.6g}" for value in row))) for step, row in enumerate(values, 1)]
    if plot:
        from lstm_deploy.training import plots

        columns = [series.columns.index(name) for name in task.targets]
        past = series.values[-3 * task.window :, columns]
        labels = (*series.labels[-len(past) :], *(f"+{step}" for step in range(1, steps + 1)))
        report.save_plot(plots.forecast_plot(task.targets, labels, past, values), plot)
        console.note(f"wrote {plot}")
    return "\n".join(lines), {"last": series.labels[-1], "targets": task.targets, "values": values.tolist()}


def _generate(
    model: Any, task: Any, prompts: list[str], steps: int, text: TextOptions, on: dict[str, str]
) -> tuple[str, Any]:
    """Text and JSON of what follows each prompt."""
    from lstm_deploy.cli import predictions

    continuations = predictions.generate(model, task, prompts, steps, where=on, **_sampling(text), stop=text.stop or "")
    pairs = list(zip(prompts, continuations, strict=True))
    documents = [{"prompt": prompt, "text": continuation} for prompt, continuation in pairs]
    return "\n".join(map("".join, pairs)), documents[0] if len(documents) == 1 else documents


def _classify(model: Any, task: Any, file: Path, on: dict[str, str]) -> tuple[str, list[dict[str, Any] | None]]:
    """Text and JSON of the class of each text in a file; a blank one has a blank answer, so that lines correspond."""
    from lstm_deploy.cli import predictions

    kind, texts = _texts(model, file)
    classes = []
    for number, text in enumerate(texts, 1):
        try:
            classes.append(predictions.classify(model, task, text, on) if text.strip() else None)
        except InputError as error:
            raise InputError(f"{kind} {number} of {file}: {error}") from error
    answer = "\n".join("" if found is None else str(found) for found in classes)
    return answer, [None if found is None else found._asdict() for found in classes]


def _texts(model: Any, file: Path) -> tuple[str, list[str]]:
    """The rows of a CSV with the column of texts that the training read; else the lines; and which of the two."""
    from lstm_deploy.artifacts import read_text
    from lstm_deploy.training import texts_of

    if file.suffix.lower() == ".csv":
        training = (model.bundle.manifest.training if model.bundle else None) or {}
        column = (training.get("data") or {}).get("text_column") or "text"
        texts = texts_of(file, column)
        if texts is not None:
            return "Row", texts
        console.note(f"{file} has no column {column!r}, so each line is a text, the first one too.")
    return "Line", read_text(file).removesuffix("\n").split("\n")


def _stream(model: Any, on: dict[str, str], text: TextOptions, steps: int | None, raw: bool, json: bool) -> None:
    from lstm_deploy.cli import piping
    from lstm_deploy.contract import Classify, LanguageModel

    if sys.stdin is None or sys.stdout is None:
        raise InputError("--stream needs standard input and standard output; one of them is closed.")
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    match model.signature.task:
        case LanguageModel() | Classify() if raw:
            raise InputError("Raw frames are of numbers and this model takes text; leave out --raw.")
        case LanguageModel() as task:
            stop = text.stop if text.stop is not None else "\n" if "\n" in task.vocabulary else ""
            options = {"steps": steps or 200, "stop": stop, **_sampling(text)}
            piping.pipe_texts(piping.continuation(model, task, on, as_json=json, **options), source, sink)
        case Classify() as task:
            piping.pipe_texts(piping.classification(model, task, on, as_json=json), source, sink)
        case _ if raw:
            piping.pipe_frames(model, source, sink, on)
        case _:
            piping.pipe_values(model, source, sink, on, as_json=json)


def _sampling(text: TextOptions) -> dict[str, Any]:
    return {"temperature": text.temperature, "top_k": text.top_k, "seed": text.seed}
