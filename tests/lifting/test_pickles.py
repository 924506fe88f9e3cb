"""Files of PyTorch and of pickle are read, whatever is in them, and nothing in them runs."""

import argparse
import datetime
import enum
import functools
import io
import os
import pickle
import re
import struct
import subprocess
import time
import zipfile
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lstm_deploy.errors import InputError
from lstm_deploy.lifting import pickles
from lstm_deploy.lifting.recognition import recognize
from lstm_deploy.lifting.weight_choice import choose, read_weights
from lstm_deploy.lifting.weight_files import open_weights


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # all of torch.jit
def test_a_torchscript_archive_gives_its_weights(tmp_path):
    module = nn.Sequential(nn.Linear(2, 3))
    torch.jit.save(torch.jit.trace(module, torch.zeros(1, 2)), tmp_path / "m.pt")
    assert set(read_weights(tmp_path / "m.pt")) == {"0.weight", "0.bias"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # all of torch.jit
def test_code_in_a_torchscript_archive_never_runs(tmp_path, capfd):
    class Speaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.arange(6.0).reshape(2, 3).t())

        def forward(self, x: torch.Tensor):
            return x

        @torch.jit.export
        def __getstate__(self):
            return (self.weight, self.training)

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, bool]):
            print("code of the file runs")  # noqa: T201
            self.weight = state[0]
            self.training = state[1]

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.lstm = Speaks(), nn.LSTM(3, 4)

        def forward(self, x: torch.Tensor):
            return self.inner(x)

    module = Outer()
    torch.jit.save(torch.jit.script(module), tmp_path / "m.pt")
    weights = read_weights(tmp_path / "m.pt")
    assert capfd.readouterr().out == ""
    assert weights["lstm.weight_hh_l0"].equal(module.lstm.weight_hh_l0)


class Point(dict):
    """A dict of a class of its own, as many configurations are."""


class Colour(enum.Enum):
    RED = 1


BESIDE = {
    "NumPy number": np.float64(0.5),
    "NumPy array": np.arange(3),
    "namespace": argparse.Namespace(lr=1, nested=argparse.Namespace(a=Path("/x"))),
    "path": Path("/x"),
    "deque": deque([1.0, 2.0], maxlen=2),
    "set": {1, 2},
    "tuple keys": {((1, 2), 3): 1, (1, 2): 2},
    "date": datetime.datetime(2020, 1, 1),
    "enum": Colour.RED,
    "dict of a class": Point(a=1),
    "class": nn.LSTM,
    "function": torch.sigmoid,
    "dtype": torch.float16,
    "device": torch.device("cpu"),
    "partial": functools.partial(max, 1),
    "pattern": re.compile("a"),
    "complex": 1j,
    "bytes": bytearray(b"abc"),
    "nested": [{"a": [Point(b=Path("x"))]}],
}


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "protocol 0", "protocol 5"])
def test_weights_are_read_whatever_lies_beside_them(tmp_path, beside, form):
    state = nn.LSTM(3, 4).state_dict()
    content = {"first": BESIDE[beside], "state_dict": state, "last": BESIDE[beside]}
    match form:
        case "zip" | "legacy":
            torch.save(content, tmp_path / "m.pt", _use_new_zipfile_serialization=form == "zip")
        case "protocol 5":
            torch.save(content, tmp_path / "m.pt", pickle_protocol=5)
        case _:
            (tmp_path / "m.pt").write_bytes(pickle.dumps(content, protocol=0 if form == "protocol 0" else None))
    weights = read_weights(tmp_path / "m.pt")
    assert list(weights) == list(state)
    assert all(weights[name].equal(value) for name, value in state.items())


@pytest.mark.parametrize("beside", ["NumPy number", "namespace", "path", "enum", "dict of a class", "class", "set"])
def test_what_is_left_out_is_named(tmp_path, beside):
    torch.save({"state_dict": nn.LSTM(3, 4).state_dict(), "extra": BESIDE[beside]}, tmp_path / "m.pt")
    file = open_weights(tmp_path / "m.pt")
    assert list(file.objects) == ["extra"]
    assert file.objects["extra"] in file.left_out()


