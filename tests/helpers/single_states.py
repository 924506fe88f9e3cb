"""Modules whose state is one tensor for each recurrent module, as authors of GRUs and RNNs write them.

Made with the kind of their cells. As in `state_forms`, with `first(rows)` and `following(returned)`.
"""

import torch
from kinds import cell, layer
from torch import nn

SEQUENCE, STEP = {"x": "float32[batch,seq,3]"}, {"x": "float32[batch,3]"}
MEMORY = {"x": "float32[batch,3]", "memory": "float32[batch,7,5]"}
ENCODED = {"encoded": "float32[batch,seq,6]"}
BOTH_WAYS, DEEP = {"num_layers": 2, "bidirectional": True, "bias": False}, {"num_layers": 2}


class Layer(nn.Module):
    """A recurrent layer and a linear one."""

    inputs, form = SEQUENCE, {}

    def __init__(self, kind):
        super().__init__()
        self.rnn = layer(kind, 3, 8, batch_first=True, **self.form)
        self.head = nn.Linear(16 if self.rnn.bidirectional else 8, 2)

    def zeros(self, rows):
        return torch.zeros(self.rnn.num_layers * (2 if self.rnn.bidirectional else 1), rows, 8)

    def forward(self, x, h=None):
        y, h = self.rnn(x, h)
        return self.head(y), h

    def first(self, rows):
        return {}

    def following(self, returned):
        return {"h": returned[1]}


class Demands(Layer):
    """The last step alone is an output."""

    form = BOTH_WAYS

    def forward(self, x, hidden):
        y, hidden = self.rnn(x, hidden)
        return self.head(y[:, -1]), hidden

    def first(self, rows):
        return {"hidden": self.zeros(rows)}

    def following(self, returned):
        return {"hidden": returned[1]}


class MakesZeros(Demands):
    form = DEEP

    def init_hidden(self, batch_size):
        return self.zeros(batch_size)

    def forward(self, x, hidden=None):
        return super().forward(x, self.init_hidden(x.shape[0]) if hidden is None else hidden)


class ReturnsStateAlone(Layer):
    def forward(self, x, h=None):
        return self.rnn(x, h)[1]

    def following(self, returned):
        return {"h": returned}


class RowsFirst(Layer):
    form = DEEP

    def forward(self, x, h):
        y, h = self.rnn(x, h.transpose(0, 1).contiguous())
        return self.head(y), h.transpose(0, 1)

    def first(self, rows):
        return {"h": self.zeros(rows).transpose(0, 1)}


class WithoutLayers(Layer):
    def forward(self, x, h):
        y, h = self.rnn(x, h.unsqueeze(0))
        return self.head(y), h.squeeze(0)

    def first(self, rows):
        return {"h": self.zeros(rows)[0]}


class LearnedStart(Layer):
    def __init__(self, kind):
        super().__init__(kind)
        self.h0 = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x, h=None):
        return super().forward(x, self.h0.expand(-1, len(x), -1).contiguous() if h is None else h)


class Keeps(Layer):
    def __init__(self, kind):
        super().__init__(kind)
        self.hidden = None

    def forward(self, x):
        y, hidden = super().forward(x, self.hidden)
        self.hidden = hidden.detach()
        return y

    def following(self, returned):
        return {}


class Cell(nn.Module):
    """One step a call, whose output may have the size of the state."""

    inputs = STEP

    def __init__(self, kind):
        super().__init__()
        self.cell, self.head, self.norm = cell(kind, 3, 5), nn.Linear(5, 5), nn.LayerNorm(5)

    def forward(self, x, h):
        h = self.cell(x, h)
        return self.head(h), h

    def first(self, rows):
        return {"h": torch.zeros(rows, 5)}

    def following(self, returned):
        return {"h": returned[1]}


class OutputIsState(Cell):
    def forward(self, x, h):
        return self.cell(x, h)

    def following(self, returned):
        return {"h": returned}


class OutputIsOptionalState(OutputIsState):
    def forward(self, x, h=None):
        return self.cell(x, h)

    def first(self, rows):
        return {}


class OutputIsMixedState(OutputIsState):
    """As with zoneout."""

    def forward(self, x, h):
        return 0.1 * h + 0.9 * self.cell(x, h)


class StateTwice(Cell):
    def forward(self, x, h):
        h = self.cell(x, h)
        return h, h


class NormsState(Cell):
    """The output is made of the state, and has its shape."""

    def forward(self, x, h):
        h = self.norm(self.cell(x, h))
        return self.head(h), h


class Attends(Cell):
    """The context of attention has the shape of the state, and stands where a state often does."""

    inputs = MEMORY

    def forward(self, x, h, memory):
        h = self.cell(x, h)
        context = ((memory @ h[:, :, None]).softmax(1) * memory).sum(1)
        return self.head(h + context), h, context


class LoopsOverTime(Cell):
    inputs = SEQUENCE

    def forward(self, x, h=None):
        outputs = []
        for step in range(x.shape[1]):
            h = self.cell(x[:, step], h)
            outputs.append(h)
        return self.head(torch.stack(outputs, 1)), h


class Cells(nn.Module):
    """A list of states."""

    inputs = STEP

    def __init__(self, kind):
        super().__init__()
        self.cells, self.head = nn.ModuleList([cell(kind, 3, 5), cell(kind, 5, 5)]), nn.Linear(5, 2)

    def run(self, x, states):
        after = []
        for each, h in zip(self.cells, states, strict=True):
            x = each(x, h)
            after.append(x)
        return self.head(x), after

    def forward(self, x, state):
        return self.run(x, state)

    def zeros(self, rows):
        return [torch.zeros(rows, 5) for _ in self.cells]

    def first(self, rows):
        return {"state": self.zeros(rows)}

    def following(self, returned):
        return {"state": returned[1]}


