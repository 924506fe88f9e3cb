"""Reads any file that holds weights of PyTorch: what is in it, of which form, and archives with such files in them."""

import io
import mmap
import pickle
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from safetensors import SafetensorError
from safetensors.torch import load, load_file

from lstm_deploy.artifacts import is_torchscript, most_bytes
from lstm_deploy.errors import InputError, one_line
from lstm_deploy.lifting.pickles import RefusedError, read_archive, read_stream

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".th", ".pkl", ".nemo")
"""Of files that hold weights, on disk and within archives."""


def read_content(path: Path) -> Any:
    """What is in a file: dicts, lists, numbers, `StoredTensor` or tensors, and stubs for all other objects.

    An archive that is no file of PyTorch itself (the `.zip` of Stable-Baselines3, the `.nemo` of NeMo) is a dict of
    the files in it, by their names without suffix. Raises `InputError` for any other file.
    """
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"{path} is empty; check the path.")
    if path.suffix == ".onnx":
        raise InputError(f"{path} is an ONNX file, not PyTorch weights; give the weights that it was made from.")
    is_torchscript(path)  # which measures archives before they are unpacked
    what = "safetensors file" if path.suffix == ".safetensors" else "file of PyTorch weights"
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if zipfile.is_zipfile(path):
            return _read_zip(zipfile.ZipFile(path), most_bytes(size))  # stays open for the weights in it
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return _read(cast(IO[bytes], mapped), most_bytes(size))
    except RefusedError as error:
        raise InputError(f"{path} {error}") from error
    except Exception as error:  # damaged files raise anything
        reason = f" ({one_line(error, 100)})" if isinstance(error, pickle.UnpicklingError | SafetensorError) else ""
        raise InputError(f"{path} is not a {what}{reason}; check the path.") from error


def _read(file: IO[bytes], limit: int) -> Any:
    head = file.read(512)
    file.seek(0)
    if head[:2] == b"\x1f\x8b" or head[257:262] == b"ustar":
        with tarfile.open(fileobj=file) as archive:
            return _read_tar(archive, limit)
    if head[8:9] == b"{":
        return load(file.read())
    if zipfile.is_zipfile(file):
        return _read_zip(zipfile.ZipFile(file), limit)
    file.seek(0)
    return read_stream(file)


def _read_zip(archive: zipfile.ZipFile, limit: int) -> Any:
    entries = archive.infolist()
    if sum(entry.file_size for entry in entries) > limit:
        raise RefusedError("unpacks to more than any file of weights does; check it.")
    names = [entry.filename for entry in entries]
    if own := [name for name in names if PurePosixPath(name).name == "data.pkl"]:
        return read_archive(archive, min(own, key=len))
    return _members({name: archive.read(name) for name in names if name.endswith(WEIGHT_SUFFIXES)}, names, limit)


def _read_tar(archive: tarfile.TarFile, limit: int) -> Any:
    names, files, unpacked = [], {}, 0
    for member in archive:
        unpacked += member.size + tarfile.BLOCKSIZE
        if unpacked > limit:
            raise RefusedError("unpacks to more than any file of weights does; check it.")
        names.append(member.name)
        if member.name.endswith(WEIGHT_SUFFIXES) and (file := archive.extractfile(member)):
            files[member.name] = file.read()
    return _members(files, names, limit)


def _members(files: dict[str, bytes], names: list[str], limit: int) -> dict[str, Any]:
    if not files:
        there = ", ".join(names)
        raise RefusedError(
            f"is an archive without a file of PyTorch weights ({there[:200]}); give that of the weights."
        )
    return {PurePosixPath(name).stem: _read(io.BytesIO(content), limit) for name, content in files.items()}
