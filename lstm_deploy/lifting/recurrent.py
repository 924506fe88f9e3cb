"""Recurrent modules whose state comes from outside: modules and cells with ports, and `Lifted`, a whole module of them.

Lifting gives each recurrent module of PyTorch one of these classes. One forward may call such a module
several times. A call that would start from a constant has a port, and starts from the state that lies there; a call
whose state was computed (in a loop over time, or by an encoder) keeps it. The final state of the chain of calls that
began at a port lies there afterwards.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import torch
from msgspec import Struct
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lstm_deploy.contract import Signature, TensorSpec
from lstm_deploy.lifting.calling import CallingConvention, flatten
from lstm_deploy.lifting.carried_state import Carried, Stack, assembled, selected
from lstm_deploy.lifting.derived_weights import KeepsWeights, Weights, weights_in_use
from lstm_deploy.lifting.packing import Packing, PaddedSteps, kept_padded, packed_in_any_order, pad_packed_sequence
from lstm_deploy.lifting.recurrent_modules import RECURRENT_MODULES, SEQUENCES, State, as_passed, state_of, zeros_of
from lstm_deploy.lifting.state_structure import Path, cloned


class Port(Struct):
    """Where a chain of calls finds its initial state and leaves its final one: `[layers, batch, size]`.

    Neither a module nor a tensor, so that tracers see the tensors and not the attribute.
    """

    given: State | None = None
    """None for a call that starts from a state of the author's, which it keeps."""
    final: State | None = None
    returned: State | None = None
    """`final` in the shape that the caller got it in."""


class Call(NamedTuple):
    """The arguments of one call."""

    state: State | None
    """`[layers, batch, size]` each; none where the caller passed none."""
    batch: int
    steps: int
    weights: Weights = MappingProxyType({})
    """That it computes with, where recording is on."""


class Disturbance(NamedTuple):
    """What is done to the results of a call, to see what follows from them."""

    y: float = 0.0
    """What is added."""
    state: float = 0.0
    only: int | None = None
    """Which of the states; none for all of them."""
    scale: float = 1.0
    """What both are multiplied with before: 0 for results that are the same whatever the call computes."""

    def of(self, state: int) -> float:
        """What is added to one of the states."""
        return self.state if self.only in (None, state) else 0.0


class Calls:
    """The calls of one recurrent module within one forward."""

    def __init__(self) -> None:
        self.ports: dict[int, Port] = {}
        """By the number of the call that starts from it."""
        self.recorded: list[Call] | None = None
        """Every call, where recording is on."""
        self.finals: list[State] = []
        """The final state of every recorded call, as its caller got it."""
        self.disturb: Callable[[int], Disturbance] = lambda _: Disturbance()
        """By the number of a recorded call."""
        self._count = 0
        self._port: Port | None = None

    def restart(self) -> None:
        """Call this before each forward."""
        self._count, self._port = 0, None
        for port in self.ports.values():
            port.final = None

    def enter(self, call: Call, module: nn.Module) -> State | None:
        """The state that this call of `module` starts from; none for zeros."""
        if self.recorded is not None:  # a copy, as a module may write into its own state
            self.recorded.append(call._replace(state=cloned(call.state), weights=weights_in_use(module)))
        port = self.ports.get(self._count)
        self._count += 1
        if port is None:
            return call.state
        self._port = port
        return call.state if port.given is None else port.given

    def leave(self, y: Any, final: State, returned: State) -> tuple[Any, State]:
        """Keep the final state of this call, and return `y` and `returned`, that state in the caller's shape."""
        if self.recorded is not None:
            self.finals.append(cloned(returned))
            offset = self.disturb(self._count - 1)
            packed = isinstance(y, PackedSequence)
            if packed:
                y = y._replace(data=offset.scale * y.data + offset.y)
            elif y is not None:
                y = offset.scale * y + offset.y
            returned = tuple(offset.scale * value + offset.of(state) for state, value in enumerate(returned))
        if self._port is not None:
            self._port.final, self._port.returned = final, returned
        return y, returned