class CellsByName(Cells):
    def forward(self, x, state):
        y, after = self.run(x, [state["low"], state["top"]])
        return y, dict(zip(("low", "top"), after, strict=True))

    def first(self, rows):
        return {"state": dict(zip(("low", "top"), self.zeros(rows), strict=True))}


class CellsStacked(Cells):
    axis = 0

    def forward(self, x, state):
        y, after = self.run(x, state.unbind(self.axis))
        return y, torch.stack(after, self.axis)

    def first(self, rows):
        return {"state": torch.stack(self.zeros(rows), self.axis)}


class CellsStackedBesideRows(CellsStacked):
    axis = 1


class CellsStackedAlone(CellsStacked):
    """All that is returned."""

    def forward(self, x, state):
        return super().forward(x, state)[1]

    def following(self, returned):
        return {"state": returned}


class CellsApart(Cells):
    """Given back in another order."""

    def forward(self, x, low, top):
        y, (low, top) = self.run(x, [low, top])
        return y, top, low

    def first(self, rows):
        return dict(zip(("low", "top"), self.zeros(rows), strict=True))

    def following(self, returned):
        return {"low": returned[2], "top": returned[1]}


class Layers(nn.Module):
    """The states of several layers, one of which may be an LSTM, in a tuple."""

    inputs, layers, lstm = SEQUENCE, (1, 2), False

    def __init__(self, kind):
        super().__init__()
        sizes = zip((3, 4), self.layers, strict=True)
        kinds = ("LSTM", kind) if self.lstm else (kind, kind)
        self.parts = nn.ModuleList(
            layer(each, size, 4, layers, batch_first=True) for each, (size, layers) in zip(kinds, sizes, strict=True)
        )

    def run(self, x, states):
        after = []
        for part, state in zip(self.parts, states, strict=True):
            x, new = part(x, state)
            after.append(new)
        return x, tuple(after)

    def forward(self, x, states=None):
        return self.run(x, states or (None, None))

    def first(self, rows):
        return {}

    def following(self, returned):
        return {"states": returned[1]}


class LayersInOneTensor(Layers):
    """One after another along the axis of layers."""

    def forward(self, x, states):
        y, after = self.run(x, states.split(self.layers))
        return y, torch.cat(after)

    def first(self, rows):
        return {"states": torch.zeros(sum(self.layers), rows, 4)}


class LayersInOptionalArguments(Layers):
    def forward(self, x, h1=None, h2=None):
        x, after = self.run(x, (h1, h2))
        return x, *after

    def following(self, returned):
        return {"h1": returned[1], "h2": returned[2]}


class BesideLSTM(Layers):
    lstm = True


class BesideLSTMApart(BesideLSTM):
    def forward(self, x, h1, c1, h2):
        x, ((h1, c1), h2) = self.run(x, ((h1, c1), h2))
        return x, h1, c1, h2

    def first(self, rows):
        return {name: torch.zeros(1 + (name == "h2"), rows, 4) for name in ("h1", "c1", "h2")}

    def following(self, returned):
        return dict(zip(("h1", "c1", "h2"), returned[1:], strict=True))


class BesideLSTMKept(BesideLSTM):
    def __init__(self, kind):
        super().__init__(kind)
        self.low = self.top = None

    def forward(self, x):
        y, (self.low, self.top) = self.run(x, (self.low, self.top))
        return y

    def following(self, returned):
        return {}


class Decoder(nn.Module):
    """Starts from what an encoder left, and feeds its own words back, as in PyTorch's tutorial."""

    inputs = ENCODED

    def __init__(self, kind):
        super().__init__()
        self.embedding, self.out = nn.Embedding(9, 6), nn.Linear(6, 9)
        self.rnn = layer(kind, 12, 6, batch_first=True)

    def forward(self, encoded, encoder_hidden, target=None):
        word, hidden, outputs = torch.zeros(len(encoded), 1, dtype=torch.long), encoder_hidden, []
        for _ in range(3):
            context = ((encoded @ hidden.permute(1, 2, 0)).softmax(1) * encoded).sum(1, keepdim=True)
            y, hidden = self.rnn(torch.cat([self.embedding(word).relu(), context], 2), hidden)
            outputs.append(self.out(y))
            word = outputs[-1].argmax(-1).detach()
        return torch.cat(outputs, 1).log_softmax(-1), hidden, None

    def first(self, rows):
        return {"encoder_hidden": torch.zeros(1, rows, 6)}

    def following(self, returned):
        return {"encoder_hidden": returned[1]}


SINGLE = [
    Layer,
    Demands,
    MakesZeros,
    ReturnsStateAlone,
    RowsFirst,
    WithoutLayers,
    LearnedStart,
    Keeps,
    Cell,
    OutputIsState,
    OutputIsOptionalState,
    OutputIsMixedState,
    StateTwice,
    NormsState,
    Attends,
    LoopsOverTime,
    Cells,
    CellsByName,
    CellsStacked,
    CellsStackedBesideRows,
    CellsStackedAlone,
    CellsApart,
    Layers,
    LayersInOneTensor,
    LayersInOptionalArguments,
    BesideLSTM,
    BesideLSTMApart,
    BesideLSTMKept,
    Decoder,
]
