"""Modules that return a state in ways that only its structure, or its name, tells from other tensors.

As in `state_forms`; `following(returned, arguments)` also gets the arguments of the call before, which it may have
changed in place.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from state_forms import SEQUENCE, Recurrent
from torch import nn


class Returns(Recurrent):
    """Takes `state`, and gives back what `changed` makes of the LSTM's."""

    def forward(self, x, state=None):
        y, (h, c) = self.lstm(x, state)
        return self.head(y), self.changed(y, h, c)

    def following(self, returned, arguments):
        return {"state": returned[1]}


class Swapped(Returns):
    def changed(self, y, h, c):
        return c, h


class ForgetsTheCell(Returns):
    def changed(self, y, h, c):
        return h, torch.zeros_like(c)


class HiddenTwice(Returns):
    def changed(self, y, h, c):
        return h, h


class FirstOutput(Returns):
    def changed(self, y, h, c):
        return y[:, 0][None], c.tanh()


class NamedBesideRaw(Returns):
    """The clipped state bears the parameter's name, the other does not."""

    def forward(self, x, state=None):
        y, (h, c) = self.lstm(x, state)
        return {"y": self.head(y), "final": (h, c), "state": (h.clamp(-0.05, 0.05), c * 0.5)}

    def following(self, returned, arguments):
        return {"state": returned["state"]}


class EchoesItsState(Returns):
    """Also gives back the state that it was given."""

    def forward(self, x, state=None):
        state = self.zeros(len(x)) if state is None else state
        y, new = self.lstm(x, state)
        return {"y": self.head(y), "state": state, "next_state": new}

    def following(self, returned, arguments):
        return {"state": returned["next_state"]}


class DeeperNamesake(Returns):
    def forward(self, x, state=None):
        y, (h, c) = self.lstm(x, state)
        return {"y": self.head(y), "aux": {"state": (h, c)}, "state": (h * 0.5, c * 0.5)}

    def following(self, returned, arguments):
        return {"state": returned["state"]}


class ReplacesEntries(Recurrent):
    """Puts its new state into the list that it was given, and uses the old one afterwards."""

    def forward(self, x, states):
        before = states[0]
        y, (states[0], states[1]) = self.lstm(x, tuple(states))
        return self.head(y + before[-1][:, None]), states

    def first(self, rows):
        return {"states": list(self.zeros(rows))}

    def following(self, returned, arguments):
        return {"states": returned[1]}


class UpdatesMapping(Recurrent):
    def forward(self, x, state):
        h, c = state["h"], state["c"]
        y, (h, c) = self.lstm(x, (h, c))
        state.update(h=h * 0.5, c=c)
        return self.head(y), state

    def first(self, rows):
        return {"state": dict(zip("hc", self.zeros(rows), strict=True))}

    def following(self, returned, arguments):
        return {"state": returned[1]}


class RunsOnAfterwards(Returns):
    """Looks ahead: the LSTM is called once more after the state that is returned."""

    def forward(self, x, state=None):
        y, state = self.lstm(x, state)
        ahead, _ = self.lstm(torch.zeros_like(x[:, :1]), state)
        return self.head(torch.cat([y, ahead], 1)), state


class Starred(Recurrent):
    def forward(self, x, *state):
        y, (h, c) = self.lstm(x, state or None)
        return self.head(y), h * 0.5, c

    def following(self, returned, arguments):
        return {"*": returned[1:]}


class InKeywords(Recurrent):
    def forward(self, x, **options):
        y, (h, c) = self.lstm(x, options.get("state"))
        return self.head(y), (h * 0.5, c)

    def following(self, returned, arguments):
        return {"state": returned[1]}


class ListInPlace(nn.Module):
    """Changes the list of states that it is given, and returns none."""

    inputs = SEQUENCE

    def __init__(self):
        super().__init__()
        self.low, self.top = nn.LSTM(3, 4, batch_first=True), nn.LSTM(4, 4, batch_first=True)

    def forward(self, x, states):
        for position, lstm in enumerate((self.low, self.top)):
            x, (h, c) = lstm(x, states[position])
            states[position] = (h * 0.5, c.clamp(-0.2, 0.2))
        return x

    def first(self, rows):
        return {"states": [(torch.zeros(1, rows, 4), torch.zeros(1, rows, 4)) for _ in range(2)]}

    def following(self, returned, arguments):
        return arguments


class TensorsInPlace(Recurrent):
    def forward(self, x, h, c):
        y, (new_h, new_c) = self.lstm(x, (h, c))
        h.copy_(new_h * 0.5)
        c.copy_(new_c)
        return self.head(y)

    def first(self, rows):
        return dict(zip("hc", self.zeros(rows), strict=True))

    def following(self, returned, arguments):
        return arguments


class WithCache(nn.Module):
    """A causal convolution before the LSTM keeps its last two steps in the state, too."""

    inputs = SEQUENCE

    def __init__(self):
        super().__init__()
        self.conv, self.lstm = nn.Conv1d(3, 3, 3), nn.LSTM(3, 8, batch_first=True)

    def first(self, rows):
        return {}

    def zeros(self, rows):
        return torch.zeros(1, rows, 8), torch.zeros(1, rows, 8)

    def convolved(self, x, cache):
        x = torch.cat([cache, x], 1)
        return self.conv(x.transpose(1, 2)).transpose(1, 2), x[:, -2:]


