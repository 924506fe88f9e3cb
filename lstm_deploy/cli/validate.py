"""`lstm-deploy validate`: whether artifacts compute what the model computes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lstm_deploy.cli import arguments, console, parity
from lstm_deploy.cli.options import JsonFlag, RecordFlag, ReferenceOption, SourceOptions, grouped
from lstm_deploy.cli.recording import record_in

PairsOption = Annotated[
    list[str] | None,
    typer.Option("--map", help="OURS=THEIRS: a name of the contract and the file's for it; repeatable."),
]
AtolOption = Annotated[
    list[str] | None,
    typer.Option(help="Difference to allow in place of the table's: a number, or OUTPUT=NUMBER; repeatable."),
]
RtolOption = Annotated[list[str] | None, typer.Option(help="The same, as a part of the output's size; repeatable.")]
ThoroughFlag = Annotated[bool, typer.Option("--thorough", help="Try more shapes, splits and steps; takes minutes.")]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write an ONNX file made elsewhere, with the contract, here if it passes."),
]
TrustFlag = Annotated[bool, typer.Option("--trust-c", help="Compile and run C that was not exported on this machine.")]

VerboseFlag = Annotated[bool, typer.Option("--verbose", "-v", help="Show every check.")]


@grouped
def validate(
    target: Annotated[Path, typer.Argument(help="Bundle, or one artifact.")],
    *,
    reference: ReferenceOption = None,
    source: SourceOptions,
    map: PairsOption = None,  # noqa: A002 - the option's name
    provider: Annotated[str, typer.Option(help="cpu, cuda or tensorrt.")] = "cpu",
    atol: AtolOption = None,
    rtol: RtolOption = None,
    thorough: ThoroughFlag = False,
    trust_c: TrustFlag = False,
    output: OutputOption = None,
    record: RecordFlag = True,
    verbose: VerboseFlag = False,
    json: JsonFlag = False,
) -> None:
    """Prove that artifacts compute what the model computes: y, h and c apart, whole, in chunks, step by step."""
    import msgspec

    from lstm_deploy.artifacts import SUFFIXES, Bundle
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
            names=arguments.pairs("map", map),
            atol=arguments.numbers("atol", atol),
            rtol=arguments.numbers("rtol", rtol),
            trust_c=trust_c,
            output=output,
            on_progress=on_progress,
        )
    if report.reference == GOLDEN_TRACE:
        console.warn(
            "only the golden trace was replayed, since the source is gone, has changed, or needs code of yours to run; "
            "to compare with it, give --reference FILE, with the --model, --init and --input of its export."
        )
    elif recorded is not None and (atol or rtol):
        console.note("not recorded: --atol and --rtol allow other differences than the contract does.")
    elif recorded is not None:
        _record_parity(recorded, provider, report)
    if json:
        console.say_json(msgspec.to_builtins(report))
    else:
        parity.show(report, verbose=verbose)
    if not report.passed:
        if not (verbose or json):
            console.note("--verbose shows every check.")
        raise typer.Exit(3)
    if target.is_dir() and (recorded is not None or provider == "cpu"):
        console.say_next(["bench", target, *(["--provider", provider] if provider != "cpu" else [])])


def _record_parity(bundle: Any, provider: str, report: Any) -> None:
    if provider == "cpu":
        record_in(bundle, lambda _: {"parity": report})
    else:
        record_in(bundle, lambda manifest: {"parity_elsewhere": {**manifest.parity_elsewhere, provider: report}})