TENSORS = {
    "transposed": lambda: torch.randn(3, 5).t(),
    "slice": lambda: torch.randn(10, 4)[2:7, 1:3],
    "expanded": lambda: torch.randn(1, 4).expand(3, 4),
    "parameter": lambda: nn.Parameter(torch.randn(3)),
    "float16": lambda: torch.randn(3).half(),
    "bfloat16": lambda: torch.randn(3).bfloat16(),
    "float64": lambda: torch.randn(3).double(),
    "int8": lambda: torch.arange(5, dtype=torch.int8),
    "uint16": lambda: torch.arange(5).to(torch.uint16),
    "float8": lambda: torch.randn(4).to(torch.float8_e4m3fn),
    "bool": lambda: torch.tensor([True, False]),
    "number": lambda: torch.tensor(2.5),
    "empty": lambda: torch.empty(0, 3),
}


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_are_what_pytorch_reads(tmp_path, kind, legacy):
    if legacy and kind in ("float8", "uint16"):
        pytest.skip("PyTorch does not write it so")
    tensor = TENSORS[kind]().detach()
    content = {"a": tensor, "tied": tensor, "p": TENSORS[kind]()}
    torch.save(content, tmp_path / "m.pt", _use_new_zipfile_serialization=not legacy)
    expected = torch.load(tmp_path / "m.pt", weights_only=True)
    for name, value in open_weights(tmp_path / "m.pt").tensors.items():
        assert value.load().dtype == expected[name].dtype
        assert value.load().float().equal(expected[name].float())


def test_a_view_that_pytorch_negates_when_it_is_used_is_no_plain_tensor(tmp_path):
    torch.save({"weight_ih_l0": torch.ones(2, 3, dtype=torch.complex64).conj().imag}, tmp_path / "m.pt")
    with pytest.raises(InputError, match="not a plain tensor"):
        read_weights(tmp_path / "m.pt")


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("form", ["zip", "pickle"])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "os.system"), (open, "io.open"), (eval, "builtins.eval"), (subprocess.run, "subprocess.run")],
)
def test_a_file_that_would_run_code_is_called_so(tmp_path, function, name, form):
    content = {"state_dict": nn.LSTM(3, 4).state_dict(), "extra": Runs(function, f"touch {tmp_path / 'owned'}")}
    if form == "zip":
        torch.save(content, tmp_path / "m.pt")
    else:
        (tmp_path / "m.pt").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=rf"m\.pt asks for {re.escape(name)} when it is opened"):
        read_weights(tmp_path / "m.pt")
    assert not (tmp_path / "owned").exists()


def test_no_function_of_any_name_runs(tmp_path):
    """Even one that is not known as dangerous is never called, and named as left out."""
    content = {"state_dict": nn.LSTM(3, 4).state_dict(), "extra": Runs(os.mkdir, str(tmp_path / "owned"))}
    torch.save(content, tmp_path / "m.pt")
    assert open_weights(tmp_path / "m.pt").objects == {"extra": "os.mkdir"}
    assert not (tmp_path / "owned").exists()


