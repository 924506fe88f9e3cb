"""The state contract: names, shapes and meaning of all inputs and outputs of an exported model.

    (x, h_in, c_in) -> (y, h_out, c_out)      of an LSTM; a GRU and an RNN have no c

It is independent of frameworks and file formats; every artifact contains it as JSON.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, cast, get_args

import msgspec
import numpy as np
from msgspec import Meta, Struct, structs
from numpy.typing import NDArray

from lstm_deploy.contract.cells import CELLS, Cell, CellKind
from lstm_deploy.contract.tasks import Task
from lstm_deploy.errors import InputError

CONTRACT_KEY = "lstm_deploy.contract"
"""Key of the contract in the `metadata_props` of an ONNX file."""
CONTRACT_FILE = "contract.json"
"""Name of the contract in the extra files of a TorchScript archive."""
SCHEMA_VERSION = 1
CONTRACT_VERSION = 2
"""Of contracts with other cells than LSTMs; those of LSTMs alone are of version 1, and as they always were."""

T = TypeVar("T")
Array = NDArray[Any]
Feeds = Mapping[str, Array]
Outputs = dict[str, Array]
Size = Annotated[int, Meta(ge=1, le=2**31 - 1)]
"""Of an axis; no runtime has longer ones."""
Dim = Size | str
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
    padding: float | msgspec.UnsetType = msgspec.UNSET
    """The value of steps after the last valid one of a row, where the network finds lengths by it, as in
    `(tokens != 0).sum(1)`. Every row begins with another value."""

    @classmethod
    def parse(cls, text: str, name: str | None = None) -> "TensorSpec":
        """Parse `mels:float32[batch,seq,40]`, or `float32[batch,seq,40]` with a `name`.

        Raises `InputError` for anything else.
        """
        match = _SPEC.match(text.replace(" ", "")) if isinstance(text, str) else None
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

    @property
    def tells_lengths(self) -> bool:
        """Whether the lengths of rows can be read from it."""
        return self.is_lengths or self.padding is not msgspec.UNSET

    def sized(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with each dynamic dimension looked up in `sizes`."""
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in self.shape)

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


class StateSpec(Struct, frozen=True, kw_only=True):
    """One tensor of the state, `[layers, batch, size]`: `NAME_in` before a call, `NAME_out` after it."""

    name: str
    layers: Size
    size: Size
    bounded: bool = True
    """Whether it lies within -1 and 1, as the outputs of a cell do."""
    initial: tuple[tuple[float, ...], ...] | None = None
    """Its value before the first step, `[layers][size]`; None means zeros."""
    module: str | None = None
    """Path of the recurrent module whose state it is; None for a tensor that is not the state of one module alone."""
    argument: str = ""
    """Where the author's `forward` takes it, as in `hidden[0]`, or keeps it, as in `self.hidden[0]`; empty where it is
    taken at the recurrent module itself."""
    result: str = ""
    """Where `forward` returns it, as in `[1][0]`, or keeps it; empty for the recurrent module's own final state."""


class RecurrentSpec(Struct, frozen=True, kw_only=True):
    """One recurrent module of the network, and how its state is named in the contract."""

    module: str
    """Path inside the network, as in `named_modules()`."""
    kind: CellKind | msgspec.UnsetType = msgspec.UNSET
    """Of its cell; left out for an LSTM."""
    prefix: str
    """Prefix of `h_in`, …: empty if the network has one recurrent module."""
    input_size: Size
    hidden_size: Size
    proj_size: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    """Size of the projected output, 0 for no projection."""
    num_layers: Size
    num_directions: Size
    initial_h: tuple[tuple[float, ...], ...] | None = None
    """Learned initial `h` as `[layers*directions][size]`; None means zeros."""
    initial_c: tuple[tuple[float, ...], ...] | None = None
    """The same of `c`, where its cell has one."""

    @property
    def cell(self) -> Cell:
        """Its kind of cell."""
        return CELLS["LSTM" if self.kind is msgspec.UNSET else self.kind]

    @property
    def output_size(self) -> int:
        """Size of the output, after the projection if there is one."""
        return self.proj_size or self.hidden_size

    @property
    def states(self) -> tuple[StateSpec, ...]:
        """The state of its cell, tensor by tensor."""
        return tuple(
            StateSpec(
                name=f"{self.prefix}{state.name}",
                layers=self.num_layers * self.num_directions,
                size=self.output_size if state.is_output else self.hidden_size,
                bounded=state.bounded,
                initial=getattr(self, f"initial_{state.name}"),
                module=self.module,
            )
            for state in self.cell.states
        )


