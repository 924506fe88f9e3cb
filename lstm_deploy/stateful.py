"""Recurrent modules whose state comes from a port instead of from their caller.

A lifted module gives its `nn.LSTM` and `nn.LSTMCell` these classes. One forward may call such a module several
times: a call that would start from a constant has a port, and starts from what lies there; a call whose state was
computed (in a loop over time, or by an encoder) keeps it. What a port's chain of calls ends with lies there after.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lstm_deploy.packing import Padded, pack_padded_sequence, pad_packed_sequence

State = tuple[Tensor, Tensor]


class Port:
    """Where a call finds the state to start from, and leaves the one it ends with: `[layers, batch, size]`.

    Neither a module nor a tensor, so that tracers see the tensors and not the attribute.
    """

    __slots__ = ("final", "given", "returned")

    def __init__(self) -> None:
        self.given: State | None = None
        self.final: State | None = None
        self.returned: State | None = None
        """`final` in the shape that the caller got it in."""


class Call(NamedTuple):
    """What one call was given."""

    state: State | None
    """`[layers, batch, size]` each; none where the caller passed nothing."""
    packed: bool
    batch: int


class Calls:
    """The calls of one recurrent module within one forward."""

    def __init__(self) -> None:
        self.ports: dict[int, Port] = {}
        """By the number of the call that starts from it."""
        self.recorded: list[Call] | None = None
        """Every call, if somebody asked for it."""
        self._count = 0
        self._port: Port | None = None

    def restart(self) -> None:
        """Before each forward."""
        self._count, self._port = 0, None
        for port in self.ports.values():
            port.final = None

    def enter(self, call: Call) -> State | None:
        """The state that this call starts from; none for zeros."""
        if self.recorded is not None:
            self.recorded.append(call)
        own = self.ports.get(self._count)
        self._count += 1
        if own is None:
            return call.state
        self._port = own
        return own.given

    def leave(self, final: State, returned: State) -> State:
        """Keep the state that this call ends with; `returned` is what its caller gets of it."""
        if self._port is not None:
            self._port.final, self._port.returned = final, returned
        return returned


class StatefulLSTM(nn.LSTM):
    """An `nn.LSTM` with ports; unbatched, padded and packed inputs as `nn.LSTM` takes them."""

    calls: Calls

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002 - as nn.LSTM names them
        if isinstance(input, PackedSequence):  # only while calls are recorded: nothing has a port yet
            self.calls.enter(Call(hx, packed=True, batch=int(input.batch_sizes[0])))
            return super().forward(input, hx)
        lengths = input.lengths if isinstance(input, Padded) else None
        x = input.data if isinstance(input, Padded) else input
        batched = x.dim() == 3
        time_major = lengths is not None or not self.batch_first
        if not batched:
            x = x.unsqueeze(1 if time_major else 0)
            hx = None if hx is None else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
        batch = x.shape[1 if time_major else 0]
        state = self.calls.enter(Call(hx, packed=lengths is not None, batch=batch))
        h, c = self.zeros(x, batch) if state is None else state
        y, final = self.compute(x, h, c, lengths)
        if not batched:
            returned = self.calls.leave(final, (final[0].squeeze(1), final[1].squeeze(1)))
            return y.squeeze(1 if time_major else 0), returned
        return (y if lengths is None else Padded(y, lengths)), self.calls.leave(final, final)

    def zeros(self, x: Tensor, batch: int) -> State:
        """The state that `nn.LSTM` starts from by itself."""
        depth = self.num_layers * (2 if self.bidirectional else 1)
        return (
            x.new_zeros(depth, batch, self.proj_size or self.hidden_size),
            x.new_zeros(depth, batch, self.hidden_size),
        )

    def compute(self, x: Tensor, h: Tensor, c: Tensor, lengths: Tensor | None) -> tuple[Tensor, State]:
        """Output and final state of batched `x`, time-major if there are `lengths`.

        `exporters.lowering` replaces this with an operator that ONNX has.
        """
        if lengths is None:
            return super().forward(x, (h, c))
        packed = pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
        y, final = super().forward(packed, (h, c))
        return pad_packed_sequence(y, total_length=x.shape[0])[0], final


class StatefulCell(nn.LSTMCell):
    """An `nn.LSTMCell` with ports; the states of a port have one layer."""

    calls: Calls

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002 - as nn.LSTMCell names them
        batched = input.dim() == 2
        x = input if batched else input.unsqueeze(0)
        if hx is not None:
            hx = (hx[0].unsqueeze(0), hx[1].unsqueeze(0)) if batched else (hx[0][None, None], hx[1][None, None])
        state = self.calls.enter(Call(hx, packed=False, batch=x.shape[0]))
        if state is None:
            state = (x.new_zeros(1, x.shape[0], self.hidden_size),) * 2
        final = self.compute(x, *state)
        h, c = final[0].squeeze(0), final[1].squeeze(0)
        return self.calls.leave(final, (h, c) if batched else (h.squeeze(0), c.squeeze(0)))

    def compute(self, x: Tensor, h: Tensor, c: Tensor) -> State:
        """The state after one step; `exporters.lowering` replaces this with an operator that ONNX has."""
        new_h, new_c = super().forward(x, (h.squeeze(0), c.squeeze(0)))
        return new_h.unsqueeze(0), new_c.unsqueeze(0)


def make_stateful(module: nn.Module) -> dict[str, Calls]:
    """Give every `nn.LSTM` and `nn.LSTMCell` in `module` its stateful class; their calls, by path."""
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


def same(a: State | None, b: State | None) -> bool:
    """Whether two given states are equal in every number."""
    if a is None or b is None:
        return a is b
    return all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b, strict=True))
