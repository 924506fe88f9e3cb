"""The command line: one short function for each command, its imports inside, so that help comes at once."""

import os
import signal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lstm_deploy.cli import arguments, console
from lstm_deploy.cli.train import ForceFlag, JsonFlag, quoted, train
from lstm_deploy.errors import InputError


class Commands(TyperGroup):
    """All commands, each with the same way of reporting errors."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        with console.handled_errors():
            return super().invoke(ctx)


app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Take an LSTM out of PyTorch: ONNX and TorchScript with explicit state, proven equal, measured.",
)


class Purpose(StrEnum):
    """What a network of others was made to do."""

    forecast = "forecast"
    lm = "lm"
    classify = "classify"


class Unit(StrEnum):
    """What a text is cut into."""

    word = "word"
    character = "character"


class Policy(StrEnum):
    """Where a new sequence starts."""

    reset = "reset"
    carry = "carry"


class RuntimeName(StrEnum):
    """What runs an artifact."""

    onnx = "onnx"
    native = "native"
    torchscript = "torchscript"


class Layout(StrEnum):
    """Order of the axes of h and c."""

    layers_first = "layers-first"
    batch_first = "batch-first"


class Quantize(StrEnum):
    """How to quantize."""

    int8 = "int8"
    auto = "auto"


class Int8Cpus(StrEnum):
    """Where int8 ONNX must be right."""

    any = "any"
    vnni = "vnni"


class StateType(StrEnum):
    """Numbers of h and c."""

    float16 = "float16"
    float32 = "float32"


ModelOption = Annotated[
    str | None, typer.Option(help="Class that the weights belong to: FILE.py:Class or package.module:Class.")
]
InitOption = Annotated[str | None, typer.Option(help="Arguments of the class, as a JSON object.")]
KeyOption = Annotated[str | None, typer.Option(help="Entry of the file that holds the weights.")]
InputOption = Annotated[
    list[str] | None,
    typer.Option("--input", help="NAME:DTYPE[DIMS] of an argument of forward, as x:float32[batch,seq,40]; repeatable."),
]
TrustFlag = Annotated[
    bool, typer.Option("--trust-pickle", help="Open a pickle of a whole module, which can run any code.")
]


def main() -> None:
    """Entry point of `lstm-deploy`."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as after Ctrl-C
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # each int8 file's loading would print a deprecation
    app(prog_name="lstm-deploy")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        console.say(version("lstm-deploy"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Take an LSTM out of PyTorch: ONNX and TorchScript with explicit state, proven equal, measured."""


app.command(name="train")(train)


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="Checkpoint of ours, or any file of PyTorch weights.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Bundle to write [default: exported/SOURCE's name].")
    ] = None,
    format: Annotated[  # noqa: A002 - the option's name
        list[str] | None,
        typer.Option(help="onnx, torchscript or c; repeat for several [default: onnx and torchscript]."),
    ] = None,
    model: ModelOption = None,
    init: InitOption = None,
    weights_key: KeyOption = None,
    inputs: InputOption = None,
    trust_pickle: TrustFlag = False,
    task: Annotated[
        Purpose | None, typer.Option(help="What a network of others is for, so that it can be run.")
    ] = None,
    features: Annotated[str | None, typer.Option(help="For --task forecast: columns of x, comma-separated.")] = None,
    target: Annotated[str | None, typer.Option(help="For --task forecast: columns of y [default: all].")] = None,
    window: Annotated[int | None, typer.Option(min=1, help="For --task forecast: rows of one example.")] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(help="For --task lm and classify: JSON list of the tokens' meanings, or the training text."),
    ] = None,
    labels: Annotated[str | None, typer.Option(help="For --task classify: names of the classes.")] = None,
    unit: Annotated[Unit, typer.Option(help="For --task classify: what one token stands for.")] = Unit.word,
    state_policy: Annotated[
        Policy | None, typer.Option(help="Whether training began each example anew, or went on [default: reset].")
    ] = None,
    state_layout: Annotated[Layout, typer.Option(help="Order of the axes of h and c.")] = Layout.layers_first,
    quantize: Annotated[
        Quantize | None, typer.Option(help="Add int8 artifacts; auto: only where they are faster here.")
    ] = None,
    int8_cpus: Annotated[
        Int8Cpus, typer.Option(help="Where int8 ONNX is right; vnni: finer weights that saturate on CPUs without VNNI.")
    ] = Int8Cpus.any,
    half: Annotated[bool, typer.Option("--half", help="Add a float16 artifact, for CUDA.")] = False,
    state_dtype: Annotated[StateType, typer.Option(help="Of the state of the float16 artifact.")] = StateType.float16,
    data: Annotated[
        Path | None,
        typer.Option(help="Measure what is lost on this file [default: what train held out, else drawn inputs]."),
    ] = None,
    max_metric_loss: Annotated[
        str | None,
        typer.Option(
            help="What int8 may lose of the metric, as 1% [default: 1%; without data, 10% of how much outputs vary]."
        ),
    ] = None,
    force: ForceFlag = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and stop.")] = False,
    json: JsonFlag = False,
) -> None:
    """Export a checkpoint, or weights of others, to a bundle of ONNX, TorchScript or C, proven equal to PyTorch."""
    import msgspec

    from lstm_deploy.exporters import Request, pipeline, report

    output = output or Path("exported", source.stem)
    formats = tuple(format or pipeline.USUAL_FORMATS)
    purpose = arguments.task_of(task, features, target, window, vocabulary, labels, unit.value)
    policy: Any = state_policy.value if state_policy else None
    origin = arguments.origin(source, model, init, weights_key, inputs, trust_pickle, purpose, policy)
    request = Request(
        quantize=quantize.value if quantize else None,
        int8_cpus=int8_cpus.value,
        half=half,
        state_dtype=state_dtype.value,
        data=data,
        max_metric_loss=arguments.part("max-metric-loss", max_metric_loss),
    )
    if dry_run:
        _show_plan(pipeline.plan(origin, output, formats, state_layout.value, request, force=force), json)
        return
    bundle = None if force else pipeline.up_to_date(origin, output, formats, state_layout.value, request)
    fresh = bundle is None
    if bundle is None:
        with console.progress("export") as on_progress:
            bundle = pipeline.export(
                origin,
                output,
                formats=formats,
                state_layout=state_layout.value,
                force=force,
                on_progress=on_progress,
                **msgspec.structs.asdict(request),
            )
    if json:
        console.say_json({"bundle": str(output), "written": fresh, **msgspec.to_builtins(bundle.manifest)})
        return
    if not fresh:
        console.say(f"{output} is up to date.")
        return
    for finding in bundle.manifest.findings:
        console.note(f"inferred: {finding}.")
    _show_contract(bundle.signature)
    rows = [[artifact.path, f"{artifact.bytes:,}"] for artifact in bundle.manifest.exported]
    console.say_table(["artifact", "bytes"], rows)
    headings, lowered = report.evidence_table(bundle.manifest)
    if lowered:
        console.say_table(headings, lowered)
    for decision in bundle.manifest.notes:
        console.say(f"{decision}.")
    if reason := report.why_no_rollout(bundle.manifest):
        console.note(f"no rollout: {reason}")
    parity = bundle.manifest.parity
    assert parity is not None
    console.say(f"{len(parity.checks)} checks passed, against {parity.reference}.")
    name = quoted(output)
    use = f"lstm-deploy run {name}" if bundle.signature.task else f"lstm_deploy.open({str(output)!r}) in Python"
    console.note(f"\nwrote {output}\nnext: lstm-deploy bench {name}, {use}, lstm-deploy embed {name} --lang python")


@app.command()
def validate(
    target: Annotated[Path, typer.Argument(help="Bundle, or one artifact.")],
    reference: Annotated[
        Path | None,
        typer.Option(help="Checkpoint or weights to compare with [default: what the bundle was made from]."),
    ] = None,
    model: ModelOption = None,
    init: InitOption = None,
    weights_key: KeyOption = None,
    inputs: InputOption = None,
    trust_pickle: TrustFlag = False,
    map: Annotated[  # noqa: A002 - the option's name
        list[str] | None,
        typer.Option("--map", help="OURS=THEIRS: a name of the contract and the file's for it; repeatable."),
    ] = None,
    provider: Annotated[str, typer.Option(help="cpu, cuda or tensorrt.")] = "cpu",
    atol: Annotated[
        list[str] | None,
        typer.Option(help="Difference to allow in place of the table's: a number, or OUTPUT=NUMBER; repeatable."),
    ] = None,
    rtol: Annotated[
        list[str] | None, typer.Option(help="The same, as a part of the output's size; repeatable.")
    ] = None,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Try more shapes, splits and steps, for minutes.")
    ] = False,
    trust_c: Annotated[
        bool, typer.Option("--trust-c", help="Compile and run C that was not exported on this machine.")
    ] = False,
    record: Annotated[bool, typer.Option(help="Keep the result in the bundle and its report.")] = True,
    json: JsonFlag = False,
) -> None:
    """Prove that artifacts compute what the model computes: y, h and c apart, whole, in chunks, step by step."""
    import msgspec

    from lstm_deploy.artifacts import saturation
    from lstm_deploy.exporters import report
    from lstm_deploy.runtimes import SUFFIXES
    from lstm_deploy.validation import pipeline as validation

    against: Any = reference
    if reference and reference.suffix not in SUFFIXES and not reference.is_dir():
        against = arguments.origin(reference, model, init, weights_key, inputs, trust_pickle)
    with console.progress("validate") as on_progress:
        found = validation.validate(
            target,
            reference=against,
            provider=provider,
            thorough=thorough,
            names=arguments.pairs("map", map),
            atol=arguments.numbers("atol", atol),
            rtol=arguments.numbers("rtol", rtol),
            trust_c=trust_c,
            on_progress=on_progress,
        )
    if found.reference == validation.GOLDEN_TRACE:
        console.note(
            "Only the golden trace is replayed: the source is gone, has changed since, or would have to run code of "
            "yours. To compare with it, give --reference FILE, with the --model, --init and --input of its export."
        )
    elif record and target.is_dir():
        _record_parity(target, provider, found)
    if json:
        console.say_json(msgspec.to_builtins(found))
    else:
        for headings, rows in report.parity_tables(found.checks):
            console.say_table(headings, rows)
        for left_out in found.left_out:
            console.note(f"left out: {left_out}.")
        for check in found.checks:
            if check.detail == saturation.VNNI_ONLY:
                console.note(f"{check.artifact} is {check.detail}.")
        for line in report.parity_failures(found):
            console.say(line)
        failed = len(found.failures)
        verdict = f"{failed} of {len(found.checks)} checks FAILED" if failed else f"{len(found.checks)} checks passed"
        console.say(f"{verdict}, against {found.reference}.")
    if not found.passed:
        raise typer.Exit(3)


@app.command()
def bench(
    targets: Annotated[list[Path], typer.Argument(help="Bundles or artifacts; or one .json, to show it again.")],
    provider: Annotated[str, typer.Option(help="cpu, cuda, tensorrt, or several, comma-separated.")] = "cpu",
    scenario: Annotated[
        str, typer.Option(help="stream: one step a call; sequence: many; rollout: fed with its own outputs.")
    ] = "stream,sequence",
    scope: Annotated[
        str, typer.Option(help="end_to_end: from your arrays to your arrays; resident: without copies.")
    ] = "end_to_end,resident",
    batch: Annotated[str, typer.Option(help="Batch sizes, comma-separated.")] = "1,32",
    seq_len: Annotated[
        str | None,
        typer.Option(
            help="Steps a call of the scenarios sequence and rollout [default: what the model fixes, or 100]."
        ),
    ] = None,
    threads: Annotated[str, typer.Option(help="Threads within one operator.")] = "1",
    baseline: Annotated[
        str,
        typer.Option(
            help="What to compare with, the first of them (but floor) for ratios: eager, eager-no-onednn, eager-tf32, "
            "eager-graph, torchscript-trace, compile, stock-onnx, stock-fixed, legacy-onnx, legacy-int8, openvino, "
            "openvino-bf16, floor; all; none."
        ),
    ] = "eager,eager-no-onednn,floor",
    reference: Annotated[
        Path | None,
        typer.Option(help="Checkpoint or weights of the baselines [default: what the bundle was made from]."),
    ] = None,
    model: ModelOption = None,
    init: InitOption = None,
    weights_key: KeyOption = None,
    inputs: InputOption = None,
    trust_pickle: TrustFlag = False,
    rounds: Annotated[int, typer.Option(min=9, help="Rounds at most; every round times every variant.")] = 150,
    seed: Annotated[int, typer.Option(min=0, help="Of the order within rounds.")] = 0,
    roofline: Annotated[bool, typer.Option(help="Measure what the machine can do, too.")] = True,
    unvalidated: Annotated[
        bool, typer.Option("--unvalidated", help="Time artifacts that have not passed validate.")
    ] = False,
    record: Annotated[bool, typer.Option(help="Keep the result in the bundle and its report.")] = True,
    plot: Annotated[
        Path | None,
        typer.Option(help="Write a plot of the latencies; all plots if it names no format, as a directory."),
    ] = None,
    table: Annotated[Path | None, typer.Option(help="Write the table as Markdown (.md) or CSV (.csv).")] = None,
    json: Annotated[
        str | None,
        typer.Option("--json", help="Write the JSON document to a file; - prints it and nothing else."),
    ] = None,
) -> None:
    """Measure latency: state carried, interleaved with what you would use otherwise, against the machine's limits."""
    from lstm_deploy.benchmark import BASELINES, runner, tables
    from lstm_deploy.exporters import report

    if json and json.startswith("-") and json != "-":
        raise InputError("--json needs a file name, or - for standard output.")
    for path in (plot, table, Path(json) if json else None):
        if path and not path.absolute().parent.is_dir():
            raise InputError(f"{path.parent} is not a directory; make it, or choose another place for {path.name}.")
    if plot:
        report.check_plot(plot)
    if table and table.suffix not in tables.WRITERS:
        raise InputError(f"--table {table} is neither .md nor .csv; name one of these.")
    if len(targets) > 1 and any(target.suffix == ".json" for target in targets):
        raise InputError("One .json is shown at a time; lstm-deploy compare holds two against each other.")
    if [target.suffix for target in targets] == [".json"]:
        _show_benchmark(tables.read(targets[0]), plot, table, json)
        return
    against = None
    if (model or init or weights_key or inputs or trust_pickle) and not reference:
        raise InputError("--model, --init, --weights-key, --input and --trust-pickle describe a --reference; name it.")
    if reference:
        against = arguments.origin(reference, model, init, weights_key, inputs, trust_pickle)
    names = {"all": tuple(BASELINES), "none": ()}
    plan = runner.Plan(
        scenarios=arguments.choices("scenario", scenario),
        scopes=arguments.choices("scope", scope.replace("-", "_")),
        batches=arguments.sizes("batch", batch),
        seq_lens=arguments.sizes("seq-len", seq_len) if seq_len else (),
        threads=arguments.sizes("threads", threads),
        providers=arguments.choices("provider", provider),
        baselines=names[baseline] if baseline in names else arguments.choices("baseline", baseline),
        rounds=rounds,
        seed=seed,
        roofline=roofline,
        unvalidated=unvalidated,
    )
    with console.progress("bench") as on_progress:
        document = runner.bench(targets, plan, on_progress, against)
    if record and len(targets) == 1 and targets[0].is_dir():
        _record(targets[0], measurements=runner.without_samples(document))
    _show_benchmark(document, plot, table, json)


@app.command()
def compare(
    old: Annotated[Path, typer.Argument(help="Result of bench --json.")],
    new: Annotated[Path, typer.Argument(help="A later one, of the same machine.")],
    fail_over: Annotated[str, typer.Option(help="How much slower a row may be.")] = "5%",
    force: Annotated[bool, typer.Option("--force", help="Compare different machines.")] = False,
    json: JsonFlag = False,
) -> None:
    """Tell what became slower between two benchmarks, and is no chance; exit code 5 where something did."""
    import msgspec

    from lstm_deploy.benchmark import comparison, tables

    allowed = arguments.part("fail-over", fail_over)
    assert allowed is not None
    found = comparison.compare(tables.read(old), tables.read(new), allowed=allowed, force=force)
    if json:
        console.say_json({**msgspec.to_builtins(found), "passed": not found.regressions})
    else:
        console.say_table(*comparison.table(found))
        console.note(
            "times: the new over the old, in µs or beside the baseline, whichever says less; 1 where they disagree."
        )
        for note in found.notes:
            console.note(note)
        for missing in found.missing:
            console.note(f"not measured again: {missing}")
        slower = len(found.regressions)
        verdict = f"{slower} of {len(found.changes)} rows are SLOWER" if slower else "no row is slower"
        console.say(f"{verdict} by more than {allowed:.0%}, noise and chance.")
    if found.regressions:
        raise typer.Exit(5)


@app.command()
def run(
    bundle: Annotated[Path, typer.Argument(help="Bundle to use.")],
    input: Annotated[  # noqa: A002 - the option's name
        Path | None,
        typer.Option(help="Series to forecast from (CSV, Parquet, .npz, .npy), or lines of text to classify."),
    ] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="Text to go on from; repeatable.")] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Read standard input line by line, and answer each line at once.")
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="With --stream: frames of float32, little-endian, in place of lines.")
    ] = False,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many values or characters [1; lm: 200]; several need a model whose features are all targets.",
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, max=1e6, help="Of sampling; 0 takes the likeliest.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, max=2**31, help="Draw from so many of the likeliest; 0: from all.")] = 0,
    stop: Annotated[
        str | None, typer.Option(help="Character that ends the text [with --stream: a line's end].")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of sampling.")] = 0,
    runtime: Annotated[
        RuntimeName | None,
        typer.Option(
            help="What runs it; native compiles C, torchscript needs PyTorch [default: the first that it has]."
        ),
    ] = None,
    provider: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    precision: Annotated[str, typer.Option(help="float32, int8 or float16.")] = "float32",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a plot of the forecast.")] = None,
    json: JsonFlag = False,
) -> None:
    """Use a bundle: forecast a series, go on from a text, classify lines, or answer a pipe. PyTorch is not needed."""
    from lstm_deploy.contract import Classify, Forecast, LanguageModel
    from lstm_deploy.runtimes import streams

    if plot:
        from lstm_deploy.exporters import report

        report.check_plot(plot)
    if raw and not stream:
        raise InputError("--raw is for pipes; add --stream.")
    model = streams.open(bundle)
    where = {"provider": provider, "precision": precision, **({"runtime": runtime.value} if runtime else {})}
    sampling = {"temperature": temperature, "top_k": top_k, "seed": seed}
    _check_use(model.signature.task, stream, plot=plot, steps=steps, stop=stop, **sampling)
    if stream:
        if raw and json:
            raise InputError("--raw gives frames, not JSON; leave one of them out.")
        if input or prompt or output or plot:
            raise InputError("--stream reads standard input and writes standard output; leave out files and --prompt.")
        _run_stream(model, where, sampling, steps, stop, raw, json)
        return
    match model.signature.task:
        case Forecast() as task:
            if input is None or prompt:
                raise InputError(
                    "This bundle forecasts series; give one with --input FILE, or a pipe with --stream, no --prompt."
                )
            _run_forecast(model, task, input, steps or task.horizon, where, output, plot, json)
        case LanguageModel() as task:
            if not prompt or input is not None:
                raise InputError(
                    "This bundle continues text; give some with --prompt TEXT, or a pipe with --stream, no --input."
                )
            _run_generation(model, task, prompt, steps or 200, stop, sampling, where, output, json)
        case Classify() as task:
            if input is None or prompt:
                raise InputError("This bundle classifies text; give lines with --input FILE, or a pipe with --stream.")
            _run_classification(model, task, input, where, output, json)
        case None:
            raise InputError(
                "This bundle does not say what its model is for; export it with --task, answer a pipe with --stream, "
                "or call it from Python with lstm_deploy.open."
            )


