"""A finished folder in the place of another, in one step: whoever looks, and whatever is killed, finds one of them."""

import ctypes
import os
import shutil
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from lstm_deploy.artifacts.scratch import hold, scratch_paths

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
"""Of Linux' `renameat2`."""
_LONGEST_GAP_S = 1.0


def replace_folder(finished: Path, path: Path) -> None:
    """Give a finished folder the name `path`; the folder of that name, if there is one, is removed.

    Where folders cannot be exchanged in one step, the old one is called `old_prefix(path)` and some letters for a
    moment, and a process that is killed just then leaves that to be put back by `restore`.
    """
    if not path.exists():
        finished.rename(path)
        return
    old = finished
    if not exchange(finished, path):
        old = path.with_name(old_prefix(path) + finished.name[-8:])
        _rename_both(path, old, finished)
    shutil.rmtree(old, ignore_errors=True)


def _rename_both(path: Path, old: Path, finished: Path) -> None:
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(hold(path))  # so that nobody restores it meanwhile
        path.rename(old)
        try:
            finished.rename(path)
        except BaseException:
            old.rename(path)
            raise


def restore(path: Path) -> None:
    """Put a folder back that another process was killed while replacing; what is still being replaced is waited for."""
    if path.exists() or path.is_symlink():
        return
    path = path.resolve()
    for old in scratch_paths(old_prefix(path), path.parent):
        try:
            with hold(old):
                old.rename(path)
        except BlockingIOError:
            _wait_for(path)
        except OSError:
            with suppress(OSError):  # no locks here, or no permission
                old.rename(path)


def old_prefix(path: Path) -> str:
    """How the names begin that a folder has while another one takes its place."""
    return f".{path.name}.old-"


def exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two files or folders in one step; False where the system or the disk cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):  # a C library from before 2018
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0)


def _wait_for(path: Path) -> None:
    end = time.monotonic() + _LONGEST_GAP_S
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.001)
