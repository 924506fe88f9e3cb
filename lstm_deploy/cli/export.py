"""`lstm-deploy export`: from a checkpoint or third-party weights to a bundle."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from msgspec import Struct

from lstm_deploy.cli import arguments, console, next_steps
from lstm_deploy.cli.options import ForceFlag, JsonFlag, SourceOptions, TaskOptions, grouped


class LowerPrecisionOptions(Struct, frozen=True, kw_only=True):
    """Which artifacts of lower precision are added, and what they may lose."""

    quantize: Annotated[
        Literal["int8", "auto"] | None,
        typer.Option(help="Add int8 artifacts; auto: only where they are faster on this machine."),
    ] = None
    int8_cpus: Annotated[
        Literal["any", "vnni"],
        typer.Option(help="Where int8 ONNX is right; vnni: finer weights that saturate on CPUs without VNNI."),
    ] = "any"
    half: Annotated[bool, typer.Option("--half", help="Add a float16 artifact, for CUDA.")] = False
    state_dtype: Annotated[
        Literal["float16", "float32"], typer.Option(help="Of the state of the float16 artifact.")
    ] = "float16"
    data: Annotated[
        Path | None,
        typer.Option(help="Measure the loss on this file [default: what train held out, else random inputs]."),
    ] = None
    max_metric_loss: Annotated[
        str | None,
        typer.Option(
            help="Loss of the metric that int8 may cost, as 1% [default: 1%; 10% of the spread without data]."
        ),
    ] = None


OutputOption = Annotated[
    Path | None, typer.Option("-o", "--output", help="Bundle to write [default: exported/SOURCE's name].")
]
FormatOption = Annotated[
    list[str] | None,
    typer.Option(help="onnx, torchscript or c; repeat for several [default: onnx and torchscript]."),
]
StatePolicyOption = Annotated[
    Literal["reset", "carry"] | None,
    typer.Option(help="Whether training reset the state for each example, or carried it on [default: reset]."),
]
StateLayoutOption = Annotated[
    Literal["layers-first", "batch-first"], typer.Option(help="Order of the axes of h and c.")
]
DryRunFlag = Annotated[bool, typer.Option("--dry-run", help="Show what would be written, and stop.")]


@grouped
def export(
    source: Annotated[Path, typer.Argument(help="Checkpoint of lstm-deploy, or any file of PyTorch weights.")],
    *,
    output: OutputOption = None,
    format: FormatOption = None,  # noqa: A002 - the option's name
    weights: SourceOptions,
    task: TaskOptions,
    state_policy: StatePolicyOption = None,
    state_layout: StateLayoutOption = "layers-first",
    lower_precision: LowerPrecisionOptions,
    force: ForceFlag = False,
    dry_run: DryRunFlag = False,
    json: JsonFlag = False,
) -> None:
    """Export a checkpoint or third-party weights to a bundle of ONNX, TorchScript or C, proven equal to PyTorch."""
    import msgspec

    from lstm_deploy.exporters import DEFAULT_FORMATS, PrecisionOptions, make_plan, pipeline

    output = output or Path("exported", source.stem)
    formats = tuple(format or DEFAULT_FORMATS)
    origin = arguments.origin(source, weights, arguments.task_of(task), state_policy)
    options = msgspec.structs.asdict(lower_precision)
    options["max_metric_loss"] = arguments.part("max-metric-loss", lower_precision.max_metric_loss)
    precision = PrecisionOptions(**options)
    plan = make_plan(output, origin, formats, state_layout, precision)
    if dry_run:
        _show_plan(plan.preview(force=force), json)
        return
    bundle = None if force else plan.existing_bundle()
    fresh = bundle is None
    if bundle is None:
        with console.progress("export") as on_progress:
            bundle = pipeline.export(
                origin,
                output,
                formats=formats,
                state_layout=state_layout,
                force=force,
                on_progress=on_progress,
                **options,
            )
    if json:
        console.say_json({"bundle": str(output), "written": fresh, **msgspec.to_builtins(bundle.manifest)})
    elif fresh:
        _show_bundle(bundle, output)
    else:
        console.say(f"{output} is up to date: exported from this source, with these options.")
        console.say_next(*next_steps.after_export(bundle, output))


def _show_bundle(bundle: Any, output: Path) -> None:
    from lstm_deploy.exporters import report

    manifest = bundle.manifest
    for finding in manifest.findings:
        console.note(f"inferred: {finding}.", hang=2)
    console.say((str(output), console.HEADING), f": {manifest.source.summary}")
    console.say_heading("Contract")
    console.say_contract(bundle.signature)
    console.say_heading("Artifacts")
    console.say_artifacts(manifest.exported)
    headings, lower_precision = report.evidence_table(manifest)
    if lower_precision:
        console.say_heading("Lower precision")
        console.say_table(headings, lower_precision)
    for decision in manifest.notes:
        console.say(f"  {decision}.", hang=2)
    if reason := report.why_no_rollout(manifest):
        console.note(f"no rollout: {reason}", hang=2)
    console.say()
    outcome = f"{len(manifest.parity.checks)} checks passed, against {manifest.parity.reference}."
    console.say(("PASSED ", console.GOOD), f" {outcome}", hang=8)
    console.note(f"wrote {output}")
    console.say_next(*next_steps.after_export(bundle, output))


def _show_plan(plan: dict[str, Any], json: bool) -> None:
    import msgspec

    contract = plan["contract"]
    if json:
        console.say_json({**plan, "contract": msgspec.to_builtins(contract)})
        return
    console.say(f"{plan['source']} would be exported to {plan['output']}:")
    console.say_fields(("files", ", ".join(plan["files"])), *(("inferred", finding) for finding in plan["findings"]))
    console.say_heading("Contract")
    console.say_contract(contract)