@app.command()
def embed(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle to write a client of.")] = None,
    lang: Annotated[str | None, typer.Option(help="Language of the client; --list says which there are.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder to write to [default: BUNDLE-LANG, here].")
    ] = None,
    precision: Annotated[str, typer.Option(help="float32 or int8.")] = "float32",
    force: ForceFlag = False,
    list_: Annotated[bool, typer.Option("--list", help="Say which languages there are, and what each needs.")] = False,
    json: JsonFlag = False,
) -> None:
    """Write a client of a bundle in another language: its state, task and a golden trace to replay included."""
    from lstm_deploy.artifacts import saturation
    from lstm_deploy.embedding import generate

    if list_:
        _show_languages(generate.LANGUAGES, json)
        return
    if bundle is None or lang is None:
        missing = "a bundle" if bundle is None else f"--lang, one of {', '.join(generate.LANGUAGES)}"
        raise InputError(f"embed needs {missing}; lstm-deploy embed --list says what there is.")
    folder = output or Path(f"{bundle.resolve().name}-{lang}")
    files = generate.embed(bundle, folder, lang, precision=precision, force=force)
    if generate.needs_vnni(bundle, files):
        console.note(f"{folder} holds a model {saturation.VNNI_ONLY}.")
    if json:
        console.say_json({"folder": str(folder), "language": lang, "precision": precision, "files": files})
        return
    console.say(f"wrote {folder}: {', '.join(files)}")
    console.note(f"next: cd {quoted(folder)} && {generate.LANGUAGES[lang].run}")


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="Bundle, checkpoint, weights, .onnx, .torchscript or .c.")],
    json: JsonFlag = False,
) -> None:
    """Say what a file is: contract, sizes, operators, and what is wrong with it."""
    from lstm_deploy.cli import inspection

    document = inspection.inspect(path)
    if json:
        console.say_json(document)
        return
    console.say(f"{path}: {document['kind']}, {document['bytes']:,} bytes")
    contract = inspection.contract_of(document)
    if contract:
        _show_contract(contract)
    hidden = {
        "kind",
        "bytes",
        "contract",
        "lint",
        "artifacts",
        "rollouts",
        "inferred",
        "functions",
        *(("inputs", "outputs") if contract else ()),
    }
    for finding in document.get("inferred", ()):
        console.say(f"inferred: {finding}")
    for head in document.get("functions", ()):
        console.say(f"  {' '.join(head.split())};")
    for key, value in document.items():
        if key not in hidden and value not in (None, [], (), {}):
            console.say(f"{key}: {_flat(value)}")
    for artifact in (*document.get("artifacts", ()), *document.get("rollouts", ())):
        line = f"{artifact['path']}: {artifact['format']} {artifact['precision']}, {artifact['bytes']:,} bytes"
        if found := artifact["evidence"]:
            layers = f"{found['lowered_layers']} of {found['lstm_layers']} LSTM layers"
            line += f", {layers}, {found['metric'] or 'outputs'} off by {found['loss']:.2%} of float32's"
        console.say(line)
    for defect in document.get("lint", ()):
        console.say(f"lint: {defect}")
    if document.get("lint") == []:
        console.say("lint: nothing wrong was found")


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory to write to.")] = Path("exported/demo"),
) -> None:
    """Train, export, validate, measure and use two models on data that every install has; takes 2 minutes."""
    from lstm_deploy.cli import demonstration

    demonstration.show(output, lambda *words: app(words, prog_name="lstm-deploy", standalone_mode=False))