class CacheInState(WithCache):
    def forward(self, x, state=None):
        if state is None:
            state = dict(zip("hc", self.zeros(len(x)), strict=True), cache=x.new_zeros(len(x), 2, 3))
        x, cache = self.convolved(x, state["cache"])
        y, (h, c) = self.lstm(x, (state["h"], state["c"]))
        return y, {"cache": cache, "h": h, "c": c}

    def following(self, returned, arguments):
        return {"state": returned[1]}


class CacheMadeByMethod(CacheInState):
    """The state is required, and a method makes the first one."""

    def init_state(self, rows, device="cpu"):
        return dict(zip("hc", self.zeros(rows), strict=True), cache=torch.ones(rows, 2, 3, device=device))

    def first(self, rows):
        return {"state": self.init_state(rows)}

    def forward(self, x, state):
        return super().forward(x, state)


class CacheBeside(WithCache):
    def forward(self, x, state=None, cache=None):
        x, cache = self.convolved(x, x.new_zeros(len(x), 2, 3) if cache is None else cache)
        y, state = self.lstm(x, state)
        return y, state, cache

    def following(self, returned, arguments):
        return {"state": returned[1], "cache": returned[2]}


class CacheKept(WithCache):
    """The cache is kept on the module, and begun anew where no state is passed."""

    def __init__(self):
        super().__init__()
        self.cache = None

    def forward(self, x, state=None):
        if state is None:
            self.cache = x.new_zeros(len(x), 2, 3)
        x, self.cache = self.convolved(x, self.cache)
        return self.lstm(x, state)

    def following(self, returned, arguments):
        return {"state": returned[1]}


class CellFirst(NamedTuple):
    c: torch.Tensor
    h: torch.Tensor


class InNamedTuple(Recurrent):
    """The fields stand in another order than the states of the LSTM, and are read and set by their names."""

    make = CellFirst

    def forward(self, x, state):
        y, (h, c) = self.lstm(x, (state.h, state.c))
        return self.head(y), self.make(h=0.9 * h, c=c)

    def first(self, rows):
        h, c = self.zeros(rows)
        return {"state": self.make(h=h, c=c)}

    def following(self, returned, arguments):
        return {"state": returned[1]}


class OtherWords(NamedTuple):
    memory: torch.Tensor
    carry: torch.Tensor


class InNamedTupleOfOtherWords(InNamedTuple):
    make = staticmethod(lambda h, c: OtherWords(carry=h, memory=c))

    def forward(self, x, state):
        y, (h, c) = self.lstm(x, (state.carry, state.memory))
        return self.head(y), self.make(h, c)


class InUnpackedNamedTuple(InNamedTuple):
    def forward(self, x, state):
        c, h = state
        y, (h, c) = self.lstm(x, (h, c))
        return self.head(y), self.make(h=h, c=c)


@dataclass
class Memory:
    c: torch.Tensor
    h: torch.Tensor


class InDataclass(InNamedTuple):
    make = Memory


class EmptyUnlessGiven(Recurrent):
    """Does not run on its own default, as IMPALA's and its descendants do not."""

    def forward(self, x, core_state=()):
        h, c = core_state
        y, core_state = self.lstm(x, (0.5 * h, c))
        return self.head(y), core_state

    def first(self, rows):
        return {"core_state": self.zeros(rows)}

    def following(self, returned, arguments):
        return {"core_state": returned[1]}


class InDictOfTheModule(Recurrent):
    """Kept in a mapping that is empty before the first call."""

    def __init__(self):
        super().__init__()
        self.memory = {}

    def forward(self, x):
        y, self.memory["state"] = self.lstm(x, self.memory.get("state"))
        return self.head(y)

    def following(self, returned, arguments):
        return {}


class EmptyTensor(Recurrent):
    """Without a state it gets an empty tensor."""

    def forward(self, x, state=torch.zeros(0)):  # noqa: B008 - as some authors write it
        y, (h, c) = self.lstm(x, (state[0], state[1]) if len(state) else None)
        return self.head(y), torch.stack([h, c * 0.5])

    def following(self, returned, arguments):
        return {"state": returned[1]}


RETURNED = [
    EmptyUnlessGiven,
    InNamedTuple,
    InNamedTupleOfOtherWords,
    InUnpackedNamedTuple,
    InDataclass,
    Swapped,
    ForgetsTheCell,
    HiddenTwice,
    FirstOutput,
    NamedBesideRaw,
    EchoesItsState,
    DeeperNamesake,
    ReplacesEntries,
    UpdatesMapping,
    RunsOnAfterwards,
    Starred,
    InKeywords,
    ListInPlace,
    TensorsInPlace,
    CacheInState,
    CacheMadeByMethod,
    CacheBeside,
    CacheKept,
    InDictOfTheModule,
    EmptyTensor,
]
