"""`lstm-deploy export`: from a checkpoint or third-party weights to a bundle."""

from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Struct

from lstm_deploy.cli import arguments, completion, console, next_steps
from lstm_deploy.cli.options import ForceFlag, JsonFlag, Panel, SourceOptions, TaskOptions, argument, grouped, option


class LowerPrecisionOptions(Struct, frozen=True, kw_only=True):
    """Which artifacts of lower precision are added, and what they may lose."""

    quantize: Annotated[
        Literal["int8", "auto"] | None,
        option(Panel.PRECISION, help="Add int8 artifacts; auto: only if they are faster on this machine."),
    ] = None
    int8_cpus: Annotated[
        Literal["any", "vnni"],
        option(
            Panel.PRECISION,
            help="CPUs that int8 ONNX is for; vnni: finer weights, for CPUs that have it.",
        ),
    ] = "any"
    half: Annotated[bool, option(Panel.PRECISION, "--half", help="Add a float16 artifact, for GPUs.")] = False
    state_dtype: Annotated[
        Literal["float16", "float32"],
        option(Panel.PRECISION, metavar="DTYPE", help="Type of the float16 artifact's state: float16 or float32."),
    ] = "float16"
    data: Annotated[
        Path | None,
        option(
            Panel.PRECISION,
            metavar="FILE",
            help="Data to measure int8 and float16 on. [default: what train held out, else random inputs]",
        ),
    ] = None
    max_metric_loss: Annotated[
        str | None,
        option(
            Panel.PRECISION,
            metavar="PART",
            help="How much worse than float32 int8 may be, as 1% or 0.01. [default: 1%; with random inputs, 10% of the "
            "outputs' spread]",
        ),
    ] = None


OutputOption = Annotated[
    Path | None,
    option(
        Panel.OUTPUT, "-o", "--output", metavar="FOLDER", help="Bundle to write. [default: exported/ and SOURCE's name]"
    ),
]
FormatOption = Annotated[
    list[str] | None,
    option(
        Panel.OUTPUT,
        metavar="FORMAT,…",
        help="Formats to write: onnx, torchscript, c. [default: onnx,torchscript]",
        autocompletion=completion.listed(("onnx", "torchscript", "c")),
    ),
]
StatePolicyOption = Annotated[
    Literal["reset", "carry"] | None,
    option(
        Panel.STATE,
        help="How training treated the state between examples: reset it, or carried it on. [default: reset]",
    ),
]
StateLayoutOption = Annotated[
    Literal["layers-first", "batch-first"],
    option(
        Panel.STATE,
        metavar="LAYOUT",
        help="Order of the axes of h and c: layers-first, as in PyTorch, or batch-first, which some servers need.",
    ),
]
DryRunFlag = Annotated[bool, option(Panel.OUTPUT, "--dry-run", help="Show what would be written, and stop.")]


@grouped
def export(
    source: Annotated[Path, argument("SOURCE", "Checkpoint that train wrote, or any file of PyTorch weights.")],
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
    """Export a PyTorch model to ONNX, TorchScript or C, and prove it.

    A bundle is a folder with the artifacts, their contract and a report. It is only written if each artifact computes
    what the PyTorch model computes, state included. Options that end in ,… take values between commas, or are repeated.
    """
    import msgspec

    from lstm_deploy.exporters import DEFAULT_FORMATS, PrecisionOptions, make_plan, pipeline

    output = output or Path("exported", source.stem)
    formats = arguments.listed(format) or DEFAULT_FORMATS
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
    console.say(("PASSED ", console.GOOD), f" {manifest.parity.verdict}", hang=8)
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
