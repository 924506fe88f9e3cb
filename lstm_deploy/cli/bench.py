"""`lstm-deploy bench` and `lstm-deploy compare`: latency, and what became slower."""

from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from lstm_deploy.cli import arguments, completion, console, next_steps
from lstm_deploy.cli.options import (
    JsonFlag,
    Panel,
    Provider,
    RecordFlag,
    ReferenceOption,
    SourceOptions,
    argument,
    grouped,
    option,
)
from lstm_deploy.cli.recording import record_in
from lstm_deploy.errors import InputError

if TYPE_CHECKING:
    from lstm_deploy.cli.layout import Part

BASELINES = (
    *("eager", "eager-tf32", "eager-no-onednn", "eager-graph", "torchscript-trace", "compile", "stock-onnx"),
    *("stock-fixed", "legacy-onnx", "legacy-int8", "openvino", "openvino-bf16", "floor"),
)
"""`benchmark.BASELINES`: named here, too, because help must not wait for it."""

USUAL_PROVIDERS = ["cpu"]
USUAL_SCENARIOS = ["stream", "sequence"]
USUAL_SCOPES = ["end_to_end", "resident"]
USUAL_BATCHES = ["1", "32"]
USUAL_THREADS = ["1"]
USUAL_BASELINES = ["eager", "eager-no-onednn", "floor"]

TargetsArgument = Annotated[
    list[Path],
    argument(
        "TARGETS",
        "Bundles or artifacts, or one result of --json to show again.",
        autocompletion=completion.targets,
    ),
]
ProviderOption = Annotated[
    list[str],
    option(
        Panel.MACHINE,
        metavar="PROVIDER,…",
        help="cpu, cuda or tensorrt.",
        autocompletion=completion.listed(get_args(Provider)),
    ),
]
ScenarioOption = Annotated[
    list[str],
    option(
        Panel.CASES,
        metavar="SCENARIO,…",
        help="stream: one step a call; sequence: many steps a call; rollout: the model fed with its own outputs.",
        autocompletion=completion.listed(("stream", "sequence", "rollout")),
    ),
]
ScopeOption = Annotated[
    list[str],
    option(
        Panel.CASES,
        metavar="SCOPE,…",
        help="end_to_end: with the copies from your arrays and to them; resident: without.",
        autocompletion=completion.listed(USUAL_SCOPES),
    ),
]
BatchOption = Annotated[list[str], option(Panel.CASES, metavar="N,…", help="Batch sizes.")]
SeqLenOption = Annotated[
    list[str] | None,
    option(
        Panel.CASES,
        metavar="N,…",
        help="Steps of a call, in sequence and rollout. [default: what the model fixes, else 100]",
    ),
]
ThreadsOption = Annotated[list[str], option(Panel.MACHINE, metavar="N,…", help="Threads within one operator.")]
BaselineOption = Annotated[
    list[str],
    option(
        Panel.REFERENCE,
        metavar="BASELINE,…",
        help=f"What to time beside the artifacts: {', '.join(BASELINES)}; all or none. Ratios are to the first, but "
        "never to floor, a model that computes nothing.",
        autocompletion=completion.listed((*BASELINES, "all", "none")),
    ),
]
RoundsOption = Annotated[
    int, option(Panel.CASES, metavar="N", min=9, help="Most rounds; each times everything once. At least 9.")
]
SeedOption = Annotated[int, option(Panel.CASES, metavar="N", min=0, help="Seed of the order within a round.")]
RooflineFlag = Annotated[bool, option(Panel.MACHINE, help="Measure this machine's limits, to compare with.")]
UnvalidatedFlag = Annotated[
    bool, option(Panel.CASES, "--unvalidated", help="Time artifacts that were not validated, too.")
]
PlotOption = Annotated[
    Path | None,
    option(
        Panel.OUTPUT,
        metavar="PATH",
        help="Plot the latencies (.png, .svg, .pdf); a folder for all plots.",
    ),
]
TableOption = Annotated[
    Path | None, option(Panel.OUTPUT, metavar="FILE", help="Write the table as Markdown (.md) or CSV (.csv).")
]
JsonOption = Annotated[
    str | None,
    option(Panel.OUTPUT, "--json", metavar="FILE", help="Write all figures as JSON; - prints them and nothing else."),
]

FailOverOption = Annotated[
    str, option(Panel.PROOF, metavar="PART", help="How much slower a row may become, as 5% or 0.05.")
]


