"""Modules whose `forward` takes, returns or keeps a state, in the forms in which their authors write them.

Each has `first(rows)`, the author's own initial state as keyword arguments of `forward`, and `following(returned)`, the
arguments of the next call.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

SEQUENCE = {"x": "float32[batch,seq,3]"}
STEP = {"x": "float32[batch,3]"}
FLAGGED = {"x": "float32[batch,seq,3]", "done": "float32[batch]"}


class Recurrent(nn.Module):
    """An LSTM and a linear layer."""

    inputs = SEQUENCE
    states = ("h_in", "c_in")

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 8, batch_first=True)
        self.head = nn.Linear(8, 2)

    def zeros(self, rows):
        return torch.zeros(1, rows, 8), torch.zeros(1, rows, 8)

    def first(self, rows):
        return {}

    def following(self, returned):
        return {"state": returned[1]}


class ResetsRows(Recurrent):
    """As recurrent policies do: the state of rows that are done is set to zeros before the LSTM."""

    inputs = FLAGGED

    def forward(self, x, done, state=None):
        h, c = self.zeros(len(x)) if state is None else state
        keep = (1.0 - done).view(1, -1, 1)
        y, state = self.lstm(x, (h * keep, c * keep))
        return self.head(y), state


class ClipsReturned(Recurrent):
    def forward(self, x, h, c):
        y, (h, c) = self.lstm(x, (h, c))
        return self.head(y), h.clamp(-0.05, 0.05), c.clamp(-0.05, 0.05)

    def first(self, rows):
        return dict(zip("hc", self.zeros(rows), strict=True))

    def following(self, returned):
        return {"h": returned[1], "c": returned[2]}


class ScalesGiven(Recurrent):
    """No state is an empty tuple."""

    def forward(self, x, state=()):
        h, c = state or self.zeros(x.shape[0])
        y, state = self.lstm(x, (h * 0.5, torch.tanh(c)))
        return self.head(y), state


class ProjectsGiven(Recurrent):
    """The state is of another size than the LSTM's."""

    states = ("h_in",)

    def __init__(self):
        super().__init__()
        self.into, self.back = nn.Linear(16, 8), nn.Linear(8, 16)

    def forward(self, x, memory):
        h = self.into(memory).unsqueeze(0)
        y, (h, _) = self.lstm(x, (h, torch.zeros_like(h)))
        return self.head(y), self.back(h[0])

    def first(self, rows):
        return {"memory": torch.zeros(rows, 16)}

    def following(self, returned):
        return {"memory": returned[1]}


class Stacked(Recurrent):
    """`h` and `c` in one tensor."""

    def forward(self, x, state):
        y, (h, c) = self.lstm(x, (state[0], state[1]))
        return self.head(y), torch.stack([h, c])

    def first(self, rows):
        return {"state": torch.stack(self.zeros(rows))}


class StacksReturned(Recurrent):
    """Takes a pair, which it hands to a cell as it is, and returns both in one tensor."""

    inputs = STEP

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(3, 8)

    def forward(self, x, state=None):
        h, c = self.cell(x, state)
        return self.head(h), torch.stack([h, c])

    def following(self, returned):
        return {"state": tuple(returned[1])}


class Concatenated(Recurrent):
    """`h` and `c` side by side in one tensor, without an axis of layers."""

    states = ("hx_in",)

    def forward(self, x, hx):
        h, c = (part.unsqueeze(0).contiguous() for part in hx.chunk(2, -1))
        y, (h, c) = self.lstm(x, (h, c))
        return self.head(y), torch.cat([h, c], -1)[0]

    def first(self, rows):
        return {"hx": torch.zeros(rows, 16)}

    def following(self, returned):
        return {"hx": returned[1]}


class RowsFirst(Recurrent):
    def forward(self, x, h, c):
        y, (h, c) = self.lstm(x, (h.transpose(0, 1).contiguous(), c.transpose(0, 1).contiguous()))
        return self.head(y), h.transpose(0, 1), c.transpose(0, 1)

    def first(self, rows):
        return {"h": torch.zeros(rows, 1, 8), "c": torch.zeros(rows, 1, 8)}

    def following(self, returned):
        return {"h": returned[1], "c": returned[2]}


