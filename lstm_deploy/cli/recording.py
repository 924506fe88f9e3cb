"""Results that are kept in the bundle they are of."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lstm_deploy.cli import console

if TYPE_CHECKING:
    from lstm_deploy.artifacts import Bundle, Manifest


def record_in(bundle: "Bundle", fields: "Callable[[Manifest], dict[str, Any]]") -> None:
    """Set fields of a bundle's manifest, which are made from what is in it by now, and write its report anew.

    `bundle` is as it was read before the work began. One that was exported anew since, or cannot be written, is only
    noted.
    """
    from lstm_deploy.artifacts import Bundle
    from lstm_deploy.errors import InputError
    from lstm_deploy.exporters import report

    try:
        latest = Bundle(bundle.path)
        if latest.manifest.exported != bundle.manifest.exported:
            console.note(f"not recorded in {bundle.path}: it was exported again meanwhile.")
            return
        latest.update(**fields(latest.manifest))
        report.write(latest)
    except InputError as error:
        console.note(f"not recorded in {bundle.path}: {error}")
    except OSError as error:
        console.note(f"not recorded in {bundle.path}: {error.strerror}.")
