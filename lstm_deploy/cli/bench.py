"""`lstm-deploy bench` and `lstm-deploy compare`: latency, and what became slower."""

from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lstm_deploy.cli import arguments, console, next_steps
from lstm_deploy.cli.options import JsonFlag, RecordFlag, ReferenceOption, SourceOptions, grouped
from lstm_deploy.cli.recording import record_in
from lstm_deploy.errors import InputError

if TYPE_CHECKING:
    from lstm_deploy.cli.layout import Part

ScenarioOption = Annotated[
    str, typer.Option(help="stream: one step a call; sequence: many; rollout: fed with its own outputs.")
]
ScopeOption = Annotated[
    str, typer.Option(help="end_to_end: from your arrays to your arrays; resident: without copies.")
]
SeqLenOption = Annotated[
    str | None,
    typer.Option(help="Steps a call of the scenarios sequence and rollout [default: what the model fixes, or 100]."),
]
BaselineOption = Annotated[
    str,
    typer.Option(
        help="What to compare with; ratios are to the first but floor: eager, eager-no-onednn, eager-tf32, "
        "eager-graph, torchscript-trace, compile, stock-onnx, stock-fixed, legacy-onnx, legacy-int8, openvino, "
        "openvino-bf16, floor; all; none."
    ),
]
RoundsOption = Annotated[int, typer.Option(min=9, help="Rounds at most; every round times every variant.")]
PlotOption = Annotated[
    Path | None,
    typer.Option(help="Write a plot of the latencies; all plots if it names no format, as a directory."),
]
TableOption = Annotated[Path | None, typer.Option(help="Write the table as Markdown (.md) or CSV (.csv).")]
JsonOption = Annotated[
    str | None, typer.Option("--json", help="Write the JSON document to a file; - prints it and nothing else.")
]


@grouped
def bench(
    targets: Annotated[list[Path], typer.Argument(help="Bundles or artifacts; or one .json, to show it again.")],
    *,
    provider: Annotated[str, typer.Option(help="cpu, cuda, tensorrt, or several, comma-separated.")] = "cpu",
    scenario: ScenarioOption = "stream,sequence",
    scope: ScopeOption = "end_to_end,resident",
    batch: Annotated[str, typer.Option(help="Batch sizes, comma-separated.")] = "1,32",
    seq_len: SeqLenOption = None,
    threads: Annotated[str, typer.Option(help="Threads within one operator.")] = "1",
    baseline: BaselineOption = "eager,eager-no-onednn,floor",
    reference: ReferenceOption = None,
    source: SourceOptions,
    rounds: RoundsOption = 150,
    seed: Annotated[int, typer.Option(min=0, help="Of the order within rounds.")] = 0,
    roofline: Annotated[bool, typer.Option(help="Measure the limits of the machine, too.")] = True,
    unvalidated: Annotated[bool, typer.Option("--unvalidated", help="Time artifacts that were not validated.")] = False,
    record: RecordFlag = True,
    plot: PlotOption = None,
    table: TableOption = None,
    json: JsonOption = None,
) -> None:
    """Measure latency: state carried, interleaved with the alternatives, against the machine's limits."""
    from lstm_deploy.artifacts import Bundle
    from lstm_deploy.benchmark import BASELINES, runner, tables

    _check_outputs(plot, table, json, (*targets, reference))
    if len(targets) > 1 and any(target.suffix == ".json" for target in targets):
        raise InputError("One .json is shown at a time; lstm-deploy compare holds two against each other.")
    if targets[0].suffix == ".json":
        _show(tables.read(targets[0]), plot, table, json)
        return
    if source != SourceOptions() and not reference:
        raise InputError("--model, --init, --weights-key, --input and --trust-pickle describe a --reference; name it.")
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
    recorded = Bundle(targets[0]) if record and len(targets) == 1 and targets[0].is_dir() else None
    with console.progress("bench") as on_progress:
        document = runner.bench(targets, plan, on_progress, arguments.origin(reference, source) if reference else None)
    if recorded is not None:
        record_in(recorded, lambda _: {"measurements": runner.without_samples(document)})
    _show(document, plot, table, json)
    if len(targets) == 1 and targets[0].is_dir():
        console.say_next(*next_steps.embed(Bundle(targets[0]), targets[0]))


def compare(
    old: Annotated[Path, typer.Argument(help="Result of bench --json.")],
    new: Annotated[Path, typer.Argument(help="A later one, of the same machine.")],
    fail_over: Annotated[str, typer.Option(help="How much slower a row may be.")] = "5%",
    force: Annotated[bool, typer.Option("--force", help="Compare different machines.")] = False,
    json: JsonFlag = False,
) -> None:
    """Report what became significantly slower between two benchmarks; exit code 5 where something did."""
    import msgspec

    from lstm_deploy.benchmark import comparison, tables

    allowed = arguments.part("fail-over", fail_over)
    assert allowed is not None
    compared = comparison.compare(tables.read(old), tables.read(new), allowed=allowed, force=force)
    if json:
        console.say_json({**msgspec.to_builtins(compared), "passed": not compared.regressions})
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
    from lstm_deploy.benchmark import plots, tables
    from lstm_deploy.cli import latencies
    from lstm_deploy.exporters import report

    if json == "-":
        console.say_json(document)
    else:
        latencies.show(document)
    if json and json != "-":
        console.write_text(Path(json), dumps(document, indent=1) + "\n")
    if table:
        console.write_text(table, tables.WRITERS[table.suffix](document))
    if plot and plot.suffix:
        report.save_plot(plots.latency_plot(document), plot)
    elif plot:
        plot.mkdir(parents=True, exist_ok=True)
        for name, figure in plots.plots(document).items():
            report.save_plot(figure, plot / f"{name}.png")
