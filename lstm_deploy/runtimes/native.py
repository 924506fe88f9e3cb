"""C artifacts: compiled with the machine's own compiler, then called through `ctypes`.

A C file is a program, and one from elsewhere may do anything. So an artifact is opened only where it has been compiled
on this machine before: by the export that wrote it, or after somebody said that it is trusted (`build`). What was
compiled is kept by the hash of its text.
"""

import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lstm_deploy.artifacts import weights_file
from lstm_deploy.contract import (
    CONTRACT_KEY,
    Array,
    CInterface,
    Dim,
    Feeds,
    Outputs,
    Signature,
    TensorSpec,
    blank_inputs,
    carries_state,
    fill_template,
    layout_of,
    rollout_contract,
    sizes_of,
)
from lstm_deploy.errors import InputError, ProviderError, one_line

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-std=c99", "-O3", "-fPIC", "-shared")
CACHE = "LSTM_DEPLOY_CACHE"
"""Environment variable that names the folder of compiled artifacts."""
TIMEOUT_S = 600
_NAMES = re.compile(r"/\* precision (\w+), functions (\w+)_\* \*/")
_CONTRACT = re.compile(rf"\A/\* {re.escape(CONTRACT_KEY)}\n(.*?)\n\*/\n", re.DOTALL)

GLUE = """\
#include "@SOURCE@"

typedef struct {
  const void *weights;
  size_t rows, steps;
  @NAME@_state *states;
  void *workspace;
  void *arrays[@ARRAYS@]; /* inputs, then outputs */
} rows_call;

/* One call for the rows of a batch, each of which lies without gaps. */
void glue_rows(rows_call *all)
{
  const size_t steps = all->steps;
  size_t r;
  (void)steps;
  for (r = 0; r < all->rows; r++)
    @NAME@_sequence(@WEIGHTS@all->states + r, @STEPS@@ARGUMENTS@@WORKSPACE@);
}

size_t glue_state_bytes(void) { return sizeof(@NAME@_state); }
size_t glue_workspace_bytes(size_t steps) { (void)steps; return @BYTES@; }
"""


class NativeRuntime:
    """The compiled artifact; it keeps no state of its own, so threads may share it."""

    swallows_nan = False
    provider = "cpu"

    def __init__(self, path: Path, provider: str = "cpu", settings: Sequence[str] = ()) -> None:
        """Raises `InputError` for a file that is no C artifact, or was never compiled here."""
        if provider != "cpu" or settings:
            raise ProviderError(f"C runs on the CPU only; use --provider cpu, or the ONNX artifact on {provider}.")
        self.path = path
        self.interface = read_interface(path)
        self.signature = self.interface.signature
        self._library = ctypes.CDLL(str(compiled(path)))
        self.weights = self._mapped()
        """The address of the mapped weights; none where they are in the code."""
        self.arrays = [_rows_of(spec) for spec in (*self.signature.inputs, *self.signature.outputs)]
        states = self.signature.state_inputs
        self.state_arrays = [_rows_of(spec, self.signature.batch_axis_of_state) for spec in states]
        self.state_pairs = [(i.name, o.name) for i, o in zip(states, self.signature.state_outputs, strict=True)]
        self._fed = (*self.signature.inputs, *states)
        self._usual = self.signature.clamp({"batch": 1, "seq": self.signature.least_seq})
        self.call_type = _call_type(len(self.arrays))
        self.rows_function = self.function("glue_rows", [ctypes.c_void_p])
        self.workspace_bytes = self.function("glue_workspace_bytes", [ctypes.c_size_t], ctypes.c_size_t)
        self._check()

    def run(self, feeds: Feeds) -> Outputs:
        call = RowsCall(self, *self._sizes(feeds))
        for name, view in call.inputs.items():
            view[...] = feeds[name]
        call.set_state(feeds)
        call.run()
        state = call.get_state()
        return {**call.outputs, **{after: state[before] for before, after in self.state_pairs}}

    def declared(self) -> list[TensorSpec] | None:
        """C declares numbers of entries, which are compared when it is opened."""
        return None

    def misplaced(self) -> list[str]:
        return []

    def active(self) -> list[str]:
        return ["cpu"]

    def recur(self, batch: int, seq: int) -> "RowsCall":
        sizes = self.signature.clamp(sizes_of(self.signature.inputs, batch, seq))
        call = RowsCall(self, sizes["batch"], sizes["seq"])
        for name, value in blank_inputs(self.signature.inputs, sizes).items():
            call.inputs[name][...] = value
        call.set_state(self.signature.initial_state(batch))
        return call

    @cached_property
    def rollout(self) -> "NativeRollout | None":
        """The rollout that the same file holds, if the model can feed itself."""
        return NativeRollout(self) if self.interface.has_rollout else None

    def close(self) -> None:
        """A library stays loaded: it is small, and unloading it under a thread that runs it would crash."""

    def function(self, name: str, arguments: Sequence[Any] | None = None, result: Any = None) -> Any:
        """A function of the library."""
        found = getattr(self._library, name)
        found.restype = result
        if arguments is not None:
            found.argtypes = arguments
        return found

    def _sizes(self, feeds: Feeds) -> tuple[int, int]:
        """Rows and steps of some inputs; raises `InputError` where they do not fit together."""
        sizes: dict[str, int] = {}
        for spec in self._fed:
            shape = np.shape(feeds[spec.name])
            fits = len(shape) == len(spec.shape) and all(
                size == (sizes.setdefault(dim, size) if isinstance(dim, str) else dim)
                for size, dim in zip(shape, spec.shape, strict=True)
            )
            if not fits or 0 in shape:
                raise InputError(
                    f"{spec.name} has the shape {list(shape)}; feed {spec}, as many rows and steps as the others."
                )
        sizes = {**self._usual, **sizes}
        if (wanted := self.signature.clamp(sizes)) != sizes:
            raise InputError(f"A call of this model takes {wanted['seq']} steps, not {sizes['seq']}; feed as many.")
        return sizes["batch"], sizes["seq"]

    def _mapped(self) -> int | None:
        if not self.interface.mapped:
            return None
        beside = weights_file(self.path)
        mapper = self.function(f"{self.interface.name}_map", [ctypes.c_char_p], ctypes.c_void_p)
        address: int | None = mapper(os.fsencode(beside))
        if not address:
            raise InputError(f"{beside} is missing, or holds the weights of another model; export the model again.")
        return address

    def _check(self) -> None:
        """Raise `InputError` where the code's state is not that of the contract."""
        wanted = sum(each.size for each in self.interface.states_in) * 4
        if self.function("glue_state_bytes", [], ctypes.c_size_t)() != wanted:
            raise InputError(f"The state of {self.path} is not that of its contract; export the model again.")


