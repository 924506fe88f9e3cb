"""Files and folders in the making: each is held by the process that makes it, and swept when nobody holds it any more.

A process that is killed cleans nothing up, so the next one that makes something of the same name does. What holds is a
lock on the file or folder itself, which ends with its process, however that ends.
"""

import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

TEMPORARY = "lstm-deploy.scratch-"
"""How the names of our folders in the temporary directory begin."""
_ENDING = re.compile("[a-z0-9_]{8}")
"""What `tempfile` adds to a prefix."""


@contextmanager
def scratch_folder(prefix: str = TEMPORARY, parent: Path | None = None) -> Iterator[Path]:
    """A folder of one's own, by default in the temporary directory, that is removed at the end.

    Those of the same prefix that killed processes left behind are removed first.
    """
    parent = parent or Path(tempfile.gettempdir())
    sweep(prefix, parent)
    with _held(lambda: Path(tempfile.mkdtemp(prefix=prefix, dir=parent))) as folder:
        yield folder


@contextmanager
def scratch_file(prefix: str, parent: Path) -> Iterator[Path]:
    """As `scratch_folder`, an empty file."""

    def make() -> Path:
        handle, name = tempfile.mkstemp(prefix=prefix, dir=parent)
        os.close(handle)
        return Path(name)

    sweep(prefix, parent)
    with _held(make) as file:
        yield file


def sweep(prefix: str, parent: Path) -> None:
    """Remove files and folders of this prefix that no process holds; where it cannot be told, they stay."""
    for path in scratch_paths(prefix, parent):
        with suppress(OSError), hold(path):
            _remove(path)


def scratch_paths(prefix: str, parent: Path) -> list[Path]:
    """The files and folders in `parent` whose names are this prefix and what `tempfile` adds to it."""
    with suppress(OSError):
        alike = sorted(path for path in parent.iterdir() if path.name.startswith(prefix))
        return [path for path in alike if _ENDING.fullmatch(path.name.removeprefix(prefix))]
    return []


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Lock a file or folder, also under the names that it gets within the block.

    Raises `BlockingIOError` where another process, or another part of this one, holds it, and another `OSError` where
    it is gone, is a link, or cannot be locked on this system.
    """
    if sys.platform == "win32":
        raise OSError(errno.ENOTSUP, "a folder cannot be locked")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _held(make: Callable[[], Path]) -> Iterator[Path]:
    """What `make` makes, held within the block and removed after it."""
    with ExitStack() as stack:
        while True:
            path = make()
            try:
                stack.enter_context(hold(path))
            except (BlockingIOError, FileNotFoundError):
                continue  # another process swept it before it was held
            except OSError:
                pass  # no locks here, so nobody sweeps either
            if path.exists():
                break
        try:
            yield path
        finally:
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
