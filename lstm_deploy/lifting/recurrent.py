"""Recurrent modules whose state comes from outside: LSTMs and cells with ports, and `Lifted`, a whole module of them.

Lifting gives each `nn.LSTM` and `nn.LSTMCell` of a module one of these classes. One forward may call such a module
several times. A call that would start from a constant has a port, and starts from the state that lies there; a call
whose state was computed (in a loop over time, or by an encoder) keeps it. The final state of the chain of calls that
began at a port lies there afterwards.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any, NamedTuple

from msgspec import Struct
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lstm_deploy.contract import Signature, by_module
from lstm_deploy.lifting.calling import CallingConvention, State, flatten
from lstm_deploy.lifting.derived_weights import KeepsWeights, Weights, weights_in_use
from lstm_deploy.lifting.packing import PaddedSequence, kept_padded, pack_padded_sequence, pad_packed_sequence


class Port(Struct):
    """Where a chain of calls finds its initial state and leaves its final one: `[layers, batch, size]`.

    Neither a module nor a tensor, so that tracers see the tensors and not the attribute.
    """

    given: State | None = None
    final: State | None = None
    returned: State | None = None
    """`final` in the shape that the caller got it in."""


class Call(NamedTuple):
    """The arguments of one call."""

    state: State | None
    """`[layers, batch, size]` each; none where the caller passed none."""
    packed: bool
    batch: int
    weights: Weights = MappingProxyType({})
    """That it computes with, where recording is on."""


class Calls:
    """The calls of one recurrent module within one forward."""

    def __init__(self) -> None:
        self.ports: dict[int, Port] = {}
        """By the number of the call that starts from it."""
        self.recorded: list[Call] | None = None
        """Every call, where recording is on."""
        self._count = 0
        self._port: Port | None = None

    def restart(self) -> None:
        """Call this before each forward."""
        self._count, self._port = 0, None
        for port in self.ports.values():
            port.final = None

    def enter(self, call: Call, module: nn.Module) -> State | None:
        """The state that this call of `module` starts from; none for zeros."""
        if self.recorded is not None:
            self.recorded.append(call._replace(weights=weights_in_use(module)))
        port = self.ports.get(self._count)
        self._count += 1
        if port is None:
            return call.state
        self._port = port
        return port.given

    def leave(self, final: State, returned: State) -> State:
        """Keep the final state of this call, and return `returned`, which is that state in the caller's shape."""
        if self._port is not None:
            self._port.final, self._port.returned = final, returned
        return returned


class StatefulLSTM(KeepsWeights, nn.LSTM):
    """An `nn.LSTM` with ports; takes unbatched, padded and packed inputs as `nn.LSTM` does."""

    calls: Calls

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002 - as nn.LSTM names them
        if isinstance(input, PackedSequence):  # only while calls are recorded: nothing has a port yet
            self.calls.enter(Call(hx, packed=True, batch=int(input.batch_sizes[0])), self)
            return super().forward(input, hx)
        lengths = input.lengths if isinstance(input, PaddedSequence) else None
        x = input.data if isinstance(input, PaddedSequence) else input
        batched = x.dim() == 3
        batch_axis = 1 if lengths is not None or not self.batch_first else 0
        if not batched:
            x = x.unsqueeze(batch_axis)
            hx = None if hx is None else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
        batch = x.shape[batch_axis]
        state = self.calls.enter(Call(hx, packed=lengths is not None, batch=batch), self)
        h, c = zeros_of(self, x, batch) if state is None else state
        y, final = self.compute(x, h, c, lengths)
        if not batched:
            returned = self.calls.leave(final, (final[0].squeeze(1), final[1].squeeze(1)))
            return y.squeeze(batch_axis), returned
        return (y if lengths is None else PaddedSequence(y, lengths)), self.calls.leave(final, final)

    def compute(self, x: Tensor, h: Tensor, c: Tensor, lengths: Tensor | None) -> tuple[Tensor, State]:
        """Output and final state of batched `x`, time-major if there are `lengths`. Exporters override this."""
        if lengths is None:
            return self.kernel(x, (h, c))
        packed = pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
        y, final = self.kernel(packed, (h, c))
        return pad_packed_sequence(y, total_length=x.shape[0])[0], final

    def kernel(self, x: Any, state: Any) -> tuple[Any, State]:
        """The computation on padded or packed `x` without ports. Exporters override this."""
        return super().forward(x, state)


