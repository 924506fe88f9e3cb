"""Modules as their authors write them: none knows of lstm-deploy."""

import warnings
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence


class OneLSTM(nn.Module):
    """An LSTM over three features."""

    hidden_size, num_layers = 4, 1

    def __init__(self, **form):
        super().__init__()
        self.lstm = nn.LSTM(3, self.hidden_size, batch_first=True, **{"num_layers": self.num_layers, **form})


class HidesState(nn.Module):
    """`forward(x)` makes its own zeros and returns the last step only."""

    def __init__(self, **form):
        super().__init__()
        self.lstm = nn.LSTM(3, 8, batch_first=True, **form)
        width = (self.lstm.proj_size or 8) * (2 if self.lstm.bidirectional else 1)
        self.fc = nn.Linear(width, 2)

    def forward(self, x):
        h0 = torch.zeros(self.lstm.num_layers * (2 if self.lstm.bidirectional else 1), x.size(0), 8).to(x.device)
        out, _ = self.lstm(x, (h0, h0.clone()))
        return self.fc(out[:, -1, :])


class ReturnsState(nn.Module):
    """`forward(x, hidden=None)` returns `(out, hidden)`."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 8, 2, batch_first=True)
        self.fc = nn.Linear(8, 2)

    def forward(self, x, hidden=None):
        out, hidden = self.lstm(x, hidden)
        return self.fc(out), hidden


class Attention(nn.Module):
    """Attention over all steps: the output depends on how a sequence is cut, the state does not."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 8, batch_first=True)
        self.attention = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x):
        out, _ = self.lstm(x)
        return (out * torch.softmax(self.attention(out), dim=1)).sum(1)


class TwoLSTMs(nn.Module):
    """Two recurrent modules, outputs in a dict."""

    def __init__(self):
        super().__init__()
        self.low = nn.LSTM(3, 4, batch_first=True)
        self.top = nn.ModuleDict({"lstm": nn.LSTM(4, 5, batch_first=True)})

    def forward(self, x):
        low, _ = self.low(x)
        top, _ = self.top["lstm"](low)
        return {"low": low, "top": top}


class Convolved(nn.Module):
    """A convolution before the LSTM sees neighbours, so chunks are not the whole."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=1)
        self.lstm = nn.LSTM(4, 5, batch_first=True)

    def forward(self, x):
        return self.lstm(self.conv(x.transpose(1, 2)).transpose(1, 2))[0]


class LearnedStart(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 8, batch_first=True)
        self.h0 = nn.Parameter(torch.ones(1, 1, 8))

    def forward(self, x):
        h0 = self.h0.expand(-1, x.shape[0], -1).contiguous()
        return self.lstm(x, (h0, torch.zeros_like(h0)))[0]


class CalledTwice(OneLSTM):
    hidden_size = 3

    def forward(self, x):
        return self.lstm(self.lstm(x)[0])[0]


class NeverCalled(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 3, batch_first=True)
        self.unused = nn.LSTM(3, 3)

    def forward(self, x):
        return self.lstm(x)[0]


class TwoStates(OneLSTM):
    """The same LSTM reads two halves of the features, each from zeros."""

    def forward(self, x):
        return self.lstm(x)[0] - self.lstm(-x)[0]


class DemandsState(OneLSTM):
    """`forward(x, hidden)` cannot be called without a state; `forward(x, h, c)` of others is alike."""

    num_layers = 2

    def forward(self, x, hidden):
        h, c = hidden
        out, (h, c) = self.lstm(x, (h, c))
        return out, (h.detach(), c.detach())


class DemandsBoth(DemandsState):
    def forward(self, x, h, c):
        out, (h, c) = self.lstm(x, (h, c))
        return {"logits": out, "state": {"h": h, "c": c}}


class RandomStart(OneLSTM):
    def forward(self, x):
        h0 = torch.randn(1, x.size(0), 4)
        return self.lstm(x, (h0, torch.randn(1, x.size(0), 4)))[0]


class NamesCuda(nn.Module):
    """Its zeros are made on a device that is written into the code."""

    def __init__(self, device="cuda"):
        super().__init__()
        self.device = torch.device(device)
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x):
        h0 = torch.zeros(1, x.size(0), 4, device=self.device)
        c0 = torch.zeros(1, x.size(0), 4).to(self.device)
        return self.lstm(x.to("cuda"), (h0, c0))[0]


class NamesCudaLate(OneLSTM):
    """A device is named after the LSTM was called: where it is not there, that call was in vain."""

    def forward(self, x):
        return self.lstm(x)[0] + torch.ones(4, device="cuda")


class Cells(nn.Module):
    """Two cells driven by a loop over time."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LSTMCell(3, 4), nn.LSTMCell(4, 5)

    def forward(self, x):
        h1 = c1 = torch.zeros(x.size(0), 4)
        h2 = c2 = torch.zeros(x.size(0), 5)
        outputs = []
        for step in range(x.size(1)):
            h1, c1 = self.first(x[:, step], (h1, c1))
            h2, c2 = self.second(h1, (h2, c2))
            outputs.append(h2)
        return torch.stack(outputs, 1)


