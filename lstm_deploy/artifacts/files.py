"""Writing files atomically, and reading them without running any code in them."""

import hashlib
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from lstm_deploy.artifacts.scratch import scratch_file
from lstm_deploy.errors import InputError, describe, one_line


def as_path(given: object) -> Path:
    """The path in a text, a `Path`, a `Bundle` or another `os.PathLike`.

    Raises `InputError` for anything else, and for an empty text, which would be the current directory.
    """
    if isinstance(given, str | os.PathLike) and (path := os.fspath(given)) and isinstance(path, str):
        return Path(path)
    remedy = (
        "lstm_deploy.export makes a bundle of a module" if hasattr(given, "state_dict") else "give a text or a Path"
    )
    raise InputError(f"A path or a Bundle is needed, not {describe(given)}; {remedy}.")


def several(given: object) -> tuple[Any, ...]:
    """One or several as a tuple: a text or a path is one."""
    if isinstance(given, str | bytes | os.PathLike) or not isinstance(given, Iterable):
        return (given,)
    return tuple(given)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary file to write, which is renamed to `path` if the block ends without an error.

    It takes the place of a link or a pipe of that name, which a bundle from elsewhere may have. Raises `InputError` for
    a directory.
    """
    if path.is_dir() and not path.is_symlink():
        raise InputError(f"{path} is a directory; give a file name.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch_file(f".{path.name}.partial-", path.parent) as partial:
            yield partial
            partial.chmod(0o666 & new_file_mode())  # mkstemp makes it private
            partial.replace(path)
    except OSError as error:
        if str(error.filename).startswith(str(path.parent / f".{path.name}.partial-")):
            error.filename = str(path)  # the name that the user knows
        raise


def check_output(path: Path, *inputs: Path | None) -> None:
    """Raise `InputError` unless a file can be written to `path` that is none of the files it is made from."""
    if path.is_dir():
        raise InputError(f"{path} is a directory; give a file name.")
    if any(file and file.exists() and path.exists() and path.samefile(file) for file in inputs):
        raise InputError(f"{path} is the file that is read; give another name to write to.")
    check_parent(path)


def check_parent(path: Path) -> None:
    """Raise `InputError` unless the folder of `path` is there, or can be made, and can be written to."""
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not folder.is_dir():
        raise InputError(f"{folder} is not a directory, so {path} cannot be written; choose another place.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder} cannot be written to; choose another place for {path.name}.")


def weights_file(path: Path) -> Path:
    """The file beside an artifact that holds weights too large for the artifact itself."""
    return path.with_name(f"{path.name}.data")


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` file; raises `InputError` if it is invalid or contains pickled objects."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    # AttributeError: a .npy file, which has no `files`. OSError: invalid offsets in the zip.
    except (ValueError, AttributeError, EOFError, OSError, NotImplementedError, BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is not an .npz file of plain arrays ({one_line(error)}); save it again.") from error


def read_text(path: Path) -> str:
    """Read UTF-8 text; raises `InputError` if the file is missing, empty or not UTF-8."""
    require_file(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}); {_how_to_convert(path)}.") from error
    if not text.strip():
        raise InputError(f"{path} is empty; give a file with text in it.")
    return text


def _how_to_convert(path: Path) -> str:
    """The end of a message on a text that is not UTF-8."""
    content = path.read_bytes()
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "cp1252"
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return "convert it first"
    files = quote(str(path)), quote(f"{path.stem}-utf8{path.suffix}")
    return f"convert it first (for example: iconv -f {encoding} -t utf-8 {files[0]} > {files[1]})"


def relative_path(path: Path, folder: Path) -> str:
    """A path relative to a folder, so that both can be moved together."""
    path = path.resolve()
    with suppress(ValueError):  # another drive on Windows
        path = Path(os.path.relpath(path, folder))
    return path.as_posix()


def require_file(path: Path) -> None:
    """Raise `InputError` if there is no such file."""
    if path.is_dir():
        raise InputError(f"{path} is a directory; give a file.")
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path.")


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; raises `InputError` for a pipe, which can be read only once."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(f"{path} is not a file that can be read twice; write it to one first.")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def new_file_mode() -> int:
    """The permission bits that the user's umask allows."""
    mask = os.umask(0)
    os.umask(mask)
    return ~mask