class RowsFirstOfLayers(RowsFirst):
    """As many layers as rows in many a test."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 8, 2, batch_first=True)

    def first(self, rows):
        return {"h": torch.zeros(rows, 2, 8), "c": torch.zeros(rows, 2, 8)}


class RowsFirstInOneTensor(RowsFirstOfLayers):
    states = ("hidden_in",)

    def forward(self, x, hidden):
        h, c = hidden.transpose(0, 1).contiguous().chunk(2, -1)
        y, state = self.lstm(x, (h.contiguous(), c.contiguous()))
        return self.head(y), torch.cat(state, -1).transpose(0, 1)

    def first(self, rows):
        return {"hidden": torch.zeros(rows, 2, 16)}

    def following(self, returned):
        return {"hidden": returned[1]}


class Pair(NamedTuple):
    h: Tensor
    c: Tensor


class NamedPair(Recurrent):
    def forward(self, x, state: Pair):
        y, (h, c) = self.lstm(x, (state.h, state.c))
        return self.head(y), Pair(h, c)

    def first(self, rows):
        return {"state": Pair(*self.zeros(rows))}


class DictOfBoth(Recurrent):
    def forward(self, x, state=None):
        state = state or dict(zip(("hidden", "cell"), self.zeros(x.size(0)), strict=True))
        y, (h, c) = self.lstm(x, (state["hidden"], state["cell"]))
        return {"logits": self.head(y), "state": {"hidden": h, "cell": c}}

    def following(self, returned):
        return {"state": returned["state"]}


class NamedEntries(Recurrent):
    """Required, under names of its own."""

    def first(self, rows):
        h, c = self.zeros(rows)
        return {"state": {"lstm_c": c, "lstm_h": h}}

    def forward(self, x, state):
        y, (h, c) = self.lstm(x, (state["lstm_h"], state["lstm_c"]))
        return self.head(y), {"lstm_h": h, "lstm_c": c}


@dataclass
class Memory:
    hidden: Tensor
    cell: Tensor


class DataclassPair(Recurrent):
    def forward(self, x, memory=None):
        memory = memory or Memory(*self.zeros(x.size(0)))
        y, (h, c) = self.lstm(x, (memory.hidden, memory.cell))
        return self.head(y), (h, c)

    def following(self, returned):
        return {"memory": Memory(*returned[1])}


class StateComesFirst(Recurrent):
    def forward(self, x, hx=None):
        y, hx = self.lstm(x, hx)
        return hx, self.head(y)

    def following(self, returned):
        return {"hx": returned[0]}


class HiddenAlone(Recurrent):
    """The cell state starts from zeros at each call: it is no state of this module."""

    states = ("h_in",)

    def forward(self, x, h):
        y, (h, _) = self.lstm(x, (h, torch.zeros_like(h)))
        return self.head(y), h

    def first(self, rows):
        return {"h": torch.zeros(1, rows, 8)}

    def following(self, returned):
        return {"h": returned[1]}


class LearnedStart(Recurrent):
    """Without a state it starts from learned values."""

    def __init__(self):
        super().__init__()
        self.h0, self.c0 = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x, state=None):
        if state is None:
            state = tuple(value.expand(-1, x.size(0), -1).contiguous() for value in (self.h0, self.c0))
        y, state = self.lstm(x, state)
        return self.head(y), state


class MakesLearnedStart(Recurrent):
    """It requires a state, and a method makes that which a sequence begins with."""

    def __init__(self):
        super().__init__()
        self.h0, self.c0 = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))

    def init_hidden(self, batch_size):
        return {"h": self.h0.repeat(1, batch_size, 1), "c": self.c0.repeat(1, batch_size, 1)}

    def forward(self, x, state):
        y, (h, c) = self.lstm(x, (state["h"], state["c"]))
        return self.head(y), {"h": h, "c": c}

    def first(self, rows):
        return {"state": self.init_hidden(rows)}


class Cell(nn.Module):
    """One step a call."""

    inputs = STEP
    states = ("h_in", "c_in")

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(3, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x, h, c):
        h, c = self.cell(x, (h, c))
        return self.head(h), h, c

    def first(self, rows):
        return {"h": torch.zeros(rows, 5), "c": torch.zeros(rows, 5)}

    def following(self, returned):
        return {"h": returned[1], "c": returned[2]}


class CellReturnsItsHidden(Cell):
    def forward(self, x, hx=None):
        h, c = self.cell(x, hx)
        return h, (h, c)

    def first(self, rows):
        return {}

    def following(self, returned):
        return {"hx": returned[1]}


class Cells(nn.Module):
    """A list with a pair for each cell."""

    inputs = STEP
    states = ("cells_0_h_in", "cells_0_c_in", "cells_1_h_in", "cells_1_c_in")

    def __init__(self):
        super().__init__()
        self.cells = nn.ModuleList([nn.LSTMCell(3, 5), nn.LSTMCell(5, 5)])
        self.head = nn.Linear(5, 2)

    def forward(self, x, state):
        after = []
        for cell, pair in zip(self.cells, state, strict=True):
            x, c = cell(x, pair)
            after.append((x, c))
        return self.head(x), after

    def first(self, rows):
        return {"state": [(torch.zeros(rows, 5), torch.zeros(rows, 5)) for _ in self.cells]}

    def following(self, returned):
        return {"state": returned[1]}


class CellsInTensors(Cells):
    """One tensor with `h` of all cells, one with `c`."""

    def forward(self, x, h, c):
        _, after = super().forward(x, list(zip(h, c, strict=True)))
        return self.head(after[-1][0]), torch.stack([h for h, _ in after]), torch.stack([c for _, c in after])

    def first(self, rows):
        return {"h": torch.zeros(2, rows, 5), "c": torch.zeros(2, rows, 5)}

    def following(self, returned):
        return {"h": returned[1], "c": returned[2]}


class CellsInOneTensor(Cells):
    def forward(self, x, state):
        y, after = super().forward(x, list(zip(state[0], state[1], strict=True)))
        return y, torch.stack([torch.stack([h for h, _ in after]), torch.stack([c for _, c in after])])

    def first(self, rows):
        return {"state": torch.zeros(2, 2, rows, 5)}


class TwoLSTMs(nn.Module):
    """The states one by one, and returned in another order."""

    inputs = SEQUENCE
    states = ("low_h_in", "low_c_in", "top_h_in", "top_c_in")

    def __init__(self):
        super().__init__()
        self.low, self.top = nn.LSTM(3, 4, batch_first=True), nn.LSTM(4, 4, 2, batch_first=True)

    def forward(self, x, h1, c1, h2, c2):
        x, (h1, c1) = self.low(x, (h1, c1))
        x, (h2, c2) = self.top(x, (h2, c2))
        return x, h1, h2, c1, c2

    def first(self, rows):
        return {name: torch.zeros(layers, rows, 4) for name, layers in (("h1", 1), ("c1", 1), ("h2", 2), ("c2", 2))}

    def following(self, returned):
        return dict(zip(("h1", "h2", "c1", "c2"), returned[1:], strict=True))


class TwoOptionalPairs(TwoLSTMs):
    def forward(self, x, hidden1=None, hidden2=None):
        x, hidden1 = self.low(x, hidden1)
        x, hidden2 = self.top(x, hidden2)
        return x, (hidden1, hidden2)

    def first(self, rows):
        return {}

    def following(self, returned):
        return dict(zip(("hidden1", "hidden2"), returned[1], strict=True))


class States(NamedTuple):
    low: tuple[Tensor, Tensor]
    top: tuple[Tensor, Tensor]


class TwoNamedPairs(TwoLSTMs):
    """As recurrent actors and critics have it; rows that begin anew are set to zeros."""

    inputs = FLAGGED

    def forward(self, x, done, states: States):
        keep = (1 - done).view(1, -1, 1)
        x, low = self.low(x, (states.low[0] * keep, states.low[1] * keep))
        x, top = self.top(x, (states.top[0] * keep, states.top[1] * keep))
        return x, States(low, top)

    def first(self, rows):
        zeros = [torch.zeros(layers, rows, 4) for layers in (1, 2)]
        return {"states": States((zeros[0], zeros[0]), (zeros[1], zeros[1]))}

    def following(self, returned):
        return {"states": returned[1]}


class TwoInOneTensor(nn.Module):
    """`[LSTM, rows, units, h or c]`, as speech enhancers have it."""

    inputs = SEQUENCE
    states = TwoLSTMs.states

    def __init__(self):
        super().__init__()
        self.low, self.top = nn.LSTM(3, 4, batch_first=True), nn.LSTM(4, 4, batch_first=True)

    def forward(self, x, in_states):
        pairs = []
        for index, lstm in enumerate((self.low, self.top)):
            h, c = (in_states[index : index + 1, :, :, part].contiguous() for part in (0, 1))
            x, pair = lstm(x, (h, c))
            pairs.append(torch.cat(pair))
        return x, torch.stack([pair.transpose(0, 1).transpose(1, 2) for pair in pairs])

    def first(self, rows):
        return {"in_states": torch.zeros(2, rows, 4, 2)}

    def following(self, returned):
        return {"in_states": returned[1]}


class TwoOptionalApart(TwoLSTMs):
    """Four optional arguments that need each other; `h` is scaled on its way out."""

    def forward(self, x, h1=None, c1=None, h2=None, c2=None):
        if h1 is None:
            h1 = c1 = x.new_zeros(1, len(x), 4)
            h2 = c2 = x.new_zeros(2, len(x), 4)
        x, (h1, c1) = self.low(x, (h1, c1))
        x, (h2, c2) = self.top(x, (h2, c2))
        return x, h1 * 0.5, c1, h2 * 0.5, c2

    def first(self, rows):
        return {}

    def following(self, returned):
        return dict(zip(("h1", "c1", "h2", "c2"), returned[1:], strict=True))


class CalledFromTwoStates(nn.Module):
    """One LSTM for both hands, each with a state of its own."""

    inputs = SEQUENCE
    states = ("lstm_1_h_in", "lstm_1_c_in", "lstm_2_h_in", "lstm_2_c_in")

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x, states=None):
        states = states or {"left": None, "right": None}
        left, left_state = self.lstm(-x, states["left"])
        right, right_state = self.lstm(x, states["right"])
        return left + 2 * right, {"left": left_state, "right": right_state}

    def first(self, rows):
        return {}

    def following(self, returned):
        return {"states": returned[1]}


class StateOfOneOfTwo(TwoOptionalPairs):
    """The first LSTM starts anew at each call, so it has no state in the contract."""

    states = ("h_in", "c_in")

    def forward(self, x, hidden=None):
        x, _ = self.low(x)
        x, hidden = self.top(x, hidden)
        return x, hidden

    def following(self, returned):
        return {"hidden": returned[1]}


class TwoStages(nn.Module):
    """Two LSTMs in each of two stages, and for each stage one tensor `[layers, rows, size, h or c]`."""

    inputs = SEQUENCE
    states = tuple(f"stages_{stage}_{lstm}_{state}_in" for stage in (0, 1) for lstm in (0, 1) for state in "hc")

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(
            nn.ModuleList([nn.LSTM(size, 4, batch_first=True), nn.LSTM(4, 4, batch_first=True)]) for size in (3, 4)
        )

    def first(self, rows):
        return {"state1": torch.zeros(2, rows, 4, 2), "state2": torch.zeros(2, rows, 4, 2)}

    def following(self, returned):
        return {"state1": returned[1], "state2": returned[2]}

    def forward(self, x, state1, state2):
        after = []
        for stage, state in zip(self.stages, (state1, state2), strict=True):
            finals = []
            for number, lstm in enumerate(stage):
                h, c = state[number : number + 1, ..., 0].contiguous(), state[number : number + 1, ..., 1].contiguous()
                x, final = lstm(x, (h, c))
                finals.append(torch.stack(final, -1))
            after.append(torch.cat(finals))
        return x, *after


class NeverCallsOne(nn.Module):
    """An LSTM that is not called has no state."""

    inputs = SEQUENCE
    states = ("h_in", "c_in")

    def __init__(self):
        super().__init__()
        self.actor, self.critic = nn.LSTM(3, 4, batch_first=True), nn.LSTM(3, 4, batch_first=True)

    def forward(self, x, h, c):
        x, (h, c) = self.actor(x, (h, c))
        return x, h, c

    def first(self, rows):
        return {"h": torch.zeros(1, rows, 4), "c": torch.zeros(1, rows, 4)}

    def following(self, returned):
        return {"h": returned[1], "c": returned[2]}


class Keeps(Recurrent):
    """Keeps its state as an attribute; the first call starts from zeros."""

    def __init__(self):
        super().__init__()
        self.hidden = None

    def forward(self, x):
        y, hidden = self.lstm(x, self.hidden)
        self.hidden = tuple(value.detach() for value in hidden)
        return self.head(y)

    def following(self, returned):
        return {}


class KeepsOfOneRow(Keeps):
    """Two attributes, made for one row."""

    def __init__(self):
        super().__init__()
        self.h, self.c = self.zeros(1)

    def forward(self, x):
        y, (h, c) = self.lstm(x, (self.h * 0.9, self.c))
        self.h, self.c = h.detach().clamp(-0.1, 0.1), c.detach()
        return self.head(y)


class KeepsInBuffers(Keeps):
    """Buffers that are written in place."""

    def __init__(self):
        super().__init__()
        del self.hidden
        self.register_buffer("h", torch.zeros(1, 1, 8))
        self.register_buffer("c", torch.zeros(1, 1, 8))

    def forward(self, x):
        y, (h, c) = self.lstm(x, (self.h, self.c))
        self.h.copy_(h)
        self.c[...] = c
        return self.head(y)


class KeepsInObject(Keeps):
    """In an object of a class of its own."""

    class Memory:
        def __init__(self):
            self.state = None

    def __init__(self):
        super().__init__()
        self.memory = self.Memory()

    def forward(self, x):
        y, self.memory.state = self.lstm(x, self.memory.state)
        return self.head(y)


class KeepsInObjectMadeByACall(Keeps):
    """There is none before the first call, and a new one after each."""

    def __init__(self):
        super().__init__()
        self.memory = None

    def forward(self, x):
        y, state = self.lstm(x, self.memory and self.memory.states.last)
        self.memory = KeepsInObject.Memory()
        self.memory.states = KeepsInObject.Memory()
        self.memory.states.last = state
        return self.head(y)


class CountsInObject(Keeps):
    """Beside the state lies a number that acts on later calls."""

    def __init__(self):
        super().__init__()
        self.memory = None

    def forward(self, x):
        if self.memory is None:
            self.memory = KeepsInObject.Memory()
            self.memory.calls = 0
        self.memory.calls += 1
        y, self.memory.state = self.lstm(x, self.memory.state)
        return self.memory.calls * self.head(y)


class KeepsHysteresis(Keeps):
    """A flag of each row that only values in a narrow range let act: comparisons hide it from other values."""

    def __init__(self):
        super().__init__()
        self.triggered = None

    def forward(self, x):
        y, self.hidden = self.lstm(x, self.hidden)
        level = self.head(y)[:, -1, 0]
        before = torch.zeros_like(level) if self.triggered is None else self.triggered
        self.triggered = ((level > 5) | ((level > 4.9) & (before > 0))).float()
        return self.head(y) + self.triggered[:, None, None]


class KeepsForRows(Keeps):
    """Made anew whenever the number of rows or the sampling rate is not that of the call before."""

    def __init__(self):
        super().__init__()
        self.rows = self.rate = 0
        self.reset(1)

    def reset(self, rows):
        self.h, self.c = self.zeros(rows)
        self.rows = rows

    def forward(self, x):
        if self.rows != x.shape[0] or self.rate != 16000:
            self.reset(x.shape[0])
        y, (self.h, self.c) = self.lstm(x, (self.h, self.c))
        self.rate = 16000
        return self.head(y)


class KeepsOnceReady(Keeps):
    """Made at the first call, as a flag says."""

    def __init__(self):
        super().__init__()
        self.ready = False

    def forward(self, x):
        if not self.ready:
            self.hidden, self.ready = self.zeros(x.size(0)), True
        y, self.hidden = self.lstm(x, self.hidden)
        return self.head(y)


class KeepsOfTwoCells(nn.Module):
    """Two cells, whose states and the last output are made together at the first call."""

    inputs = STEP

    def __init__(self):
        super().__init__()
        self.low, self.top = nn.LSTMCell(3 + 2, 5), nn.LSTMCell(5, 4)
        self.head = nn.Linear(4, 2)
        self.low_state = self.top_state = self.last = None

    def forward(self, x):
        if self.low_state is None:
            self.low_state = (x.new_zeros(len(x), 5), x.new_zeros(len(x), 5))
            self.top_state = (x.new_zeros(len(x), 4), x.new_zeros(len(x), 4))
            self.last = x.new_zeros(len(x), 2)
        self.low_state = self.low(torch.cat([x, self.last], 1), self.low_state)
        self.top_state = self.top(self.low_state[0], self.top_state)
        self.last = self.head(self.top_state[0])
        return self.last


TAKEN = [
    ResetsRows,
    ClipsReturned,
    ScalesGiven,
    ProjectsGiven,
    Stacked,
    Concatenated,
    RowsFirst,
    RowsFirstOfLayers,
    RowsFirstInOneTensor,
    NamedPair,
    DictOfBoth,
    NamedEntries,
    DataclassPair,
    StateComesFirst,
    HiddenAlone,
    LearnedStart,
    MakesLearnedStart,
    Cell,
    CellReturnsItsHidden,
    Cells,
    CellsInTensors,
    CellsInOneTensor,
    TwoLSTMs,
    TwoOptionalPairs,
    TwoNamedPairs,
    TwoInOneTensor,
    TwoOptionalApart,
    CalledFromTwoStates,
    StateOfOneOfTwo,
    TwoStages,
    NeverCallsOne,
]
KEPT = [
    Keeps,
    KeepsOfOneRow,
    KeepsInBuffers,
    KeepsForRows,
    KeepsOnceReady,
    KeepsOfTwoCells,
    KeepsInObject,
    KeepsInObjectMadeByACall,
    KeepsHysteresis,
]
