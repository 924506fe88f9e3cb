"""Reading TorchScript archives as zip files, without running any code in them."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lstm_deploy.errors import InputError, one_line

ZIP = b"PK\x03\x04"
"""What a zip archive begins with."""


def most_bytes(size: int) -> int:
    """The most bytes that an archive of `size` bytes may unpack to, since weights hardly compress; more is a bomb."""
    return 20 * size + 2**24


def is_zip(path: Path) -> bool:
    """Whether a file begins as a zip archive does; other files may end as one, as a tar archive with one in it."""
    with path.open("rb") as file:
        return file.read(len(ZIP)) == ZIP


def is_torchscript(path: Path) -> bool:
    """Whether a file is a zip archive with code; raises `InputError` for a damaged archive and for a zip bomb."""
    if not is_zip(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is a damaged zip archive ({one_line(error)}); copy it again.") from error
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > most_bytes(size := path.stat().st_size):
        raise InputError(f"{path} unpacks to {unpacked // size} times its size, as no file of weights does; check it.")
    return any(entry.filename.endswith("constants.pkl") for entry in entries)


def extra_files(path: Path) -> dict[str, bytes]:
    """The extra files of a TorchScript archive, by name; empty for any other file. Raises `InputError` if damaged."""
    if not is_torchscript(path):
        return {}
    with opened_archive(path) as archive:
        names = [name for name in archive.namelist() if "/extra/" in name]
        return {name.partition("/extra/")[2]: archive.read(name) for name in names}


@contextmanager
def opened_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """An open archive; raises `InputError` for any error within the block."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except Exception as error:  # a damaged archive, and a damaged pickle in it, raise anything
        raise InputError(f"{path} is a damaged TorchScript archive ({one_line(error)}); copy it again.") from error