class Seq2Seq(nn.Module):
    """The decoder starts from what the encoder ended with."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.LSTM(3, 4, batch_first=True)
        self.decoder = nn.LSTM(2, 4, batch_first=True)

    def forward(self, x, target):
        _, state = self.encoder(x)
        return self.decoder(target, state)[0]


class Packs(OneLSTM):
    """Padded rows of unequal length, packed; the outputs are padded again."""

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        out, (h, _) = self.lstm(packed)
        out, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
        return out, h[-1] * 2


class WindowNorm(nn.Module):
    """BatchNorm over a window of 10: the number of steps is fixed. Time-major inside."""

    def __init__(self, bidirectional=False):
        super().__init__()
        self.BN = nn.BatchNorm1d(10)
        self.layer1 = nn.LSTM(1, 6, 2, bidirectional=bidirectional)
        self.Dropped = nn.Dropout(0.2)
        self.layer2 = nn.Linear(12 if bidirectional else 6, 1)

    def forward(self, x):
        x = self.BN(x)
        x = x.t().unsqueeze(-1)
        out, _ = self.layer1(x)
        return self.layer2(self.Dropped(out[-1]))


class Unbatched(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, 2, bidirectional=True)

    def forward(self, x):
        return self.lstm(x)[0]


class StartsByFlag(nn.Module):
    """The start depends on a flag that is almost always set: a computed state, not a constant."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 5, batch_first=True)
        self.start = nn.Parameter(torch.ones(1, 1, 5))
        self.own = nn.LSTM(3, 5, batch_first=True)

    def forward(self, x, is_new):
        h = self.start.expand(1, x.size(0), 5) * is_new.any(1).float()[None, :, None]
        return self.lstm(x, (h.contiguous(), torch.zeros_like(h)))[0] + self.own(x)[0]


class KeepsState(OneLSTM):
    """`self.hidden` is carried from call to call."""

    def __init__(self):
        super().__init__()
        self.hidden = None

    def forward(self, x):
        out, hidden = self.lstm(x, self.hidden)
        self.hidden = tuple(state.detach() for state in hidden)
        return out


class Casts(nn.Module):
    """Makes float32 by name, as code for one-hot inputs does."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(5, 4, batch_first=True)
        self.cell = nn.LSTMCell(2, 4)

    def forward(self, x):
        _, (h, c) = self.lstm(nn.functional.one_hot(x, 5).float())
        h, c = self.cell(torch.zeros(x.shape[0], 2), (h[0], c[0]))
        return h * torch.ones(4, dtype=torch.float32)


class PoolsPadding(Packs):
    def forward(self, x, lengths):
        return super().forward(x, lengths)[0].mean(1)


class CountsCalls(OneLSTM):
    """A buffer that forward changes in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return self.lstm(x)[0]


class ChangesItsInput(OneLSTM):
    def forward(self, x):
        x -= 0.5
        x[:, :, 0] = 0
        return self.lstm(x)[0] + x.mean()


class PoolsTime(OneLSTM):
    """Every other step is left: at least two are needed."""

    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool1d(2)

    def forward(self, x):
        return self.pool(self.lstm(x)[0].transpose(1, 2)).transpose(1, 2)


class Subsamples(nn.Module):
    """As speech models begin: two strided convolutions, which need seven steps."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv1d(3, 5, 3, stride=2), nn.ReLU(), nn.Conv1d(5, 6, 3, stride=2))
        self.lstm = nn.LSTM(6, 4, batch_first=True)

    def forward(self, x):
        return self.lstm(self.conv(x.transpose(1, 2)).transpose(1, 2))[0]


class Strided(OneLSTM):
    """A frame of five steps at a time, so that six and nine steps make two frames each."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 9, stride=5, padding=4)

    def forward(self, x):
        return self.lstm(self.conv(x.transpose(1, 2)).transpose(1, 2))[0]


class ReadsLines(OneLSTM):
    """As line readers begin: convolutions with strides make one row of pixels of eight, as is asserted."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.ReLU(), nn.Conv2d(2, 3, 3, (4, 2), 1))

    def forward(self, x):
        features = self.conv(x.transpose(1, 2).unsqueeze(1))
        _, _, height, _ = features.size()
        assert height == 1, "the height must be 1"
        return self.lstm(features.squeeze(2).permute(0, 2, 1))[0]


class LooksFarBack(OneLSTM):
    """A causal convolution over 12 steps after the LSTM."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 12)

    def forward(self, x):
        y = self.lstm(x)[0].transpose(1, 2)
        return self.conv(nn.functional.pad(y, (11, 0))).transpose(1, 2)