@app.command()
def env(json: JsonFlag = False) -> None:
    """Versions, CPU, GPU, and the execution providers that really load: for bug reports."""
    from lstm_deploy.artifacts import environment
    from lstm_deploy.runtimes import probe_providers

    described = environment.describe()
    document = {**described, "cpu_limits": environment.cpu_limits(described["cpu"]), "providers": probe_providers()}
    if json:
        console.say_json(document)
        return
    for key, value in document.items():
        console.say(f"{key}: {_flat(value) or 'none'}")


def _check_use(task: Any, stream: bool, **given: Any) -> None:
    """Raise `InputError` for options that mean nothing for a bundle of this task."""
    from lstm_deploy.contract import Classify, Forecast, LanguageModel

    sampling = ("temperature", "top_k", "stop", "seed")
    unused: dict[type, tuple[str, ...]] = {
        Forecast: (*sampling, "steps") if stream else sampling,
        LanguageModel: ("plot",),
        Classify: ("plot", "steps", *sampling),
        type(None): ("plot", "steps", *sampling),
    }
    if wrong := [name for name in unused[type(task)] if given[name]]:
        raise InputError(f"--{wrong[0].replace('_', '-')} means nothing for this bundle here; leave it out.")


def _run_forecast(
    model: Any,
    task: Any,
    file: Path,
    steps: int,
    where: dict[str, str],
    output: Path | None,
    plot: Path | None,
    json: bool,
) -> None:
    from lstm_deploy.cli import inference
    from lstm_deploy.exporters import report
    from lstm_deploy.training import plots, read_series

    series = read_series(file, task.features)
    if series.filled:
        console.note(f"{series.filled} missing value(s) take the latest value before them.")
    values = inference.forecast(model, task, series, steps, where)
    lines = [",".join(("step", *task.targets))]
    lines += [",".join((str(step), *(f"{value:.6g}" for value in row))) for step, row in enumerate(values, 1)]
    if plot:
        columns = [series.columns.index(name) for name in task.targets]
        past = series.values[-3 * task.window :, columns]
        labels = (*series.labels[-len(past) :], *(f"+{step}" for step in range(1, steps + 1)))
        report.save_plot(plots.forecast_plot(task.targets, labels, past, values), plot)
        console.note(f"wrote {plot}")
    document = {"last": series.labels[-1], "targets": task.targets, "values": values.tolist()}
    _show_result("\n".join(lines), document, output, json)