class StatefulSequence(KeepsWeights, nn.RNNBase):
    """An `nn.LSTM`, `nn.GRU` or `nn.RNN` with ports; takes unbatched, padded and packed inputs as those do.

    Its instances also have one of these classes (see `specialize`).
    """

    calls: Calls

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002 - as PyTorch names them
        state = state_of(self, hx)
        packed: Any = input.batch_sizes if isinstance(input, PackedSequence) else None
        if isinstance(packed, Tensor):  # only while calls are recorded: nothing has a port yet
            self.calls.enter(Call(state, batch=int(packed[0]), steps=len(packed)), self)
            y, final = self.kernel(input, state)
            return _returned(self.calls.leave(y, final, final))
        lengths = None if packed is None else packed.lengths
        x = input if packed is None else packed.steps_of(input.data)
        batched = x.dim() == 3
        batch_axis = 1 if lengths is not None or not self.batch_first else 0
        if not batched:
            x = x.unsqueeze(batch_axis)
            state = None if state is None else tuple(value.unsqueeze(1) for value in state)
        batch, steps = x.shape[batch_axis], x.shape[1 - batch_axis]
        state = self.calls.enter(Call(state, batch=batch, steps=steps), self)
        y, final = self.compute(x, zeros_of(self, x, batch) if state is None else state, lengths)
        if not batched:
            unbatched = tuple(value.squeeze(1) for value in final)
            return _returned(self.calls.leave(y.squeeze(batch_axis), final, unbatched))
        output = y if lengths is None else PaddedSteps(y, lengths, zero_beyond=True).packed()
        return _returned(self.calls.leave(output, final, final))

    def compute(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """Output and final state of batched `x`, time-major if there are `lengths`. Exporters override this."""
        if lengths is None:
            return self.kernel(x, state)
        # A copy, as a trace would go on with lengths on the CPU where cpu() gives back the tensor itself.
        packed = packed_in_any_order(x, lengths.to("cpu", copy=True))
        y, final = self.kernel(packed, state)
        return pad_packed_sequence(y, total_length=x.shape[0])[0], final

    def kernel(self, x: Any, state: State | None) -> tuple[Any, State]:
        """The computation on padded or packed `x` without ports. Exporters override this."""
        y, final = super().forward(x, None if state is None else as_passed(state))
        return y, cast(State, state_of(self, final))


class StatefulCell(KeepsWeights, nn.RNNCellBase):
    """An `nn.LSTMCell`, `nn.GRUCell` or `nn.RNNCell` with ports; the states of a port have one layer."""

    calls: Calls

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002 - as PyTorch names them
        state = state_of(self, hx)
        batched = input.dim() == 2
        x = input if batched else input.unsqueeze(0)
        if state is not None:
            state = tuple(value.unsqueeze(0) if batched else value[None, None] for value in state)
        state = self.calls.enter(Call(state, batch=x.shape[0], steps=1), self)
        final = self.compute(x, zeros_of(self, x, x.shape[0]) if state is None else state)
        returned = tuple(value.squeeze(0) if batched else value.squeeze(0).squeeze(0) for value in final)
        return as_passed(self.calls.leave(None, final, returned)[1])

    def compute(self, x: Tensor, state: State) -> State:
        """The state after one step. Exporters override this."""
        return tuple(value.unsqueeze(0) for value in self.kernel(x, tuple(value.squeeze(0) for value in state)))

    def kernel(self, x: Tensor, state: State) -> State:
        """One step without ports. Exporters override this."""
        return cast(State, state_of(self, super().forward(x, as_passed(state))))


def _returned(result: tuple[Any, State]) -> tuple[Any, Any]:
    """What a recurrent module returns: its output, and its state as PyTorch has it."""
    return result[0], as_passed(result[1])


def specialize(module: nn.Module, sequence: type[nn.Module], cell: type[nn.Module]) -> None:
    """Give a recurrent module the class that is for it: `sequence` or `cell`, on top of PyTorch's own."""
    base = next(kind for kind in RECURRENT_MODULES if isinstance(module, kind))
    kind: Any = sequence if base in SEQUENCES else cell
    module.__class__ = _on_top(kind, base)


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module has got this class by `specialize`, and no other since."""
    return type(module).__bases__[:1] == (kind,)


@cache
def _on_top(kind: Any, base: Any) -> Any:
    """A class such as `StatefulLSTM`, of `StatefulSequence` and `nn.LSTM`."""
    name = kind.__name__.removesuffix("Sequence").removesuffix("Cell") + base.__name__
    return type(name, (kind, base), {"__module__": kind.__module__})


class StateFlow(Struct, frozen=True, kw_only=True):
    """How the state of the contract flows through a module."""

    starts: tuple[tuple[str, int], ...]
    """The calls (path and number) that begin a chain of states, one for each of `signature.recurrent`."""
    states: tuple[Carried, ...]
    """One for each of `signature.state_specs`."""
    arguments: tuple[Stack | int, ...] = ()
    """For each leaf of the state that `forward` takes: the number of the state that it holds, or a stack of several."""

    @property
    def is_authored(self) -> bool:
        """Whether the author's `forward` takes and gives back all of it."""
        return all(carried.given is None and carried.result is not None for carried in self.states)

    @property
    def given(self) -> list[tuple[int, ...]]:
        """For each of `starts`, the numbers of the states that are taken at the recurrent module itself."""
        states = list(enumerate(self.states))
        return [
            tuple(position for position, carried in states if carried.given and carried.given.start == start)
            for start in range(len(self.starts))
        ]

    def leaves(self, states: Sequence[Tensor]) -> list[Tensor]:
        """The tensors that `forward` takes, from the states, layers first."""
        own = [carried.to_author(state) for carried, state in zip(self.states, states, strict=True)]
        return [assembled(source, own) for source in self.arguments]

    def returned(self, values: Mapping[Path, Tensor], ports: Sequence["Port"]) -> list[Tensor]:
        """The states after a call, layers first, from what `forward` returned, by path, and from the ports.

        Those of a recurrent module that was not called are left out.
        """
        states = []
        for carried in self.states:
            if carried.result is not None:
                states.append(carried.from_author(selected(values[carried.result], carried.selections)))
            elif carried.final is not None and (final := ports[carried.final.start].final) is not None:
                states.append(final[carried.final.state])
        return states


class Lifted(nn.Module):
    """A module with explicit state; `signature` names its inputs and outputs, in order."""

    module: nn.Module
    signature: Signature
    flow: StateFlow
    convention: CallingConvention
    packing: Packing | None
    ports: list[Port]
    given: list[tuple[int, ...]]

    def __init__(
        self,
        module: nn.Module,
        signature: Signature,
        flow: StateFlow,
        convention: CallingConvention,
        *,
        packing: Packing | None,
    ) -> None:
        """Take over `module`, which must not be used otherwise from here on.

        `packing` says how it packs padded sequences, if it does.
        """
        super().__init__()
        self.module, self.signature = module, signature
        self.flow, self.convention, self.packing = flow, convention, packing
        self.output_positions: tuple[int, ...] = ()
        """Which of the tensors that `module` returns are outputs; the others are the state."""
        self.notes: tuple[str, ...] = ()
        """What a user must know beside the contract."""
        self.author: AuthorsModule | None = None
        """The untouched module, where its `forward` takes and gives back all of the state."""
        self.calls: dict[str, Calls] = make_stateful(module)
        self.ports = [self.calls[path].ports.setdefault(number, Port()) for path, number in flow.starts]
        self.given = flow.given
        """For each port the positions of its states; none where they are the author's."""

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Take all inputs, then all states; return all outputs, then the new states.

        A new state that is a part of an input, as its last frame, is a copy: a stream writes its next input there.
        """
        results = _outputs_and_states(self, self.call(*tensors), self.ports)
        outputs = len(self.signature.outputs)
        given = {x.untyped_storage()._cdata for x in tensors[: len(self.signature.inputs)]}
        states = [state.clone() if state.untyped_storage()._cdata in given else state for state in results[outputs:]]
        return (*results[:outputs], *states)

    def call(self, *tensors: Tensor) -> Any:
        """Call `module` on the same arguments as `forward`, and return what it returns."""
        count = len(self.signature.inputs)
        states = [self.in_layout(state) for state in tensors[count:]]
        for calls in self.calls.values():
            calls.restart()
        for port, positions in zip(self.ports, self.given, strict=True):
            port.given = tuple(states[position] for position in positions) or None
        leaves = self.flow.leaves(states) if self.flow.arguments else None
        with nullcontext() if self.packing is None else kept_padded(self.packing):
            return self.convention.call(self.module, tensors[:count], leaves)

    def in_layout(self, state: Tensor) -> Tensor:
        """Convert a state from layers first to the layout of the contract, or back."""
        return _in_layout(self.signature, state)


class AuthorsModule:
    """A module as its author wrote it, called as a `Lifted` one is: the reference that knows of no recurrent module."""

    module: nn.Module
    flow: StateFlow
    convention: CallingConvention
    signature: Signature
    output_positions: tuple[int, ...]

    def __init__(self, module: nn.Module, lifted: Lifted) -> None:
        """`module` is not changed; `lifted` says how the state of the contract becomes that of the author."""
        self.module, self.flow, self.convention = module, lifted.flow, lifted.convention
        self.signature, self.output_positions = lifted.signature, lifted.output_positions
        self.sorts: bool = lifted.packing is not None and lifted.packing.demands_sorted

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """As `Lifted.forward`, which takes rows in any order: they are sorted by length where the author demands it."""
        specs = (*self.signature.inputs, *self.signature.state_inputs)
        lengths = next((x for spec, x in zip(specs, tensors, strict=True) if spec.is_lengths), None)
        if not self.sorts or lengths is None:
            return self._call(*tensors)
        order = lengths.argsort(descending=True, stable=True)
        outputs = self._call(*rows_taken(specs, tensors, order))
        return rows_taken((*self.signature.outputs, *self.signature.state_outputs), outputs, order.argsort())

    def _call(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        count = len(self.signature.inputs)
        leaves = self.flow.leaves([_in_layout(self.signature, state) for state in tensors[count:]])
        return _outputs_and_states(self, self.convention.call(self.module, tensors[:count], leaves), ())

    def sharing(self, lifted: Lifted) -> "AuthorsModule":
        """The same module with the weights of `lifted`, which may have another type, and buffers of that type."""
        weights = dict(lifted.module.named_parameters(remove_duplicate=False))
        memo: dict[int, Any] = {
            id(value): weights[name] for name, value in self.module.named_parameters() if name in weights
        }
        copy = deepcopy(self.module, memo)
        dtype = next((value.dtype for value in weights.values()), torch.float32)
        return AuthorsModule(copy.to(dtype), lifted)

    def __deepcopy__(self, memo: Any) -> "AuthorsModule":
        """Itself: its weights are those of the module that was lifted, which no run changes."""
        return self


def _in_layout(signature: Signature, state: Tensor) -> Tensor:
    return state.transpose(0, 1) if signature.state_layout == "batch-first" else state


def _outputs_and_states(model: Lifted | AuthorsModule, returned: Any, ports: Sequence[Port]) -> tuple[Tensor, ...]:
    """The outputs and then the new states of the contract, from what a forward returned and what lies at its ports."""
    leaves = flatten(returned)
    outputs = [leaves[position][1] for position in model.output_positions]
    states = model.flow.returned(dict(leaves), ports)
    return (*outputs, *(_in_layout(model.signature, state) for state in states))


def rows_taken(specs: Sequence[TensorSpec], tensors: Sequence[Tensor], order: Tensor) -> tuple[Tensor, ...]:
    """The tensors with their rows in another order."""
    return tuple(
        x.index_select(spec.shape.index("batch"), order) if "batch" in spec.shape else x
        for spec, x in zip(specs, tensors, strict=True)
    )


def make_stateful(module: nn.Module) -> dict[str, Calls]:
    """Give every recurrent module in `module` its stateful class; returns their calls, by path."""
    calls = {}
    for path, child in module.named_modules():
        if isinstance(child, RECURRENT_MODULES):
            specialize(child, StatefulSequence, StatefulCell)
            child.calls = calls[path] = Calls()
    return calls
