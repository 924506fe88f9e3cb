"""`lstm-deploy validate`: whether artifacts compute what the model computes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lstm_deploy.cli import arguments, completion, console, next_steps, validate_screen
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

PairsOption = Annotated[
    list[str] | None,
    option(
        Panel.REFERENCE,
        "--map",
        metavar="OURS=THEIRS,…",
        help="Names of the contract, and what the file calls them, as h_in=hidden.",
    ),
]
AtolOption = Annotated[
    list[str] | None,
    option(
        Panel.PROOF,
        metavar="TOLERANCE,…",
        help="Absolute difference to allow, as 1e-4, or y=1e-4 for one output. [default: by precision and provider]",
    ),
]
RtolOption = Annotated[
    list[str] | None,
    option(Panel.PROOF, metavar="TOLERANCE,…", help="Difference to allow as a part of the output's size, as --atol."),
]
ThoroughFlag = Annotated[
    bool, option(Panel.PROOF, "--thorough", help="Try more shapes, splits and steps; takes minutes.")
]
OutputOption = Annotated[
    Path | None,
    option(
        Panel.OUTPUT,
        "-o",
        "--output",
        metavar="FILE",
        help="If it passes, write an ONNX file made elsewhere here, with the contract in it.",
    ),
]
TrustFlag = Annotated[
    bool, option(Panel.PROOF, "--trust-c", help="Compile and run C that was not exported on this machine.")
]
TargetArgument = Annotated[Path, argument("TARGET", "Bundle, or one artifact.", autocompletion=completion.targets)]
ProviderOption = Annotated[Provider, option(Panel.MACHINE, help="What to run ONNX and TorchScript on.")]

VerboseFlag = Annotated[bool, option(Panel.OUTPUT, "--verbose", "-v", help="Show every check.")]


@grouped
def validate(
    target: TargetArgument,
    *,
    reference: ReferenceOption = None,
    source: SourceOptions,
    map: PairsOption = None,  # noqa: A002 - the option's name
    provider: ProviderOption = "cpu",
    atol: AtolOption = None,
    rtol: RtolOption = None,
    thorough: ThoroughFlag = False,
    trust_c: TrustFlag = False,
    output: OutputOption = None,
    record: RecordFlag = True,
    verbose: VerboseFlag = False,
    json: JsonFlag = False,
) -> None:
    """Check that artifacts compute what the PyTorch model computes.

    Outputs and states are compared for whole sequences, in chunks and step by step. If a check fails, the exit code
    is 3.
    """
    import msgspec

    from lstm_deploy.artifacts import SUFFIXES, Bundle
    from lstm_deploy.errors import why_missing
    from lstm_deploy.exporters import validate as compare
    from lstm_deploy.validation import GOLDEN_TRACE

    against: Any = reference
    if reference and reference.suffix not in SUFFIXES and not reference.is_dir():
        against = arguments.origin(reference, source)
    recorded = Bundle(target) if record and target.is_dir() else None
    with console.progress("validate") as on_progress:
        report = compare(
            target,
            reference=against,
            provider=provider,
            thorough=thorough,
            names=arguments.pairs("map", arguments.listed(map)),
            atol=arguments.numbers("atol", atol),
            rtol=arguments.numbers("rtol", rtol),
            trust_c=trust_c,
            output=output,
            on_progress=on_progress,
        )
    if report.reference == GOLDEN_TRACE:
        _say_only_trace(target, provider, why_missing("torch"))
    elif recorded is not None and (atol or rtol):
        console.note("not recorded: --atol and --rtol allow other differences than the contract does.")
    elif recorded is not None:
        _record_parity(recorded, provider, report)
    if json:
        console.say_json(msgspec.to_builtins(report))
    else:
        validate_screen.show(report, verbose=verbose)
    if not report.passed:
        if not (verbose or json):
            console.note("--verbose shows every check.")
        raise typer.Exit(3)
    console.say_next(*next_steps.after_validate(target, provider, only_trace=report.reference == GOLDEN_TRACE))


def _say_only_trace(target: Path, provider: str, without_torch: str) -> None:
    """Why the model was not run, what runs it unless `next:` can say that, and that a verdict stands as it was."""
    from lstm_deploy.artifacts import Bundle, proof

    bundle = Bundle(target if target.is_dir() else target.parent)
    if without_torch:
        console.warn(f"only the golden trace was replayed: {without_torch} to compare with the source.")
    else:
        proving = proof(bundle, target, provider)
        remedy = "" if proving.is_complete else f"; run {proving} to compare with it"
        console.warn(f"only the golden trace was replayed: {bundle.source_obstacle}{remedy}.")
    standing = bundle.manifest.parity_on(provider)
    if standing is not None and not standing.passed:
        console.warn(
            f"the verdict in the bundle is still FAILED, against {standing.reference}: the trace alone changes none."
        )


def _record_parity(bundle: Any, provider: str, report: Any) -> None:
    if provider == "cpu":
        record_in(bundle, lambda _: {"parity": report})
    else:
        record_in(bundle, lambda manifest: {"parity_elsewhere": {**manifest.parity_elsewhere, provider: report}})