def _run_generation(
    model: Any,
    task: Any,
    prompts: list[str],
    steps: int,
    stop: str | None,
    sampling: dict[str, Any],
    where: dict[str, str],
    output: Path | None,
    json: bool,
) -> None:
    from lstm_deploy.cli import inference

    texts = inference.generate(model, task, prompts, steps, stop=stop or "", where=where, **sampling)
    documents = [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)]
    whole = "\n".join(prompt + text for prompt, text in zip(prompts, texts, strict=True))
    _show_result(whole, documents[0] if len(documents) == 1 else documents, output, json)


def _run_classification(
    model: Any, task: Any, file: Path, where: dict[str, str], output: Path | None, json: bool
) -> None:
    from lstm_deploy.artifacts import read_text
    from lstm_deploy.cli import inference

    found = []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if not line.strip():
            continue
        try:
            found.append(inference.classify(model, task, line, where))
        except InputError as error:
            raise InputError(f"Line {number} of {file}: {error}") from error
    text = "\n".join(map(str, found))
    _show_result(text, [verdict._asdict() for verdict in found], output, json)


def _run_stream(
    model: Any,
    where: dict[str, str],
    sampling: dict[str, Any],
    steps: int | None,
    stop: str | None,
    raw: bool,
    json: bool,
) -> None:
    import sys

    from lstm_deploy.cli import piping
    from lstm_deploy.contract import Classify, LanguageModel

    if sys.stdin is None or sys.stdout is None:
        raise InputError("--stream needs standard input and standard output; one of them is closed.")
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    match model.signature.task:
        case LanguageModel() | Classify() if raw:
            raise InputError("Raw frames are of numbers and this model takes text; leave out --raw.")
        case LanguageModel() as task:
            end = stop if stop is not None else "\n" if "\n" in task.vocabulary else ""
            options = {"steps": steps or 200, "stop": end, **sampling}
            piping.pipe_texts(piping.continuation(model, task, where, as_json=json, **options), source, sink)
        case Classify() as task:
            piping.pipe_texts(piping.verdict(model, task, where, as_json=json), source, sink)
        case _ if raw:
            piping.pipe_frames(model, source, sink, where)
        case _:
            piping.pipe_values(model, source, sink, where, as_json=json)


