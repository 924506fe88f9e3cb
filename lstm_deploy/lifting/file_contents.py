"""Reads any file that holds weights of PyTorch: what is in it, of which form, and archives with such files in them."""

import io
import mmap
import pickle
import re
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import IO, Any, cast

from safetensors import SafetensorError
from safetensors.torch import load, load_file

from lstm_deploy.artifacts import ZIP, is_torchscript, is_zip, most_bytes
from lstm_deploy.errors import InputError, one_line
from lstm_deploy.lifting.pickles import RefusedError, read_archive, read_stream

SHARD = re.compile(r"-\d+-of-\d+\b")
"""In the names of files that Hugging Face splits weights into."""
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
    if path.suffix == ".distcp":
        raise InputError(distributed(path.parent))
    if path.name.endswith(".index.json"):
        whole = Path(path.name.removesuffix(".index.json"))
        parts = sorted(path.parent.glob(f"{whole.stem}-*-of-*{whole.suffix}"))
        what = joining(parts) if parts else "put it beside them"
        raise InputError(f"{path} is a list of the files of a network; {what}.")
    is_torchscript(path)  # which measures archives before they are unpacked
    what = "safetensors file" if path.suffix == ".safetensors" else "file of PyTorch weights"
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        contents = _Contents(most_bytes(size))
        if is_zip(path):
            return contents.read_zip(zipfile.ZipFile(path))  # stays open for the weights in it
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return contents.read(cast(IO[bytes], mapped))
    except RefusedError as error:
        raise InputError(f"{path} {error}") from error
    except Exception as error:  # damaged files raise anything
        reason = f" ({one_line(error, 100)})" if isinstance(error, pickle.UnpicklingError | SafetensorError) else ""
        raise InputError(f"{path} is not a {what}{reason}; check the path.") from error


def joining(parts: Sequence[Path]) -> str:
    """How to join the files that a network is split into."""
    safe = all(part.suffix == ".safetensors" for part in parts)
    read, write, joined = (
        ("safetensors.torch.load_file", "safetensors.torch.save_file", "joined.safetensors")
        if safe
        else ("torch.load", "torch.save", "joined.pt")
    )
    each = [f"**{read}({str(part)!r})" for part in parts[:3]] + ["…"] * (len(parts) > 3)
    return f"join them, as in {write}({{{', '.join(each)}}}, {joined!r}), and give {joined}"


def distributed(folder: Path) -> str:
    """What to say of a checkpoint of `torch.distributed.checkpoint`."""
    return (
        f"{folder} is a checkpoint of torch.distributed, in several files; join them with python -m "
        f"torch.distributed.checkpoint.format_utils dcp_to_torch {quote(str(folder))} joined.pt, and give joined.pt."
    )


class _Contents:
    """Reads files and those within them, which together may unpack to so many bytes and no more."""

    def __init__(self, most: int) -> None:
        self.left = most

    def take(self, nbytes: int) -> None:
        """Account for bytes before they are unpacked."""
        self.left -= nbytes
        if self.left < 0:
            raise RefusedError("unpacks to more than any file of weights does; check it.")

    def read(self, file: IO[bytes]) -> Any:
        """What is in a file of any form, known by how it begins."""
        head = file.read(512)
        file.seek(0)
        if head[:2] == b"\x1f\x8b" or head[257:262] == b"ustar":
            with tarfile.open(fileobj=file) as archive:
                return self.read_tar(archive)
        if head.startswith(ZIP):
            return self.read_zip(zipfile.ZipFile(file))
        if head[8:9] == b"{":
            return load(file.read())
        return read_stream(file)

    def read_zip(self, archive: zipfile.ZipFile) -> Any:
        """The object that `torch.save` or TorchScript wrote, or the files of another archive."""
        entries = archive.infolist()
        self.take(sum(entry.file_size for entry in entries))
        names = [entry.filename for entry in entries]
        if own := [name for name in names if PurePosixPath(name).name == "data.pkl"]:
            return read_archive(archive, min(own, key=len))
        return self.read_members({name: archive.read(name) for name in names if _holds_weights(name)}, names)

    def read_tar(self, archive: tarfile.TarFile) -> Any:
        """The files of an archive."""
        names, files = [], {}
        for member in archive:
            self.take(member.size + tarfile.BLOCKSIZE)
            names.append(member.name)
            if _holds_weights(member.name) and (file := archive.extractfile(member)):
                files[member.name] = file.read()
        return self.read_members(files, names)

    def read_members(self, files: dict[str, bytes], names: list[str]) -> dict[str, Any]:
        """The contents of files by their names, without folder and suffix unless another is called the same."""
        if not files:
            kind = "of NumPy arrays; save them with torch.save, as a dict of tensors"
            if not any(name.endswith(".npy") for name in names):
                kind = f"without a file of PyTorch weights ({', '.join(names)[:200]}); give that of the weights"
            raise RefusedError(f"is an archive {kind}.")
        paths = [PurePosixPath(name) for name in files]
        forms = ([path.stem for path in paths], [str(path.with_suffix("")) for path in paths], list(files))
        keys = next(form for form in forms if len(set(form)) == len(files))
        return {key: self.read(io.BytesIO(files[name])) for key, name in zip(keys, files, strict=True)}


def _holds_weights(name: str) -> bool:
    """Whether a member of an archive may be a file of weights, and not what macOS puts beside each file."""
    return name.endswith(WEIGHT_SUFFIXES) and not PurePosixPath(name).name.startswith("._")
