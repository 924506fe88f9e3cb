"""Results that are kept in the bundle they are of."""

from pathlib import Path
from typing import Any

from lstm_deploy.cli import console


def record_in(target: Path, **fields: Any) -> None:
    """Set fields of a bundle's manifest and write its report anew; a bundle that cannot be written is only noted."""
    from lstm_deploy.artifacts import Bundle
    from lstm_deploy.exporters import report

    bundle = Bundle(target)
    try:
        bundle.update(**fields)
        report.write(bundle)
    except OSError as error:
        console.note(f"not recorded in {target}: {error.strerror}.")