def archive(path, program, **storages):
    """An archive of `torch.save` with any program as its pickle."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m/data.pkl", program)
        for key, content in storages.items():
            file.writestr(f"m/data/{key.strip('_')}", content)
    return path


def stored(shape, stride, numel, name="lstm.weight_ih_l0"):
    """A pickle of one tensor with these claims about its storage."""
    constant = lambda value: pickle.dumps(value, 2)[2:-1]  # noqa: E731
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((" + constant("storage") + b"ctorch\nFloatStorage\n"
    tensor += constant("0") + constant("cpu") + constant(numel) + b"tQ" + constant(0) + constant(shape)
    return b"\x80\x02}" + constant(name) + tensor + constant(stride) + constant(False) + b"}tRs."


DEEP_TUPLE = b")" + b"\x85" * 300_000
HOSTILE = {
    "a size of 2**31": stored((2**33, 2**31), (2**31, 1), 2**64),
    "a tensor larger than its file": stored((2**33, 4), (0, 0), 4),
    "a tensor beyond its storage": stored((16, 3), (3, 1), 4),
    "a storage with fewer numbers than it says": stored((16, 3), (3, 1), 48),
    "a negative size": stored((-1, 3), (3, 1), 4),
    "a memo of 2**31 objects": b"\x80\x02]r\xff\xff\xff\x7f.",
    "a text of a terabyte": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"a.",
    "an array of a terabyte": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"a.",
    "lists in lists": b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b".",
    "tuples in tuples as a key": b"\x80\x02}(" + DEEP_TUPLE + b"K\x01u.",
    "tuples in tuples in a set": b"\x80\x04\x8f(" + DEEP_TUPLE + b"\x90.",
    "tuples in tuples in a frozen set": b"\x80\x04(" + DEEP_TUPLE + b"\x91.",
    "tuples in tuples in an ordered dict": b"\x80\x02ccollections\nOrderedDict\n((" + DEEP_TUPLE + b"K\x01ttR.",
    "lists that double": b"\x80\x02]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60)) + b".",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "another storage": b"\x80\x02K\x01Q.",
    "an extension": b"\x80\x02\x82\x01.",
    "attributes of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.",
    "a method of a function": b"\x80\x04\x8c\x08builtins\x8c\x0deval.__call__\x93.",
    "bytes that are no storage": b"\x80\x02ctorch.storage\n_load_from_bytes\nX\x05\x00\x00\x00hello\x85R.",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickles_are_refused_in_little_time_and_memory(tmp_path, kind):
    archive(tmp_path / "m.pt", HOSTILE[kind], _0=bytes(16))
    with pytest.raises(InputError):
        read_weights(tmp_path / "m.pt")


def test_a_function_keeps_its_attributes(tmp_path):
    """A pickle may set attributes of what it names."""
    program = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x05\x00\x00\x00ownedK\x01sb."
    with pytest.raises(InputError):
        read_weights(archive(tmp_path / "m.pt", program))
    assert not hasattr(torch._utils._rebuild_tensor_v2, "owned")
    assert not hasattr(pickles._rebuild_tensor, "owned")


def test_an_archive_that_unpacks_to_far_more_than_its_weights_is_refused(tmp_path):
    """In a ratio that no file of weights has, since they hardly compress."""
    path = archive(tmp_path / "m.pt", stored((16, 3), (3, 1), 48), _0=bytes(50_000_000))
    with pytest.raises(InputError, match=r"unpacks to \d+ times its size"):
        read_weights(path)


def test_the_steps_of_pickles_within_a_pickle_are_counted_together(tmp_path, monkeypatch):
    """Else a file of kilobytes takes hours, by naming the same pickle again and again."""
    monkeypatch.setattr(pickles.Steps, "left", 20_000)
    inner = b"\x80\x02" + b"]0" * 4_000 + b"N."
    once = b"ctorch.storage\n_load_from_bytes\nh\x00\x85R"
    head = b"\x80\x04B" + struct.pack("<I", len(inner)) + inner + b"\x940("
    (tmp_path / "m.pkl").write_bytes(head + once + b"t.")
    with pytest.raises(InputError, match="holds no weights"):
        read_weights(tmp_path / "m.pkl")
    (tmp_path / "m.pkl").write_bytes(head + once * 3 + b"t.")
    with pytest.raises(InputError, match="holds more values than a file of weights"):
        read_weights(tmp_path / "m.pkl")


def test_archives_within_an_archive_may_unpack_to_no_more_together(tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m/data.pkl", b"\x80\x02}.")
        file.writestr("m/data/0", bytes(10_000_000))
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as file:
        for index in range(3):
            file.writestr(f"{index}.pt", inner.getvalue())
    with pytest.raises(InputError, match="unpacks to more than any file of weights does"):
        read_weights(tmp_path / "m.zip")


def test_no_more_of_a_storage_is_unpacked_than_its_tensor_has(tmp_path):
    path = archive(tmp_path / "m.pt", stored((4, 3), (3, 1), 12), _0=bytes(12_000_000))
    tensor = open_weights(path).tensors["lstm.weight_ih_l0"]
    assert len(tensor.storage.read(48)) == 48
    assert tensor.load().shape == (4, 3)


def test_many_empty_tensors_take_seconds(tmp_path):
    one = stored((0,), (1,), 0)
    body = one[one.index(b"ctorch") : -2]
    names = (pickle.dumps(f"layers.{index}.weight", 2)[2:-1] for index in range(30_000))
    archive(tmp_path / "m.pt", b"\x80\x02}(" + b"".join(name + body for name in names) + b"u.", _0=b"")
    start = time.process_time()
    assert len(open_weights(tmp_path / "m.pt").tensors) == 30_000
    assert time.process_time() - start < 20


def test_many_lstms_are_refused_in_seconds(tmp_path):
    """What to type is sought for the first few alone."""
    tensor = torch.empty(0)
    torch.save({f"layers.{index}.weight_ih_l0": tensor for index in range(20_000)}, tmp_path / "m.pt")
    start = time.process_time()
    choice = choose(tmp_path / "m.pt", None)
    with pytest.raises(InputError, match="it has 20000 recurrent layers"):
        recognize(choice.weights, (), tmp_path / "m.pt", choice.key)
    assert time.process_time() - start < 20