class FixedDim(Struct, frozen=True, kw_only=True):
    """A dimension that is usually dynamic but that this network fixes."""

    name: str
    size: Size
    reason: str


class Signature(Struct, frozen=True, kw_only=True):
    """The contract of a network: all that is needed to use its artifacts correctly."""

    schema_version: int = SCHEMA_VERSION
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    recurrent: tuple[RecurrentSpec, ...]
    states: tuple[StateSpec, ...] = ()
    """The state that `forward` takes or keeps, in order; empty where it is that of each of `recurrent`."""
    state_layout: StateLayout = "layers-first"
    state_dtype: StateDtype = "float32"
    """Of the state; `float16` in artifacts of that precision."""
    streaming: Streaming = "none"
    streaming_reason: str = ""
    """Why `streaming` is not `exact`; empty if it is."""
    state_policy: StatePolicy = "reset"
    fixed: tuple[FixedDim, ...] = ()
    least_seq: Size = 1
    """Fewest steps of one call: convolution and pooling over time need some."""
    task: Task | None = None
    rollout: bool = False
    """Whether one call computes many steps, the model fed with its own outputs (see `rollouts`)."""

    @property
    def described_inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs as they are described to `export`: by its name where a size was found to be fixed.

        A name stands at the first axis of that size; one for the batch is only fixed where it was given as a number.
        """
        inputs = []
        for spec in self.inputs:
            shape = list(spec.shape)
            for dim in self.fixed:
                if dim.name != "batch" and dim.size in shape:
                    shape[shape.index(dim.size)] = dim.name
            inputs.append(structs.replace(spec, shape=tuple(shape)))
        return tuple(inputs)

    @property
    def state_inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs for the state, such as `h_in` and `c_in` of an LSTM, in order."""
        return self._states("in")

    @property
    def state_outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs for the state; the n-th feeds the n-th of `state_inputs`."""
        return self._states("out")

    @property
    def state_specs(self) -> tuple[StateSpec, ...]:
        """The state, tensor by tensor: `states`, or that of the cell of each recurrent module."""
        return self.states or tuple(spec for module in self.recurrent for spec in module.states)

    @property
    def state_groups(self) -> list[tuple[int, ...]]:
        """Positions, among `state_inputs`, of the tensors that belong together, such as `h` and `c` of one LSTM."""
        groups: dict[tuple[str | None, str], list[int]] = {}
        for position, spec in enumerate(self.state_specs):
            key = (spec.module, spec.name if spec.module is None else spec.name[:-1])
            groups.setdefault(key, []).append(position)
        return [tuple(positions) for positions in groups.values()]

    @property
    def input_names(self) -> list[str]:
        return [spec.name for spec in (*self.inputs, *self.state_inputs)]

    @property
    def output_names(self) -> list[str]:
        return [spec.name for spec in (*self.outputs, *self.state_outputs)]

    @property
    def one_step(self) -> bool:
        """Whether a call is one step: the state is carried, and no input has an axis along which steps could lie."""
        return self.streaming != "none" and not any("seq" in spec.shape for spec in self.inputs)

    @property
    def streaming_text(self) -> str:
        """`streaming` in words, with its reason."""
        one_step = ", one step a call" if self.one_step else ""
        reason = f" ({self.streaming_reason})" if self.streaming_reason else ""
        return f"{self.streaming}{one_step}{reason}"

    def time_axis(self, spec: TensorSpec) -> int | None:
        """The axis of time of an input or output, also of one step only; None if it has none.

        Where a call is one step, an axis of 1 before the features is that of time: `[batch, 1, features]`,
        `[1, batch, features]` and, for tokens, `[batch, 1]` or `[1, batch]`.
        """
        shape, x = spec.shape, self.inputs[0]
        if "seq" in shape:
            return shape.index("seq")
        if spec in self.inputs:
            if not self.one_step or 1 not in shape:
                return None
            axis, axes = shape.index(1), 2 if spec.dtype.startswith("int") else 3
            # A loop in forward is fixed to one step, and has its axis wherever the input had it.
            return axis if self.fixed_size("seq") == 1 or (len(shape) == axes and axis < 2) else None
        if (given := self.time_axis(x)) is not None:
            return given if len(shape) >= len(x.shape) and shape[given] == 1 else None
        return shape.index(1) if self.one_step and len(shape) == 3 and 1 in shape[:2] else None

    def over_time(self, spec: TensorSpec) -> TensorSpec:
        """An input or output of several steps: its axis of time is `seq`, after the rows where it has none of its own.

        Where no axis is called `batch` either, that of time comes first.
        """
        axis, shape = self.time_axis(spec), spec.shape
        if axis is not None:
            return structs.replace(spec, shape=(*shape[:axis], "seq", *shape[axis + 1 :]))
        axis = shape.index("batch") + 1 if "batch" in shape else 0
        return structs.replace(spec, shape=(*shape[:axis], "seq", *shape[axis:]))

    def clamp(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Adapt sizes of dimensions to the network: fixed ones to their only size, seq to at least `least_seq`."""
        seq = {"seq": 1 if self.one_step else max(sizes["seq"], self.least_seq)} if "seq" in sizes else {}
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
        for state in self.state_specs:
            batch_first = self.state_layout == "batch-first"
            outer = (batch, state.layers) if batch_first else (state.layers, batch)
            specs.append(TensorSpec(name=f"{state.name}_{suffix}", dtype=self.state_dtype, shape=(*outer, state.size)))
        return tuple(specs)

    def initial_state(self, batch: int) -> Outputs:
        """The state before the first step, by the names of `state_inputs`."""
        state = {}
        for spec, source in zip(self.state_inputs, self.state_specs, strict=True):
            value = np.zeros(spec.sized({"batch": batch}), spec.dtype)
            if source.initial is not None:
                value[...] = np.expand_dims(np.asarray(source.initial, spec.dtype), self.batch_axis_of_state)
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
        """Read a contract; raises `InputError` if it is malformed, contradicts itself or is of a newer version."""
        contract = decode_json(text, cls, "The contract", CONTRACT_VERSION)
        contract.check("The contract")
        return contract

    def check(self, what: str) -> None:
        """Raise `InputError`, about `what`, for a contract that no network has."""
        problem = ""
        for names in (self.input_names, self.output_names):
            if len(set(names)) < len(names):
                problem = f"it names {max(names, key=names.count)!r} twice"
        for state in self.state_specs:
            rows = state.initial
            if rows is not None and (len(rows) != state.layers or {len(row) for row in rows} != {state.size}):
                problem = f"the initial {state.name} is not of its size"
        if problem:
            raise InputError(f"{what} is malformed ({problem}); export the model again.")


def contract_version(recurrent: Sequence[RecurrentSpec]) -> int:
    """The oldest version of contracts that has the cells of these modules."""
    return SCHEMA_VERSION if all(module.kind is msgspec.UNSET for module in recurrent) else CONTRACT_VERSION


def decode_json(text: str | bytes, kind: type[T], what: str, newest: int = SCHEMA_VERSION) -> T:
    """Read JSON with a `schema_version` into a type; `what` names the document in error messages.

    Raises `InputError` for malformed JSON and for a schema version above `newest`.
    """
    try:
        version = msgspec.json.decode(text, type=_Versioned).schema_version
        if version > newest:
            raise InputError(
                f"{what} has schema version {version} and this release reads up to {newest}; upgrade lstm-deploy."
            )
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError) as error:  # TypeError: not a text
        raise InputError(f"{what} is malformed ({error}); export the model again.") from error


class _Versioned(Struct):
    schema_version: int
