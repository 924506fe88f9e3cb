"""The state contract: names, shapes and meaning of everything that enters and leaves an exported model.

    (x, h_in, c_in) -> (y, h_out, c_out)

It knows no framework and no file format; every artifact carries its JSON.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, cast, get_args

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from lstm_deploy.contract.cells import LSTM, Cell, CellState
from lstm_deploy.contract.tasks import Task
from lstm_deploy.errors import InputError

CONTRACT_KEY = "lstm_deploy.contract"
"""Key of the contract in the `metadata_props` of an ONNX file."""
CONTRACT_FILE = "contract.json"
"""Name of the contract among the extra files of a TorchScript archive."""
SCHEMA_VERSION = 1

T = TypeVar("T")
Array = NDArray[Any]
Feeds = Mapping[str, Array]
Outputs = dict[str, Array]
Dim = int | str
DType = Literal["float32", "float64", "float16", "int64", "int32", "bool"]
StateLayout = Literal["layers-first", "batch-first"]
StateDtype = Literal["float32", "float16"]
Streaming = Literal["exact", "state-only", "none"]
StatePolicy = Literal["reset", "carry"]

_SPEC = re.compile(r"^(?:(?P<name>\w+):)?(?P<dtype>\w+)\[(?P<dims>[^\]]*)\]$")


class TensorSpec(Struct, frozen=True, kw_only=True):
    """One tensor: a name in the shape is dynamic, a number is fixed."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]
    low: tuple[float, ...] | None = None
    """Smallest value seen in training: one number, or one for each entry of the last axis."""
    high: tuple[float, ...] | None = None
    """Largest value seen in training, as `low`; for tokens, the last valid one."""
    is_lengths: bool = False
    """Whether it gives the steps of each row that count, the others being padding."""

    @classmethod
    def parse(cls, text: str, name: str | None = None) -> "TensorSpec":
        """Read `float32[batch,seq,40]`, or `mels:float32[batch,seq,40]` where no name is given apart.

        Raises `InputError` for anything else.
        """
        match = _SPEC.match(text.replace(" ", ""))
        if match is None or not (name or match["name"]):
            raise InputError(
                f"{text!r} is not an input specification; write NAME:DTYPE[DIMS], as in x:float32[batch,seq,40]."
            )
        dtype, name = match["dtype"], name or match["name"]
        if dtype not in get_args(DType):
            raise InputError(f"{dtype!r} is not a data type of an input; use float32 for values or int64 for tokens.")
        dims: list[Dim] = []
        for dim in filter(None, match["dims"].split(",")):
            number = dim.isascii() and dim.isdigit()
            if not (number and int(dim) > 0) and not dim.isidentifier():
                raise InputError(
                    f"{dim!r} in {text!r} is not a dimension; use a name (dynamic) or a positive number (fixed)."
                )
            dims.append(int(dim) if number else dim)
        is_lengths = dtype in ("int32", "int64") and dims == ["batch"] and "len" in name.lower()
        return cls(name=name, dtype=cast(DType, dtype), shape=tuple(dims), is_lengths=is_lengths)

    def sized(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape in numbers, with each dynamic name looked up in `sizes`."""
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in self.shape)

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


class RecurrentSpec(Struct, frozen=True, kw_only=True):
    """One recurrent module of the network, and the names of its state in the contract."""

    module: str
    """Path inside the network, as in `named_modules()`."""
    prefix: str
    """What stands before `h_in`, …: empty where the network has one recurrent module."""
    input_size: int
    hidden_size: int
    proj_size: int
    """Size of a projected output, 0 for none."""
    num_layers: int
    num_directions: int
    initial_h: tuple[tuple[float, ...], ...] | None = None
    """Learned start of `h` as `[layers*directions][size]`; none means zeros."""
    initial_c: tuple[tuple[float, ...], ...] | None = None

    @property
    def cell(self) -> Cell:
        """Its kind of cell. The JSON does not name it, as there is only one."""
        return LSTM

    @property
    def output_size(self) -> int:
        """Size of the output: the projection's where there is one."""
        return self.proj_size or self.hidden_size

    @property
    def initial(self) -> tuple[tuple[tuple[float, ...], ...] | None, ...]:
        """The learned start of each state of the cell, in order."""
        return tuple(getattr(self, f"initial_{state.name}") for state in self.cell.states)


class FixedDim(Struct, frozen=True, kw_only=True):
    """A dimension that is usually dynamic and that this network fixes."""

    name: str
    size: int
    reason: str


class Signature(Struct, frozen=True, kw_only=True):
    """The whole contract of a network, without which its artifacts cannot be used rightly."""

    schema_version: int = SCHEMA_VERSION
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    recurrent: tuple[RecurrentSpec, ...]
    state_layout: StateLayout = "layers-first"
    state_dtype: StateDtype = "float32"
    """Of `h` and `c`; `float16` in artifacts of that precision."""
    streaming: Streaming = "none"
    streaming_reason: str = ""
    """Why `streaming` is not `exact`; empty where it is."""
    state_policy: StatePolicy = "reset"
    fixed: tuple[FixedDim, ...] = ()
    least_seq: int = 1
    """Fewest steps of one call: what convolves or pools over time needs some."""
    task: Task | None = None
    rollout: bool = False
    """Whether one call makes many steps, the model fed with its own outputs (see `rollouts`)."""

    @property
    def state_inputs(self) -> tuple[TensorSpec, ...]:
        """`h_in` and `c_in` of each recurrent module, in order."""
        return self._states("in")

    @property
    def state_outputs(self) -> tuple[TensorSpec, ...]:
        """`h_out` and `c_out` of each recurrent module; the n-th feeds the n-th of `state_inputs`."""
        return self._states("out")

    @property
    def cell_states(self) -> dict[str, CellState]:
        """What each of `state_inputs` is to its cell, by its name in the contract."""
        return {f"{module.prefix}{state.name}_in": state for module in self.recurrent for state in module.cell.states}

    @property
    def input_names(self) -> list[str]:
        return [spec.name for spec in (*self.inputs, *self.state_inputs)]

    @property
    def output_names(self) -> list[str]:
        return [spec.name for spec in (*self.outputs, *self.state_outputs)]

    def clamp(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Sizes of the dynamic dimensions such as the network takes them: the fixed ones at their only size."""
        seq = {"seq": max(sizes["seq"], self.least_seq)} if "seq" in sizes else {}
        return {**sizes, **seq, **{dim.name: dim.size for dim in self.fixed}}

    @property
    def batch_axis_of_state(self) -> int:
        return 0 if self.state_layout == "batch-first" else 1

    def _states(self, way: Literal["in", "out"]) -> tuple[TensorSpec, ...]:
        specs = []
        batch: Dim = next((dim.size for dim in self.fixed if dim.name == "batch"), "batch")
        for module in self.recurrent:
            depth = module.num_layers * module.num_directions
            for state in module.cell.states:
                size = module.output_size if state.is_output else module.hidden_size
                shape: tuple[Dim, ...] = (depth, batch, size)
                if self.state_layout == "batch-first":
                    shape = (batch, depth, size)
                name = f"{module.prefix}{state.name}_{way}"
                specs.append(TensorSpec(name=name, dtype=self.state_dtype, shape=shape))
        return tuple(specs)

    def initial_state(self, batch: int) -> Outputs:
        """The state before the first step, for each of `state_inputs`."""
        learned = [start for module in self.recurrent for start in module.initial]
        state = {}
        for spec, start in zip(self.state_inputs, learned, strict=True):
            value = np.zeros(spec.sized({"batch": batch}), spec.dtype)
            if start is not None:
                value[...] = np.expand_dims(np.asarray(start, spec.dtype), self.batch_axis_of_state)
            state[spec.name] = value
        return state

    def next_state(self, outputs: Feeds) -> Outputs:
        """The state outputs of a call under the names of the state inputs, for the call after it."""
        pairs = zip(self.state_inputs, self.state_outputs, strict=True)
        return {before.name: outputs[after.name] for before, after in pairs}

    def to_json(self) -> str:
        """The contract as JSON with sorted keys: equal contracts give equal texts."""
        return msgspec.json.encode(self, order="sorted").decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> "Signature":
        """Read a contract; raises `InputError` for a malformed one or one of a newer version."""
        return decode(text, cls, "The contract")


def decode(text: str | bytes, kind: type[T], what: str) -> T:
    """Read JSON of this package into its type; `what` opens the sentence of an error.

    Raises `InputError` for malformed JSON and for a schema version that this release does not know.
    """
    try:
        version = msgspec.json.decode(text, type=_Versioned).schema_version
        if version > SCHEMA_VERSION:
            raise InputError(
                f"{what} has schema version {version} and this release reads up to {SCHEMA_VERSION}; "
                "upgrade lstm-deploy."
            )
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{what} is malformed ({error}); export the model again.") from error


class _Versioned(Struct):
    schema_version: int
