"""The screen of `validate`: a line for each artifact, and for each cause of a failure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lstm_deploy.cli import console

if TYPE_CHECKING:
    from lstm_deploy.artifacts import Check, ParityReport
    from lstm_deploy.cli.layout import Part


def show(parity: "ParityReport", *, verbose: bool) -> None:
    """The checks of each artifact, what failed and why, and the verdict; every check if `verbose`."""
    by_artifact = parity.by_artifact
    if verbose:
        for artifact, checks in by_artifact.items():
            console.say_heading(artifact, checks[0].precision)
            console.say_table(["check", "output", "difference", "tolerance", "result"], list(map(_row, checks)))
        console.say()
    headings = ["artifact", "precision", "checks", "worst check"]
    console.say_table(headings, [_summary(artifact, checks) for artifact, checks in by_artifact.items()])
    for artifact, checks in by_artifact.items():
        if failures := [check for check in checks if not check.passed]:
            _show_failure(artifact, failures, parity)
    _show_remarks(parity)
    console.say()
    failed, total = len(parity.failures), len(parity.checks)
    provider = parity.checks[0].provider if parity.checks else "cpu"
    if failed:
        wrong = sum(any(not check.passed for check in checks) for checks in by_artifact.values())
        outcome = f"{failed} of {total} checks, {wrong} of {_files(len(by_artifact))}"
        console.say(("FAILED ", console.BAD), f" {outcome}, on {provider}, against {parity.reference}.", hang=8)
    else:
        outcome = f"{total} checks passed for {_files(len(by_artifact))}"
        console.say(("PASSED ", console.GOOD), f" {outcome}, on {provider}, against {parity.reference}.", hang=8)


def _files(number: int) -> str:
    return f"{number} file{'s' if number > 1 else ''}"


def _summary(artifact: str, checks: "Sequence[Check]") -> "list[Part]":
    failed = sum(not check.passed for check in checks)
    count: Part = (f"{failed} of {len(checks)} FAILED", console.BAD) if failed else f"{len(checks)} passed"
    return [artifact, checks[0].precision, count, _largest(checks)]


def _largest(checks: "Sequence[Check]") -> str:
    """The difference that comes nearest to its tolerance, or goes farthest beyond it."""
    from lstm_deploy.artifacts import worst_check

    if (most := worst_check(checks)) is None:
        return "–"
    part = most.severity
    text = f"{part:.0%} of tolerance" if part <= 1 else f"{part:,.3g} times the tolerance"
    return f"{text} ({most.output}, {most.name})"


def _row(check: "Check") -> "list[Part]":
    result: Part = "passed" if check.passed else ("FAILED", console.BAD)
    if check.passed and check.is_measured:
        result = f"{check.severity:.0%} of tolerance"
    figures = ("" if value is None else f"{value:.1e}" for value in (check.max_abs, check.tolerance))
    return [check.name, check.output, *figures, result]


def _show_failure(artifact: str, failures: "Sequence[Check]", parity: "ParityReport") -> None:
    """What failed, the likely cause, where the difference begins, and what the cause does not say already."""
    console.say_heading(f"{artifact} FAILED")
    causes = [diagnosis for diagnosis in parity.diagnoses if diagnosis.artifact == artifact]
    told = " ".join(diagnosis.cause for diagnosis in causes)
    fields: list[tuple[str, Part]] = [("likely cause", diagnosis.cause) for diagnosis in causes]
    fields += [("first difference", diagnosis.place) for diagnosis in causes if diagnosis.place]
    if measured := [check for check in failures if check.max_abs is not None]:
        worst = max(measured, key=lambda check: check.severity)
        fields.append(("largest", f"{worst.name} {worst.output}: {worst.detail}"))
    stated = {check.detail: check.name for check in failures if check.max_abs is None and check.detail not in told}
    fields += [(name, detail) for detail, name in stated.items()]
    fields.append(("failed checks", ", ".join(dict.fromkeys(check.name for check in failures))))
    console.say_fields(*fields)


def _show_remarks(parity: "ParityReport") -> None:
    """What was not checked, and what of the artifacts that passed is worth knowing."""
    from lstm_deploy.artifacts import int8_saturation
    from lstm_deploy.validation import SAME

    for left_out in parity.left_out:
        console.warn(f"{left_out}.", "not checked")
    for check in parity.checks:
        if check.detail == int8_saturation.VNNI_ONLY or (
            check.name == "structure" and check.passed and check.detail != SAME
        ):
            console.note(f"{check.artifact} is {check.detail}.")
