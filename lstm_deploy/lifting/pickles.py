"""Reads what `torch.save`, TorchScript and `pickle` write, without running anything that a file asks for.

A pickle is a program that names functions and classes to call. Here each name stands for a stub, which remembers what
it was given and does nothing; only the few that make tensors, and the containers around them, have a meaning. Weights
are read when they are used.
"""

import io
import pickle
import struct
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any, ClassVar

import torch

from lstm_deploy.lifting.stored_tensors import Storage, StoredTensor

MAGIC = 0x1950A86A20F9469CFC6C
"""The first object in files that PyTorch wrote before version 1.6."""
MOST_STEPS = 10_000_000
"""Of the program that a pickle is: a million numbers take one or two million, and a list of lists far more memory."""
_TORCHSCRIPT = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
_HOSTILE_MODULES = ("subprocess", "runpy", "pty", "shutil", "socket", "importlib", "ctypes", "webbrowser")
_HOSTILE = {
    "builtins": ("eval", "exec", "execfile", "compile", "open", "input", "breakpoint", "__import__"),
    "io": ("open", "open_code"),
    "os": ("system", "popen", "fork", "kill", "putenv", "remove", "unlink", "rename", "rmdir", "removedirs", "chmod"),
}
"""Functions that no file of weights calls. None would be called here either: it is to say what the file is."""
_BYTE_ORDER = "was written on a machine with another order of bytes; save it again on one like this."
_SAME_MODULE = {"posix": "os", "nt": "os", "_io": "io"}


class RefusedError(Exception):
    """What a file is that is not read; the message continues a sentence that begins with its name."""


class Stub:
    """An object of any class: what the file holds of it, and none of its code."""

    kind = ""
    """Module and name of its class."""
    content: dict[Any, Any]
    """Attributes, and entries where it is a container."""

    def __new__(cls, *arguments: Any, **_: Any) -> "Stub":
        stub = super().__new__(cls)
        # What a function was given may hold weights, as the dict in types.SimpleNamespace(**weights).
        stub.content = dict(enumerate(arguments))
        return stub

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __repr__(self) -> str:
        return self.kind

    def __call__(self, *_: Any, **__: Any) -> "Stub":
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        self.content[key] = value

    def append(self, value: Any) -> None:
        """Take an element of a list or a set."""
        self.content[len(self.content)] = value

    add = append

    def take_state(self, state: Any) -> None:
        """Take the attributes of the object, in any of the forms in which pickle keeps them."""
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        if all(part is None or isinstance(part, dict) for part in parts):
            for part in parts:
                self.content |= part or {}
        elif isinstance(state, list | tuple):
            self.content |= enumerate(state)