@grouped
def bench(
    targets: TargetsArgument,
    *,
    provider: ProviderOption = USUAL_PROVIDERS,
    scenario: ScenarioOption = USUAL_SCENARIOS,
    scope: ScopeOption = USUAL_SCOPES,
    batch: BatchOption = USUAL_BATCHES,
    seq_len: SeqLenOption = None,
    threads: ThreadsOption = USUAL_THREADS,
    baseline: BaselineOption = USUAL_BASELINES,
    reference: ReferenceOption = None,
    source: SourceOptions,
    rounds: RoundsOption = 150,
    seed: SeedOption = 0,
    roofline: RooflineFlag = True,
    unvalidated: UnvalidatedFlag = False,
    record: RecordFlag = True,
    plot: PlotOption = None,
    table: TableOption = None,
    json: JsonOption = None,
) -> None:
    """Measure latency, beside PyTorch and other runtimes.

    Artifacts and what they are compared with take turns, round after round, and carry their state as in use.
    """
    from lstm_deploy.artifacts import Bundle
    from lstm_deploy.benchmark import Plan, bench_report, runner

    _check_outputs(plot, table, json, (*targets, reference))
    if len(targets) > 1 and any(target.suffix == ".json" for target in targets):
        raise InputError("One .json is shown at a time; lstm-deploy compare holds two against each other.")
    if targets[0].suffix == ".json":
        _show(bench_report.read(targets[0]), plot, table, json)
        return
    names: dict[tuple[str, ...], tuple[str, ...]] = {("all",): BASELINES, ("none",): ()}
    chosen = arguments.choices("baseline", baseline)
    plan = Plan(
        scenarios=arguments.choices("scenario", scenario),
        scopes=arguments.choices("scope", [each.replace("-", "_") for each in scope]),
        batches=arguments.sizes("batch", batch),
        seq_lens=arguments.sizes("seq-len", seq_len) if seq_len else (),
        threads=arguments.sizes("threads", threads),
        providers=arguments.choices("provider", provider),
        baselines=names.get(chosen, chosen),
        rounds=rounds,
        seed=seed,
        roofline=roofline,
        unvalidated=unvalidated,
    )
    recorded = Bundle(targets[0]) if record and len(targets) == 1 and targets[0].is_dir() else None
    with console.progress("bench") as on_progress:
        model = arguments.origin(reference, source) if reference else None
        document = runner.bench(targets, plan, reference=model, on_progress=on_progress)
    if recorded is not None:
        record_in(recorded, lambda _: {"measurements": dict(document.without_samples())})
    _show(document, plot, table, json)
    if len(targets) == 1 and targets[0].is_dir():
        console.say_next(*next_steps.embed(Bundle(targets[0]), targets[0]))


def compare(
    old: Annotated[Path, argument("OLD", "Result of bench --json.")],
    new: Annotated[Path, argument("NEW", "A later result, from the same machine.")],
    fail_over: FailOverOption = "5%",
    force: Annotated[bool, option(Panel.PROOF, "--force", help="Compare results from different machines.")] = False,
    json: JsonFlag = False,
) -> None:
    """Compare two benchmarks, and fail if something became slower.

    Noise and chance are allowed for. The exit code is 5 if a row became significantly slower.
    """
    import msgspec

    from lstm_deploy.benchmark import comparison

    allowed = arguments.part("fail-over", fail_over)
    assert allowed is not None
    compared = comparison.compare(old, new, allowed=allowed, force=force)
    if json:
        console.say_json({**msgspec.to_builtins(compared), "passed": compared.passed})
    else:
        _show_comparison(compared)
    if compared.regressions:
        raise typer.Exit(5)


def _show_comparison(compared: Any) -> None:
    from lstm_deploy.benchmark import comparison

    headings, rows = comparison.table(compared)
    colours = {"slower": console.BAD, "faster": console.GOOD}
    cells: list[list[Part]] = [[*row[:-1], (row[-1], colours.get(row[-1], console.FAINT))] for row in rows]
    console.say_table(headings, cells, optional=(comparison.CHANCE, comparison.RELATIVE))
    for note in compared.notes:
        console.warn(note, "differs")
    if compared.missing:
        console.warn("; ".join(compared.missing).replace("_", " "), "not measured again")
    console.say()
    slower, allowed = len(compared.regressions), f"over {100 * compared.allowed:g} %"
    if slower:
        console.say(("SLOWER ", console.BAD), f" {slower} of {len(compared.changes)} rows, by {allowed}.")
    else:
        console.say(("OK ", console.GOOD), f" no significant slowdown {allowed}.")
    for line in _footnotes(compared):
        console.note((line, console.FAINT), hang=2)


def _footnotes(compared: Any) -> list[str]:
    """What the verdicts mean that appear, where the figures beside them do not say it."""
    from lstm_deploy.benchmark import NO_DIFFERENCE

    lines = []
    if any(change.verdict != NO_DIFFERENCE for change in compared.changes):
        lines.append("slower, faster: in µs and relative to the baseline, by more than the noise of both benchmarks.")
    limit = 1 + compared.allowed
    silent = [change for change in compared.changes if change.verdict == NO_DIFFERENCE]
    if any(not 1 / limit < change.new_us / change.old_us < limit for change in silent):
        lines.append(f"{NO_DIFFERENCE}: within noise, or the baseline changed alike.")
    return lines


def _check_outputs(plot: Path | None, table: Path | None, json: str | None, inputs: Sequence[Path | None]) -> None:
    """Raise `InputError` for files that could not be written after a long measurement."""
    from lstm_deploy.artifacts import check_output
    from lstm_deploy.benchmark import tables
    from lstm_deploy.exporters import report

    if json and json.startswith("-") and json != "-":
        raise InputError("--json needs a file name, or - for standard output.")
    for path in (plot, table, Path(json) if json and json != "-" else None):
        if path and not path.absolute().parent.is_dir():
            raise InputError(f"{path.parent} is not a directory; make it, or choose another place for {path.name}.")
        if path:
            check_output(path, *inputs)
    if plot:
        report.check_plot(plot)
    if table and table.suffix not in tables.WRITERS:
        raise InputError(f"--table {table} is neither .md nor .csv; name one of these.")


def _show(document: dict[str, Any], plot: Path | None, table: Path | None, json: str | None) -> None:
    from lstm_deploy.benchmark import tables
    from lstm_deploy.cli import bench_screen

    if json == "-":
        console.say_json(document)
    else:
        bench_screen.show(document)
    if json and json != "-":
        console.write_text(Path(json), dumps(document, indent=1) + "\n")
    if table:
        console.write_text(table, tables.WRITERS[table.suffix](document))
    if plot:
        _draw(document, plot)


def _draw(document: dict[str, Any], plot: Path) -> None:
    from lstm_deploy.benchmark import plots
    from lstm_deploy.exporters import report

    if plot.suffix:
        report.save_plot(plots.latency_plot(document), plot)
    else:
        plot.mkdir(parents=True, exist_ok=True)
        for name, figure in plots.plots(document).items():
            report.save_plot(figure, plot / f"{name}.png")
