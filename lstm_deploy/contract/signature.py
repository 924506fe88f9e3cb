"""The state contract: names, shapes and meaning of all inputs and outputs of an exported model.

    (x, h_in, c_in) -> (y, h_out, c_out)

It is independent of frameworks and file formats; every artifact contains it as JSON.
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
"""Name of the contract in the extra files of a TorchScript archive."""
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
    """One tensor; in its shape, a name is a dynamic dimension and a number a fixed one."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]
    low: tuple[float, ...] | None = None
    """Smallest value seen in training: one number, or one for each entry of the last axis."""
    high: tuple[float, ...] | None = None
    """Largest value seen in training, as `low`; for tokens, the largest valid one."""
    is_lengths: bool = False
    """Whether it holds the number of valid steps of each row, the others being padding."""

    @classmethod
    def parse(cls, text: str, name: str | None = None) -> "TensorSpec":
        """Parse `mels:float32[batch,seq,40]`, or `float32[batch,seq,40]` with a `name`.

        Raises `InputError` for anything else.
        """
        match = _SPEC.match(text.replace(" ", ""))
        if match is None or not (name or match["name"]):
            raise InputError(f"{text!r} is not an input specification; write one like x:float32[batch,seq,40].")
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
        """The shape with each dynamic dimension looked up in `sizes`."""
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in self.shape)

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


class RecurrentSpec(Struct, frozen=True, kw_only=True):
    """One recurrent module of the network, and how its state is named in the contract."""

    module: str
    """Path inside the network, as in `named_modules()`."""
    prefix: str
    """Prefix of `h_in`, …: empty if the network has one recurrent module."""
    input_size: int
    hidden_size: int
    proj_size: int
    """Size of the projected output, 0 for no projection."""
    num_layers: int
    num_directions: int
    initial_h: tuple[tuple[float, ...], ...] | None = None
    """Learned initial `h` as `[layers*directions][size]`; None means zeros."""
    initial_c: tuple[tuple[float, ...], ...] | None = None

    @property
    def cell(self) -> Cell:
        """Its kind of cell. The JSON does not name it, as there is only one."""
        return LSTM

    @property
    def output_size(self) -> int:
        """Size of the output, after the projection if there is one."""
        return self.proj_size or self.hidden_size

    @property
    def initial(self) -> tuple[tuple[tuple[float, ...], ...] | None, ...]:
        """The learned initial value of each state of the cell, in order."""
        return tuple(getattr(self, f"initial_{state.name}") for state in self.cell.states)


class FixedDim(Struct, frozen=True, kw_only=True):
    """A dimension that is usually dynamic but that this network fixes."""

    name: str
    size: int
    reason: str


class Signature(Struct, frozen=True, kw_only=True):
    """The contract of a network: all that is needed to use its artifacts correctly."""

    schema_version: int = SCHEMA_VERSION
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    recurrent: tuple[RecurrentSpec, ...]
    state_layout: StateLayout = "layers-first"
    state_dtype: StateDtype = "float32"
    """Of `h` and `c`; `float16` in artifacts of that precision."""
    streaming: Streaming = "none"
    streaming_reason: str = ""
    """Why `streaming` is not `exact`; empty if it is."""
    state_policy: StatePolicy = "reset"
    fixed: tuple[FixedDim, ...] = ()
    least_seq: int = 1
    """Fewest steps of one call: convolution and pooling over time need some."""
    task: Task | None = None
    rollout: bool = False
    """Whether one call computes many steps, the model fed with its own outputs (see `rollouts`)."""

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
        """The cell's state that each of `state_inputs` holds, by name in the contract."""
        return {f"{module.prefix}{state.name}_in": state for module in self.recurrent for state in module.cell.states}

    @property
    def input_names(self) -> list[str]:
        return [spec.name for spec in (*self.inputs, *self.state_inputs)]

    @property
    def output_names(self) -> list[str]:
        return [spec.name for spec in (*self.outputs, *self.state_outputs)]

    def clamp(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Adapt sizes of dimensions to the network: fixed ones to their only size, seq to at least `least_seq`."""
        seq = {"seq": max(sizes["seq"], self.least_seq)} if "seq" in sizes else {}
        return {**sizes, **seq, **{dim.name: dim.size for dim in self.fixed}}

    def fixed_size(self, dim: str) -> int | None:
        """The only size of a dimension that is usually dynamic, such as `batch`; None where any size will do."""
        return next((fixed.size for fixed in self.fixed if fixed.name == dim), None)

    def shares_time(self, spec: TensorSpec) -> bool:
        """Whether an output has an axis whose size follows from the number of steps, as `[batch * seq, …]` has."""
        given = {dim for tensor in self.inputs for dim in tensor.shape}
        return any(isinstance(dim, str) and dim not in given and dim.startswith("seq_") for dim in spec.shape)

    @property
    def batch_axis_of_state(self) -> int:
        return 0 if self.state_layout == "batch-first" else 1

    def _states(self, suffix: Literal["in", "out"]) -> tuple[TensorSpec, ...]:
        specs = []
        batch: Dim = self.fixed_size("batch") or "batch"
        for module in self.recurrent:
            depth = module.num_layers * module.num_directions
            for state in module.cell.states:
                size = module.output_size if state.is_output else module.hidden_size
                shape = (batch, depth, size) if self.state_layout == "batch-first" else (depth, batch, size)
                name = f"{module.prefix}{state.name}_{suffix}"
                specs.append(TensorSpec(name=name, dtype=self.state_dtype, shape=shape))
        return tuple(specs)

    def initial_state(self, batch: int) -> Outputs:
        """The state before the first step, by the names of `state_inputs`."""
        learned = [initial for module in self.recurrent for initial in module.initial]
        state = {}
        for spec, initial in zip(self.state_inputs, learned, strict=True):
            value = np.zeros(spec.sized({"batch": batch}), spec.dtype)
            if initial is not None:
                value[...] = np.expand_dims(np.asarray(initial, spec.dtype), self.batch_axis_of_state)
            state[spec.name] = value
        return state

    def next_state(self, outputs: Feeds) -> Outputs:
        """The state outputs of a call under the names of the state inputs, for the next call."""
        pairs = zip(self.state_inputs, self.state_outputs, strict=True)
        return {before.name: outputs[after.name] for before, after in pairs}

    def outgoing_state(self, state: Feeds) -> Outputs:
        """The reverse of `next_state`: a state under the names of the state outputs."""
        pairs = zip(self.state_inputs, self.state_outputs, strict=True)
        return {after.name: state[before.name] for before, after in pairs}

    def to_json(self) -> str:
        """The contract as JSON with sorted keys, so that equal contracts give equal texts."""
        return msgspec.json.encode(self, order="sorted").decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> "Signature":
        """Read a contract; raises `InputError` if it is malformed or of a newer version."""
        return decode_json(text, cls, "The contract")


def decode_json(text: str | bytes, kind: type[T], what: str) -> T:
    """Read JSON with a `schema_version` into a type; `what` names the document in error messages.

    Raises `InputError` for malformed JSON and for a schema version newer than this release.
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