class AddsAnEcho(OneLSTM):
    """y[t] has x[t - 20] in it."""

    hidden_size = 3

    def forward(self, x):
        return self.lstm(x)[0] + nn.functional.pad(x, (0, 0, 20, 0))[:, : x.shape[1]]


class DemandsMapping(DemandsState):
    """The state is a dict."""

    def forward(self, x, state):
        out, (h, c) = self.lstm(x, (state["h"], state["c"]))
        return out, {"h": h, "c": c}


class FlattensOutput(nn.Module):
    """As character models often end: batch and time become one axis."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, 2, batch_first=True)
        self.fc = nn.Linear(4, 5)

    def forward(self, x, hidden=None):
        out, hidden = self.lstm(x, hidden)
        return self.fc(out.contiguous().view(-1, 4)), hidden


class StepCell(nn.Module):
    """One step a call, as controllers and voice detectors are written: rows without time, a state that may be given."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(3, 5)
        self.fc = nn.Linear(5, 2)

    def forward(self, x, state=None):
        h, c = self.cell(x, state)
        return self.fc(h), (h, c)


class StepCellApart(StepCell):
    """`h` and `c` are given apart."""

    def forward(self, x, h=None, c=None):
        h, c = self.cell(x, None if h is None else (h, c))
        return self.fc(h), h, c


class StepCells(nn.Module):
    """Two cells, each with its own state."""

    def __init__(self):
        super().__init__()
        self.low, self.top = nn.LSTMCell(3, 5), nn.LSTMCell(5, 4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x, low=None, top=None):
        low = self.low(x, low)
        top = self.top(low[0], top)
        return self.fc(top[0]), low, top


class StepLSTM(nn.Module):
    """An LSTM that gets its axis of time in forward."""

    def __init__(self, batch_first=False):
        super().__init__()
        self.axis = 1 if batch_first else 0
        self.lstm = nn.LSTM(3, 5, 2, batch_first=batch_first)
        self.fc = nn.Linear(5, 2)

    def forward(self, x, hidden=None):
        y, hidden = self.lstm(x.unsqueeze(self.axis), hidden)
        return self.fc(y.squeeze(self.axis)), hidden


class PlainLSTM(StepLSTM):
    """An LSTM that gets its input as it is."""

    def forward(self, x, hidden=None):
        y, hidden = self.lstm(x, hidden)
        return self.fc(y), hidden


class TurnedLSTM(PlainLSTM):
    """The axis of time is put where that of the rows should be."""

    def forward(self, x, hidden=None):
        return super().forward(x.unsqueeze(1), hidden)


class StepTokens(nn.Module):
    """The next character from this one."""

    def __init__(self, size=7):
        super().__init__()
        self.embedding = nn.Embedding(size, 4)
        self.cell = nn.LSTMCell(4, 6)
        self.fc = nn.Linear(6, size)

    def forward(self, x, state=None):
        h, c = self.cell(self.embedding(x), state)
        return 9 * self.fc(h), (h, c)


class StepFrame(nn.Module):
    """A frame of samples a call, of which a convolution makes one step."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 8, stride=4)
        self.rest = StepCell()

    def forward(self, x, state=None):
        return self.rest(self.conv(x.unsqueeze(1)).relu().mean(-1), state)


class StepsInAFrame(StepFrame):
    """A frame of samples a call, of which a convolution makes several steps."""

    def __init__(self):
        super().__init__()
        self.rest = PlainLSTM(batch_first=True)

    def forward(self, x, state=None):
        return self.rest(self.conv(x.unsqueeze(1)).transpose(1, 2), state)


class CellTwiceACall(nn.Module):
    """Two steps of one cell a call."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(3, 3)

    def forward(self, x, state=None):
        h, c = self.cell(x, state)
        return self.cell(h, (h, c))


class KeepsTheLastInput(StepCell):
    """What it computes also depends on the input before, which it keeps."""

    def __init__(self):
        super().__init__()
        self.before = 0.0

    def forward(self, x, state=None):
        change, self.before = x - self.before, x
        return super().forward(change, state)


class StepKeepsState(StepCell):
    """`self.state` is carried from call to call."""

    def __init__(self):
        super().__init__()
        self.state = None

    def forward(self, x):
        y, self.state = super().forward(x, self.state)
        return y


class FlattensTimeFirst(FlattensOutput):
    """As PyTorch's own language model ends: all rows of a step, then those of the next."""

    def forward(self, x, hidden=None):
        out, hidden = self.lstm(x, hidden)
        return torch.log_softmax(self.fc(out.transpose(0, 1)).reshape(-1, 5), dim=1), hidden


