"""`lstm-deploy validate`: whether artifacts compute what the model computes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lstm_deploy.cli import arguments, completion, console
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
    if report.reference == GOLDEN_TRACE and (reason := why_missing("torch")):
        console.note(f"Only the golden trace is replayed: {reason} to compare with the source.")
    elif report.reference == GOLDEN_TRACE:
        console.note(
            "Only the golden trace is replayed: the source is gone, has changed since, or would have to run code of "
            "yours. To compare with it, give --reference FILE, with the --model, --init and --input of its export."
        )
    elif recorded is not None and (atol or rtol):
        console.note("not recorded: the differences allowed are not those of the contract.")
    elif recorded is not None:
        _record_parity(recorded, provider, report)
    if json:
        console.say_json(msgspec.to_builtins(report))
    else:
        _show(report)
    if not report.passed:
        raise typer.Exit(3)


def _show(parity: Any) -> None:
    from lstm_deploy.artifacts import int8_saturation
    from lstm_deploy.exporters import report
    from lstm_deploy.validation import SAME

    for headings, rows in report.parity_tables(parity.checks):
        console.say_table(headings, rows)
    for left_out in parity.left_out:
        console.note(f"left out: {left_out}.")
    for check in parity.checks:
        if check.detail == int8_saturation.VNNI_ONLY:
            console.note(f"{check.artifact} is {check.detail}.")
    for check in parity.checks:
        if check.name == "structure" and check.passed and check.detail != SAME:
            console.note(f"{check.artifact} is {check.detail}.")
    for line in parity.explain_failures():
        console.say(line)
    console.say(parity.verdict)


def _record_parity(bundle: Any, provider: str, parity: Any) -> None:
    if provider == "cpu":
        record_in(bundle, lambda _: {"parity": parity})
    else:
        record_in(bundle, lambda manifest: {"parity_elsewhere": {**manifest.parity_elsewhere, provider: parity}})