class StatefulCell(KeepsWeights, nn.LSTMCell):
    """An `nn.LSTMCell` with ports; the states of a port have one layer."""

    calls: Calls

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002 - as nn.LSTMCell names them
        batched = input.dim() == 2
        x = input if batched else input.unsqueeze(0)
        if hx is not None:
            hx = (hx[0].unsqueeze(0), hx[1].unsqueeze(0)) if batched else (hx[0][None, None], hx[1][None, None])
        state = self.calls.enter(Call(hx, packed=False, batch=x.shape[0]), self)
        final = self.compute(x, *(zeros_of(self, x, x.shape[0]) if state is None else state))
        h, c = final[0].squeeze(0), final[1].squeeze(0)
        return self.calls.leave(final, (h, c) if batched else (h.squeeze(0), c.squeeze(0)))

    def compute(self, x: Tensor, h: Tensor, c: Tensor) -> State:
        """The state after one step. Exporters override this."""
        new_h, new_c = self.kernel(x, (h.squeeze(0), c.squeeze(0)))
        return new_h.unsqueeze(0), new_c.unsqueeze(0)

    def kernel(self, x: Tensor, state: Any) -> State:
        """One step without ports. Exporters override this."""
        return super().forward(x, state)


class Lifted(nn.Module):
    """A module with explicit state; `signature` names its inputs and outputs, in order."""

    def __init__(
        self,
        module: nn.Module,
        signature: Signature,
        starts: Sequence[tuple[str, int]],
        convention: CallingConvention,
        *,
        packs: bool,
    ) -> None:
        """Take over `module`, which must not be used otherwise from here on.

        `starts` are the calls (path and number) that begin a chain of states, one for each of `signature.recurrent`;
        `packs` says whether the module packs padded sequences.
        """
        super().__init__()
        self.module, self.signature = module, signature
        self.starts, self.convention, self.packs = tuple(starts), convention, packs
        self.output_positions: tuple[int, ...] = ()
        """Which of the tensors that `module` returns are outputs; the others are the state."""
        self.notes: tuple[str, ...] = ()
        """What a user must know beside the contract."""
        self.calls = make_stateful(module)
        self.ports = [self.calls[path].ports.setdefault(number, Port()) for path, number in starts]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Take all inputs, then `h` and `c` of each port; return all outputs, then the new `h` and `c`."""
        returned = flatten(self.call(*tensors))
        outputs = [returned[position][1] for position in self.output_positions]
        return (*outputs, *(self.in_layout(state) for state in self.final_states()))

    def call(self, *tensors: Tensor) -> Any:
        """Call `module` on the same arguments as `forward`, and return what it returns."""
        count = len(self.signature.inputs)
        states = [self.in_layout(state) for state in tensors[count:]]
        for calls in self.calls.values():
            calls.restart()
        for port, given in zip(self.ports, by_module(states), strict=True):
            port.given = given
        with kept_padded(self.module) if self.packs else nullcontext():
            return self.convention.call(self.module, tensors[:count], self.ports[0].given)

    def final_states(self) -> list[Tensor]:
        """`h` and `c` of each port after the latest call, layers first."""
        return [state for port in self.ports if port.final is not None for state in port.final]

    def in_layout(self, state: Tensor) -> Tensor:
        """Convert a state from layers first to the layout of the contract, or back."""
        return state.transpose(0, 1) if self.signature.state_layout == "batch-first" else state


def make_stateful(module: nn.Module) -> dict[str, Calls]:
    """Give every `nn.LSTM` and `nn.LSTMCell` in `module` its stateful class; returns their calls, by path."""
    calls = {}
    for path, child in module.named_modules():
        if isinstance(child, nn.LSTM):
            child.__class__ = StatefulLSTM
        elif isinstance(child, nn.LSTMCell):
            child.__class__ = StatefulCell
        else:
            continue
        child.calls = calls[path] = Calls()
    return calls


def zeros_of(module: nn.LSTM | nn.LSTMCell, like: Tensor, batch: int) -> State:
    """The zeros `[layers, batch, size]` that a recurrent module starts from where no state is passed."""
    hidden = module.hidden_size
    if isinstance(module, nn.LSTMCell):
        return like.new_zeros(1, batch, hidden), like.new_zeros(1, batch, hidden)
    depth = module.num_layers * (2 if module.bidirectional else 1)
    return like.new_zeros(depth, batch, module.proj_size or hidden), like.new_zeros(depth, batch, hidden)