def _show_result(text: str, document: Any, output: Path | None, json: bool) -> None:
    """The text to a file, or to standard output; JSON there in any case where it is asked for."""
    from lstm_deploy.artifacts import atomic_write

    if output:
        with atomic_write(output) as partial:
            partial.write_text(text + "\n", encoding="utf-8")
        console.note(f"wrote {output}")
    if json:
        console.say_json(document)
    elif not output:
        console.say(text)


def _record_parity(target: Path, provider: str, found: Any) -> None:
    from lstm_deploy.artifacts import Bundle

    if provider == "cpu":
        _record(target, parity=found)
    else:
        _record(target, parity_elsewhere={**Bundle(target).manifest.parity_elsewhere, provider: found})


def _record(target: Path, **fields: Any) -> None:
    from lstm_deploy.artifacts import Bundle
    from lstm_deploy.exporters import report

    bundle = Bundle(target)
    try:
        bundle.update(**fields)
        report.write(bundle)
    except OSError as error:
        console.note(f"not recorded in {target}: {error.strerror}.")


def _show_benchmark(document: dict[str, Any], plot: Path | None, table: Path | None, json: str | None) -> None:
    from lstm_deploy.artifacts import atomic_write
    from lstm_deploy.benchmark import plots as bench_plots, tables
    from lstm_deploy.exporters import report

    if json and json != "-":
        _write_json(Path(json), document)
    if json == "-":
        console.say_json(document)
    else:
        console.say_table(*tables.table(document))
    for reason in document["left_out"]:
        console.note(f"left out: {reason}.")
    for warning in tables.warnings(document):
        console.note(warning)
    for line in tables.notes(document):
        console.note(line)
    if table:
        with atomic_write(table) as partial:
            partial.write_text(tables.WRITERS[table.suffix](document), encoding="utf-8")
    if plot and plot.suffix:
        report.save_plot(bench_plots.latency_plot(document), plot)
    elif plot:
        plot.mkdir(parents=True, exist_ok=True)
        for name, figure in bench_plots.plots(document).items():
            report.save_plot(figure, plot / f"{name}.png")


