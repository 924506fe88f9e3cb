"""What the shell completes beside commands, options and choices: names between commas, and paths of bundles."""

from collections.abc import Callable, Iterable
from pathlib import Path


def listed(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Completes the last of several names between commas."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        given = before.split(",")
        return [f"{before}{comma}{name}" for name in known if name.startswith(last) and name not in given]

    return complete


def bundles(incomplete: str) -> list[str]:
    """Bundles in the folder that was typed and in those below it; where there are none, the shell offers files."""
    from lstm_deploy.artifacts import MANIFEST

    typed, folder = _typed_folder(incomplete)
    found = (*folder.glob(f"*/{MANIFEST}"), *folder.glob(f"*/*/{MANIFEST}"))
    return sorted(typed + manifest.parent.relative_to(folder).as_posix() for manifest in found)


def targets(incomplete: str) -> list[str]:
    """Bundles, and the files in the folder that was typed."""
    typed, folder = _typed_folder(incomplete)
    files = sorted(typed + file.name for file in folder.glob("[!.]*") if file.is_file())
    return [*bundles(incomplete), *files]


def _typed_folder(incomplete: str) -> tuple[str, Path]:
    """The folder that a path begins with, as it was typed and as a path."""
    typed = incomplete[: incomplete.rfind("/") + 1]
    return typed, Path(typed or ".")