class Steps(dict[int, Any]):
    """What is done at each step of a pickle, by its code; raises `RefusedError` at one too many."""

    left: int = MOST_STEPS

    def __getitem__(self, code: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise RefusedError("holds more values than a file of weights; check it.")
        return super().__getitem__(code)


class Reader(pickle._Unpickler):
    """Unpickles one object.

    PyTorch's own safe reader refuses a file for one object of an unknown class. Python's reader in Python is used, as
    the one in C takes memory for as many objects as a file claims to have.
    """

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    proto: int
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: IO[bytes], read: Callable[[str, int], bytes], steps: Steps | None = None) -> None:
        """`read` returns so many bytes of a storage by its key; pickles within a pickle share its `steps`."""
        super().__init__(file, encoding="utf-8", errors="backslashreplace")
        self.read_storage = read
        self.steps: Steps = Steps(Reader.dispatch) if steps is None else steps
        self.dispatch = self.steps  # type: ignore[misc]  # each file counts its own
        self.meanings: dict[Any, Any] = _MEANINGS | {"torch.storage._load_from_bytes": self._read_bytes}
        self.storages: dict[str, Storage] = {}
        self.classes: dict[str, type[Stub]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the file stands for; raises `RefusedError` for a function that only an attacker would call."""
        if self.proto < 3:  # which has the names of Python 2
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        module = _SAME_MODULE.get(module, module)
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        if module.partition(".")[0] == "torch" and name.endswith("Storage"):
            return _storage_dtype(name)
        if module in ("torch._utils", "torch._tensor", "torch.tensor") and name.startswith("_rebuild"):
            return _REBUILD.get(name) or _not_plain(name)
        if module == "torch.jit._pickle" and name in _TORCHSCRIPT:
            return lambda value, *_: value
        if found := self.meanings.get(f"{module}.{name}"):
            return found
        if module.partition(".")[0] in _HOSTILE_MODULES or name in _HOSTILE.get(module, ()):
            raise RefusedError(
                f"asks for {module}.{name} when it is opened, which no file of weights needs; get the weights from a "
                "source that you trust (--trust-pickle would run what it asks for)."
            )
        kind = f"{module}.{name}" if name != "getattr" else "a method or a member of a class"
        if kind not in self.classes:
            self.classes[kind] = type("Stub", (Stub,), {"kind": kind})
        return self.classes[kind]

    def _read_bytes(self, content: bytes) -> Any:
        """A storage within a plain pickle, which is itself what PyTorch before version 1.6 wrote."""
        return read_stream(io.BytesIO(content), self.steps)

    def persistent_load(self, pid: Any) -> Any:
        """The storage, or the class of a module, that PyTorch keeps outside the pickle."""
        kind, value, key, *rest = pid
        if kind == "module":
            return value
        if kind != "storage" or not isinstance(key, str) or not isinstance(value, torch.dtype):
            raise pickle.UnpicklingError("it has an unknown kind of storage")
        numel = _size(rest[1])
        storage = self.storages.get(key)
        if storage is None:
            storage = self.storages[key] = Storage(value, numel, lambda nbytes: self.read_storage(key, nbytes))
        if len(rest) > 2 and rest[2]:  # a view, as PyTorch 0.3 wrote it
            _, offset, numel = rest[2]
            return StoredTensor(storage, value, (_size(numel),), (1,), _size(offset))
        return storage

    def get_extension(self, code: int) -> None:
        """Refuse objects of this process that a number in the file stands for."""
        raise pickle.UnpicklingError(f"it uses the extension {code}")

    def load_build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Stub):
            self.stack[-1].take_state(state)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][_key(key, self.stack[-1])] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][_key(key, self.stack[-1])] = value

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(_dict(zip(items[::2], items[1::2], strict=True)))

    def load_set(self) -> None:
        self.append(self.find_class("builtins", "set")())

    def load_additems(self) -> None:
        for value in self.pop_mark():
            self.stack[-1].add(value)

    def load_frozenset(self) -> None:
        self.append(self.find_class("builtins", "frozenset")(self.pop_mark()))

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))  # no more than there is

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.EMPTY_SET[0]] = load_set
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset


def read_archive(archive: zipfile.ZipFile, name: str) -> Any:
    """The object in an archive of `torch.save` or TorchScript; `name` is that of its `data.pkl`."""
    folder = name.removesuffix("data.pkl")
    big_endian = f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") == b"big"
    if big_endian:
        raise RefusedError(_BYTE_ORDER)

    def read(key: str, nbytes: int) -> bytes:
        with archive.open(f"{folder}data/{key}") as entry:
            return entry.read(nbytes)

    return Reader(io.BytesIO(archive.read(name)), read).load()


def read_stream(file: IO[bytes], steps: Steps | None = None) -> Any:
    """The object in a file of plain pickle, or of PyTorch before version 1.6."""
    reader = Reader(file, lambda key, _: storages[key], steps)
    storages: dict[str, bytes] = {}
    if (content := reader.load()) != MAGIC:
        return content
    steps = reader.steps
    Reader(file, _no_storage, steps).load()  # the version of the format, 1001
    if Reader(file, _no_storage, steps).load().get("little_endian") is not True:
        raise RefusedError(_BYTE_ORDER)
    reader = Reader(file, lambda key, _: storages[key], steps)
    content = reader.load()
    for key in Reader(file, _no_storage, steps).load():
        (numel,) = struct.unpack("<q", file.read(8))
        storages[key] = file.read(_size(numel) * reader.storages[key].dtype.itemsize)
    return content


def _no_storage(key: str, _: int) -> bytes:
    raise pickle.UnpicklingError(f"it has no storage {key}")


def _storage_dtype(name: str) -> torch.dtype:
    """The dtype of a class of storages: that of `FloatStorage` is float32."""
    if name in ("UntypedStorage", "TypedStorage"):
        return torch.uint8
    return _DTYPES[name.removesuffix("Storage")]


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> StoredTensor:
    dtype = next((value for value in rest if isinstance(value, torch.dtype)), storage.dtype)
    if isinstance(storage, StoredTensor):  # a view, as PyTorch 0.3 wrote it
        storage, offset = storage.storage, storage.offset + _size(offset)
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("it has a tensor without a storage")
    kind = "negated or conjugated view" if any(isinstance(value, dict) and value for value in rest) else ""
    return StoredTensor(storage, dtype, tuple(map(_size, shape)), tuple(map(_size, stride)), _size(offset), kind)


def _rebuild_quantized(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    tensor = _rebuild_tensor(storage, offset, shape, stride)
    tensor.kind = "quantized"
    return tensor


def _rebuild_subclass(function: Any, _: Any, arguments: Any, *__: Any) -> Any:
    return function(*arguments)


def _not_plain(name: str) -> Callable[..., StoredTensor]:
    """A function for a tensor whose numbers cannot be read, as a sparse one."""

    def rebuild(*_: Any) -> StoredTensor:
        return StoredTensor(
            Storage(torch.uint8, 0, lambda _: b""), torch.uint8, (0,), (1,), 0, name.removeprefix("_rebuild_")
        )

    return rebuild


def _reconstruct(cls: Any, _: Any = None, state: Any = None) -> Any:
    stub = cls.__new__(cls)
    if isinstance(stub, Stub) and isinstance(state, dict):
        stub.content |= state
    return stub


def _dict(pairs: Iterable[Any] | Mapping[Any, Any] = (), *_: Any) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key, value in pairs.items() if isinstance(pairs, dict) else pairs:
        found[_key(key, found)] = value
    return found


def _default_dict(_: Any = None, pairs: Any = ()) -> dict[Any, Any]:
    return _dict(pairs)


def _key(key: Any, container: Any) -> Any:
    """A key as it is, but a tuple as a text: Python hashes nested ones recursively, without a limit."""
    if not isinstance(key, tuple):
        return key
    if all(isinstance(part, str | int | float) for part in key):
        return str(key)
    return f"key {len(container.content if isinstance(container, Stub) else container)}"


def _size(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**48:
        raise pickle.UnpicklingError(f"it has the size {value!r:.40}")
    return value


_DTYPES = {
    **{"Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16},
    **{"Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8},
    **{"Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128},
    **{"QInt8": torch.qint8, "QUInt8": torch.quint8, "QInt32": torch.qint32},
}
_REBUILD: dict[str, Callable[..., Any]] = {
    "_rebuild_tensor": _rebuild_tensor,
    "_rebuild_tensor_v2": _rebuild_tensor,
    "_rebuild_tensor_v3": _rebuild_tensor,
    "_rebuild_qtensor": _rebuild_quantized,
    "_rebuild_parameter": lambda value, *_: value,
    "_rebuild_parameter_with_state": lambda value, *_: value,
    "_rebuild_from_type": _rebuild_subclass,
    "_rebuild_from_type_v2": _rebuild_subclass,
}
_MEANINGS: dict[str, Any] = {
    "collections.OrderedDict": _dict,
    "collections.Counter": _dict,
    "collections.defaultdict": _default_dict,
    "builtins.dict": _dict,
    "torch.Size": lambda values=(): tuple(values),
    "_codecs.encode": lambda text, *_: text.encode("latin1"),
    "copyreg._reconstructor": _reconstruct,
    "copyreg.__newobj__": _reconstruct,
}