def _show_languages(languages: Any, json: bool) -> None:
    if json:
        console.say_json({name: {"formats": each.formats, "needs": each.needs} for name, each in languages.items()})
        return
    rows = [(name, " or ".join(each.formats), each.needs) for name, each in languages.items()]
    console.say_table(("language", "artifact", "needs"), rows)


def _write_json(path: Path, document: Any) -> None:
    import json

    from lstm_deploy.artifacts import atomic_write

    with atomic_write(path) as partial:
        partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    console.note(f"wrote {path}")


def _show_plan(plan: dict[str, Any], json: bool) -> None:
    import msgspec

    contract = plan["contract"]
    if json:
        console.say_json({**plan, "contract": msgspec.to_builtins(contract)})
        return
    console.say(f"{plan['source']} would be exported to {plan['output']}:")
    console.say(f"  files {', '.join(plan['files'])}")
    for finding in plan["findings"]:
        console.say(f"  inferred: {finding}")
    _show_contract(contract)


def _show_contract(contract: Any) -> None:
    for spec in (*contract.inputs, *contract.state_inputs):
        console.say(f"  in   {spec}")
    for spec in (*contract.outputs, *contract.state_outputs):
        console.say(f"  out  {spec}")
    reason = f" ({contract.streaming_reason})" if contract.streaming_reason else ""
    starts = {"reset": "from the initial state", "carry": "from where the last one ended"}[contract.state_policy]
    console.say(f"  streaming {contract.streaming}{reason}; a new sequence starts {starts} ({contract.state_policy})")


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items() if item not in (None, "", [], {}))
    if isinstance(value, list | tuple):
        text = ", ".join(map(_flat, value))
        return text if len(text) < 200 else f"{len(value)} entries"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