class RowsCall:
    """Buffers for some rows and steps, and the call on them: a `Recurrence`.

    Rows lie one after the other, whatever the contract's layout; its arrays are views of them.
    """

    def __init__(self, runtime: NativeRuntime, batch: int, steps: int) -> None:
        sizes = {"batch": batch, "seq": steps}
        rows = [np.zeros(each.sized(sizes), each.dtype) for each in runtime.arrays]
        views = {each.name: row.transpose(each.order) for each, row in zip(runtime.arrays, rows, strict=True)}
        self.inputs: Outputs = {spec.name: views[spec.name] for spec in runtime.signature.inputs}
        self.outputs: Outputs = {spec.name: views[spec.name] for spec in runtime.signature.outputs}
        # One row for each row of the batch: the struct of the C code, which is floats alone.
        self.states = np.zeros((batch, sum(each.size for each in runtime.interface.states_in)), np.float32)
        self._state: Outputs = {}
        place = 0
        for each in runtime.state_arrays:
            shape = [batch, *each.sized(sizes)[1:]]
            part = self.states[:, place : place + prod(shape[1:])].reshape(shape)
            self._state[each.name] = part.transpose(each.order)
            place += prod(shape[1:])
        self._kept = rows, np.zeros(runtime.workspace_bytes(steps) // 8 + 1, np.float64)
        addresses = [self.states.ctypes.data, self._kept[1].ctypes.data, *(row.ctypes.data for row in rows)]
        self._call = runtime.call_type(runtime.weights, batch, steps, *addresses)
        function, address = runtime.rows_function, ctypes.addressof(self._call)
        self.step: Callable[[], None] = lambda: function(address)
        self.run = self.advance = self.step

    def get_state(self) -> Outputs:
        return {name: view.copy() for name, view in self._state.items()}

    def set_state(self, state: Feeds) -> None:
        for name, view in self._state.items():
            view[...] = state[name]


class NativeRollout:
    """The rollout of a C artifact, with the contract that `rollout_contract` derives."""

    swallows_nan = False
    rollout = None
    provider = "cpu"

    def __init__(self, model: NativeRuntime) -> None:
        self.model, self.signature = model, rollout_contract(model.signature)

    def run(self, feeds: Feeds) -> Outputs:
        return self._texts(feeds) if "noise" in feeds else self._forecasts(feeds)

    def declared(self) -> list[TensorSpec] | None:
        return None

    def misplaced(self) -> list[str]:
        return []

    def active(self) -> list[str]:
        return self.model.active()

    def recur(self, batch: int, seq: int) -> RowsCall:  # noqa: ARG002 - the protocol's
        raise InputError("A rollout makes many steps in a call, and has no steps of its own; stream its model.")

    def close(self) -> None:
        """As the model."""

    def _forecasts(self, feeds: Feeds) -> Outputs:
        x, steps = np.ascontiguousarray(feeds["x"], np.float32), int(feeds["steps"])
        y = np.zeros((len(x), steps, x.shape[2]), np.float32)
        if not carries_state(self.model.signature):
            for row, made in zip(x, y, strict=True):
                self._call(row.ctypes.data, len(row), made.ctypes.data, steps)
            return {"y": y}
        call = self._started(feeds, len(x))
        for state, row, made in zip(call.states, x, y, strict=True):
            self._call(state.ctypes.data, row.ctypes.data, len(row), made.ctypes.data, steps)
        return {"y": y, **self._after(call)}

    def _texts(self, feeds: Feeds) -> Outputs:
        x, noise = np.ascontiguousarray(feeds["x"], np.int64), np.ascontiguousarray(feeds["noise"], np.float32)
        stop, steps = int(feeds["stop"]), noise.shape[1]
        y = np.full((len(x), steps), stop, np.int64)
        call, counts = self._started(feeds, len(x)), []
        drawn = (ctypes.c_float(float(feeds["temperature"])), int(feeds["top_k"]), stop)
        for state, row, length, numbers, made in zip(call.states, x, feeds["lengths"], noise, y, strict=True):
            given = (state.ctypes.data, row.ctypes.data, int(length), numbers.ctypes.data)
            counts.append(self._call(*given, *drawn, made.ctypes.data, steps))
        for state, count in zip(call.states, counts, strict=True):  # `stop` is fed while other rows go on
            self._feed(state, stop, max(counts) - count)
        return {"y": y[:, : max(counts)], **self._after(call)}

    def _feed(self, state: Array, token: int, count: int) -> None:
        """Feed a token to one row some times."""
        one, (x,) = self.model.recur(1, 1), self.model.signature.inputs
        one.inputs[x.name][...] = layout_of(self.model.signature).inputs(np.array([[token]]))
        one.states[0] = state
        for _ in range(count):
            one.step()
        state[...] = one.states[0]

    def _call(self, *arguments: Any) -> int:
        interface = self.model.interface
        function = self.model.function(f"{interface.name}_rollout", result=ctypes.c_size_t)
        weights = [ctypes.c_void_p(self.model.weights)] if interface.mapped else []
        typed = [each if isinstance(each, ctypes.c_float) else ctypes.c_size_t(each) for each in arguments]
        return int(function(*weights, *typed))

    def _started(self, feeds: Feeds, batch: int) -> RowsCall:
        call = RowsCall(self.model, batch, 1)
        call.set_state(feeds)
        return call

    def _after(self, call: RowsCall) -> Outputs:
        state = call.get_state()
        return {after.name: state[name] for after, name in zip(self.signature.state_outputs, state, strict=True)}


class RowsArray(NamedTuple):
    """An array of the contract as C has it: the rows of the batch first."""

    name: str
    dtype: str
    dims: tuple[Dim, ...]
    order: tuple[int, ...]
    """Its axes in the order of the contract."""

    def sized(self, sizes: Mapping[str, int]) -> list[int]:
        """The shape in numbers."""
        return [sizes[dim] if isinstance(dim, str) else dim for dim in self.dims]


def _rows_of(spec: TensorSpec, axis: int | None = None) -> RowsArray:
    """`axis` is that of the rows; where it is not given it is that of `batch`, and a tensor without one has one row."""
    if axis is None:
        axis = spec.shape.index("batch") if "batch" in spec.shape else None
    numbers = list(range(len(spec.shape)))
    order = numbers if axis is None else [*numbers[1 : axis + 1], 0, *numbers[axis + 1 :]]
    dims = spec.shape if axis is None else (spec.shape[axis], *spec.shape[:axis], *spec.shape[axis + 1 :])
    return RowsArray(spec.name, spec.dtype, dims, tuple(order))


def _call_type(arrays: int) -> Any:
    """`rows_call` of the glue."""
    pointers = [(f"array{number}", ctypes.c_void_p) for number in range(arrays)]
    fields = [
        ("weights", ctypes.c_void_p),
        ("rows", ctypes.c_size_t),
        ("steps", ctypes.c_size_t),
        ("states", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
    ]
    return type("RowsCallStruct", (ctypes.Structure,), {"_fields_": fields + pointers})


def read_interface(path: Path) -> CInterface:
    """What a C artifact says of itself; raises `InputError` for a file that is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text ({one_line(error)}); check the path.") from error
    contract, names = _CONTRACT.match(text), _NAMES.search(text)
    if contract is None or names is None:
        raise InputError(f"{path} carries no contract, so its state is unknown; export it with lstm-deploy.")
    mapped = f"int {names[2]}_fits(const void *weights, size_t bytes)" in text
    return CInterface(names[2], Signature.from_json(contract[1]), names[1], mapped=mapped)


def precision_of(path: Path) -> str:
    """`float32` or `int8`, as the file says; raises `InputError` for a file that is no C artifact."""
    return read_interface(path).precision


def compiler() -> list[str]:
    """The C compiler of this machine, with its arguments: `CC` if that is set.

    Raises `InputError` where there is none.
    """
    try:
        given = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:
        raise InputError(
            f"CC is {os.environ['CC']!r}, which is no command ({error}); set it to a C compiler."
        ) from error
    if given:
        if shutil.which(given[0]) is None:
            raise InputError(f"CC is {given[0]!r}, which is not on PATH; set it to a C compiler, or unset it.")
        return given
    for name in COMPILERS:
        if shutil.which(name):
            return [name]
    raise InputError(
        "There is no C compiler on PATH (cc, gcc or clang), and C is proven by compiling it; install one, as with apt "
        "install gcc or xcode-select --install, or set CC."
    )


def is_compiled(path: Path) -> bool:
    """Whether an artifact was built here before."""
    return _library(path).is_file()


def compiled(path: Path) -> Path:
    """The library of an artifact that was built here before; raises `InputError` for another."""
    library = _library(path)
    if not library.is_file():
        compiler()  # if there is none, that is what has to be said
        raise InputError(
            f"{path} was not compiled on this machine, or was changed since, and a C file can do anything; read it, or "
            f"know where it is from, then run lstm-deploy validate {path.parent} --trust-c."
        )
    return library


def build(path: Path) -> None:
    """Compile an artifact that is trusted, so that it can be opened; nothing where that was done before.

    Raises `InputError` where there is no compiler, or it refuses the file.
    """
    library, interface = _library(path), read_interface(path)
    if library.is_file():
        return
    command = compiler()
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{library.parent} cannot be made for compiled C ({one_line(error)}); name another folder with {CACHE}."
        ) from error
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        for file in (path, path.with_suffix(".h")):
            shutil.copy(file, folder)
        source, made = Path(folder) / "glue.c", Path(folder) / "library"
        source.write_text(glue(path.name, interface), encoding="utf-8")
        try:
            done = subprocess.run(
                [*command, *FLAGS, str(source), "-o", str(made), "-lm"],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(
                f"{command[0]} did not compile {path} ({one_line(error)}); try another with CC."
            ) from error
        if done.returncode:
            raise InputError(
                f"{command[0]} cannot compile {path} ({_first_line(done.stderr)}); export the model "
                "again, or try another compiler with CC."
            )
        made.replace(library)


def _first_line(message: str) -> str:
    lines = message.strip().splitlines()
    return next((line for line in lines if "error" in line), lines[0] if lines else "no message")


def _library(path: Path) -> Path:
    """Where the compiled artifact is kept: its name is the hash of all that decides what it is."""
    header = path.with_suffix(".h")
    if not header.is_file():
        raise InputError(f"{header} is missing beside {path.name}; export the model again.")
    digest = hashlib.sha256("\0".join((GLUE, *FLAGS, os.environ.get("CC", ""), platform.machine())).encode())
    for file in (path, header):
        digest.update(file.read_bytes())
    return cache_folder() / f"{digest.hexdigest()}.so"


def cache_folder() -> Path:
    """The folder of compiled artifacts: of the user alone, as what lies there is run."""
    if given := os.environ.get(CACHE):
        return Path(given).absolute()  # a name without a folder is looked for elsewhere
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "lstm-deploy"


def glue(source: str, interface: CInterface) -> str:
    """The C that calls an artifact for the rows of a batch."""
    arguments = []
    for number, each in enumerate((*interface.inputs, *interface.outputs)):
        rows = f" + r * {each.size}{' * steps' if each.has_time else ''}" if "batch" in each.spec.shape else ""
        arguments.append(f"({each.c_type} *)all->arrays[{number}]{rows}")
    dynamic = interface.mode.dynamic
    words = {
        "SOURCE": source,
        "NAME": interface.name,
        "ARRAYS": str(len(arguments)),
        "WEIGHTS": "all->weights, " if interface.mapped else "",
        "STEPS": "steps, " if dynamic or interface.mode.one_step else "",
        "ARGUMENTS": ", ".join(arguments),
        "WORKSPACE": "" if interface.mode.one_step else ", all->workspace",
        "BYTES": "0" if interface.mode.one_step else interface.workspace_macro,
    }
    return fill_template(GLUE, words)