class FlattensRows(FlattensOutput):
    """Time and features become one axis."""

    def forward(self, x):
        return self.fc(self.lstm(x)[0]).flatten(1)


class FlattensWithoutMean(FlattensOutput):
    def forward(self, x):
        out = self.fc(self.lstm(x)[0])
        return (out - out.mean(1, keepdim=True)).flatten(0, 1)


class Tags(FlattensOutput):
    """Scores, the best tag of each step, and whether the last is likely."""

    def forward(self, x):
        out = self.fc(self.lstm(x)[0])
        return {"scores": out, "best": out.view(-1, 5).argmax(1), "likely": out[:, -1].softmax(-1) > 0.2}


class DropsWeights(OneLSTM):
    """Dropout of recurrent weights, which are set as an attribute in each forward: AWD-LSTM."""

    def __init__(self):
        super().__init__()
        self.weight_hh_l0_raw = nn.Parameter(self.lstm.weight_hh_l0.detach() * 3)
        del self.lstm.weight_hh_l0

    def forward(self, x):
        self.lstm.weight_hh_l0 = self.dropped()
        return self.lstm(x)[0]

    def dropped(self):
        return nn.functional.dropout(self.weight_hh_l0_raw, 0.5, training=self.training)


class DropsWeightsAsParameters(DropsWeights):
    def dropped(self):
        return nn.Parameter(super().dropped())


class SharesWeights(nn.Module):
    """Two LSTMs with the same recurrent weights."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LSTM(3, 4, batch_first=True), nn.LSTM(4, 4, batch_first=True)
        self.second.weight_hh_l0 = self.first.weight_hh_l0

    def forward(self, x):
        return self.second(self.first(x)[0])[0]


class ReadsWeights(OneLSTM):
    def forward(self, x):
        self.lstm.flatten_parameters()
        return self.lstm(x)[0] / self.lstm.weight_hh_l0.norm()


class TakesBatch(OneLSTM):
    """All inputs in one argument, and a dataclass as the result."""

    @dataclass
    class Result:
        loss: torch.Tensor | None
        scores: torch.Tensor

    def __init__(self, read, names):
        super().__init__()
        self.read, self.names = read, names

    def forward(self, batch):
        by_key = "[" in self.read
        x = sum(batch[name] if by_key else getattr(batch, name) for name in self.names)
        return self.Result(None, self.lstm(x)[0])


def scaled(x: torch.Tensor, steps: int):
    """Scripted below."""
    return x * (steps / (1 + steps))


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # as torch.jit.script warns that it is deprecated
    scaled = torch.jit.script(scaled)


class ReadsSizes(OneLSTM):
    """By `len`, of `x.data`, of lists, in arithmetic, and for a scripted function."""

    def forward(self, x):
        rows, steps, features = x.data.shape
        x = scaled(x.reshape(rows, steps, features), steps)
        start = torch.zeros(1, len(x), 4)
        out, _ = self.lstm(x, (start, start))
        places = torch.arange(len(x[0])) / x.size(1)
        return out.reshape(len(x), -1, 2, 2) + places[:, None, None], out[:, steps // 2]


def named(arguments, returned="out"):
    """A module whose `forward` has these arguments, such as `x, cat`, and returns this expression of `out`."""
    source = f"""
def forward(self, {arguments}):
    out, _ = self.lstm(torch.cat([{arguments}], -1).relu())
    return {returned}
"""
    scope = {"torch": torch}
    exec(source, scope)

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3 * len(arguments.split(",")), 4, batch_first=True)

        forward = scope["forward"]

    return Named()


class WordsOfCharacters(nn.Module):
    """One LSTM runs on the characters of each word, one on the words: the rows of the first are batch times words."""

    def __init__(self):
        super().__init__()
        self.characters, self.words = nn.LSTM(3, 5, batch_first=True), nn.LSTM(5, 4, batch_first=True)

    def forward(self, x):
        rows, words = x.shape[:2]
        _, (h, _) = self.characters(x.flatten(0, 1))
        return self.words(h[-1].reshape(rows, words, -1))[0]


class MaskedDecoder(nn.Module):
    """A step of an attention decoder; where a mask leaves a row with nothing, its softmax is NaN."""

    inputs = ("x:float32[batch,3]", "memory:float32[batch,text,4]", "mask:bool[batch,text]")

    def __init__(self):
        super().__init__()
        self.query = nn.Linear(5, 4)
        self.cell = nn.LSTMCell(7, 5)

    def forward(self, x, memory, mask, h, c):
        scores = (memory @ self.query(h)[:, :, None]).squeeze(-1).masked_fill(mask, -torch.inf)
        context = (scores.softmax(1)[:, None] @ memory).squeeze(1)
        h, c = self.cell(torch.cat([x, context], 1), (h, c))
        return h.sum(1), h, c
