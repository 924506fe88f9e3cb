"""`lstm-deploy bench` and `lstm-deploy compare`: latency, and what became slower."""

from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from lstm_deploy.cli import arguments, console
from lstm_deploy.cli.options import JsonFlag, RecordFlag, ReferenceOption, SourceOptions, grouped
from lstm_deploy.cli.recording import record_in
from lstm_deploy.errors import InputError

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
    from lstm_deploy.benchmark import BASELINES, Plan, bench_report, runner

    _check_outputs(plot, table, json, (*targets, reference))
    if len(targets) > 1 and any(target.suffix == ".json" for target in targets):
        raise InputError("One .json is shown at a time; lstm-deploy compare holds two against each other.")
    if targets[0].suffix == ".json":
        _show(bench_report.read(targets[0]), plot, table, json)
        return
    names = {"all": tuple(BASELINES), "none": ()}
    plan = Plan(
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
        model = arguments.origin(reference, source) if reference else None
        document = runner.bench(targets, plan, reference=model, on_progress=on_progress)
    if recorded is not None:
        record_in(recorded, lambda _: {"measurements": dict(document.without_samples())})
    _show(document, plot, table, json)


def compare(
    old: Annotated[Path, typer.Argument(help="Result of bench --json.")],
    new: Annotated[Path, typer.Argument(help="A later one, of the same machine.")],
    fail_over: Annotated[str, typer.Option(help="How much slower a row may be.")] = "5%",
    force: Annotated[bool, typer.Option("--force", help="Compare different machines.")] = False,
    json: JsonFlag = False,
) -> None:
    """Report what became significantly slower between two benchmarks; exit code 5 where something did."""
    import msgspec

    from lstm_deploy.benchmark import comparison

    allowed = arguments.part("fail-over", fail_over)
    assert allowed is not None
    compared = comparison.compare(old, new, allowed=allowed, force=force)
    if json:
        console.say_json({**msgspec.to_builtins(compared), "passed": compared.passed})
    else:
        console.say_table(*comparison.table(compared))
        console.note(
            "times: the new over the old, in µs or relative to the baseline, whichever is nearer to 1; 1 where they "
            "disagree."
        )
        for note in compared.notes:
            console.note(note)
        for missing in compared.missing:
            console.note(f"not measured again: {missing}")
        slower = len(compared.regressions)
        outcome = f"{slower} of {len(compared.changes)} rows are SLOWER" if slower else "no row is slower"
        console.say(f"{outcome} by more than {allowed:.0%}, noise and chance.")
    if compared.regressions:
        raise typer.Exit(5)


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
    from lstm_deploy.exporters import report

    if json == "-":
        console.say_json(document)
    else:
        console.say_table(*tables.table(document))
    if json and json != "-":
        console.write_text(Path(json), dumps(document, indent=1) + "\n")
    for line in (*(f"left out: {reason}." for reason in document["left_out"]), *tables.warnings(document)):
        console.note(line)
    for line in (*tables.notes(document), *tables.fastest(document)):
        console.note(line)
    if table:
        console.write_text(table, tables.WRITERS[table.suffix](document))
    if plot and plot.suffix:
        report.save_plot(plots.latency_plot(document), plot)
    elif plot:
        plot.mkdir(parents=True, exist_ok=True)
        for name, figure in plots.plots(document).items():
            report.save_plot(figure, plot / f"{name}.png")
