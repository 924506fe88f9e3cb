"""Networks of others that feed themselves, in the layouts that people use, each with what it is for."""

from typing import NamedTuple

import torch
from torch import nn

from lstm_deploy.contract.tasks import Forecast, LanguageModel, Task


class OneHotText(nn.Module):
    """One-hot characters in, logits after the last one out; the state is an argument."""

    def __init__(self, size: int = 7) -> None:
        super().__init__()
        self.lstm = nn.LSTM(size, 6, 2, batch_first=True)
        self.fc = nn.Linear(6, size)

    def forward(self, x, hidden):
        out, hidden = self.lstm(x, hidden)
        return 9 * self.fc(out[:, -1]), hidden


class TimeMajorText(nn.Module):
    """Tokens `[seq, batch]` in, logits of every step out; three layers with a projection."""

    def __init__(self, size: int = 7) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, 5)
        self.lstm = nn.LSTM(5, 8, 3, proj_size=4)
        self.fc = nn.Linear(4, size)

    def forward(self, x):
        return 9 * self.fc(self.lstm(self.embedding(x))[0])


class TwoLSTMs(nn.Module):
    """Tokens through two LSTMs, so with four states."""

    def __init__(self, size: int = 7) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, 5)
        self.first = nn.LSTM(5, 6, batch_first=True)
        self.second = nn.LSTM(6, 4, 2, batch_first=True)
        self.fc = nn.Linear(4, size)

    def forward(self, x):
        return 9 * self.fc(self.second(self.first(self.embedding(x))[0])[0])


class Series(nn.Module):
    """Values in, the next ones out, at every step or at the last."""

    def __init__(self, width: int = 2, *, last: bool = False, bidirectional: bool = False) -> None:
        super().__init__()
        self.last = last
        self.lstm = nn.LSTM(width, 6, 2, batch_first=True, bidirectional=bidirectional)
        self.fc = nn.Linear(12 if bidirectional else 6, width)

    def forward(self, x):
        y = self.fc(self.lstm(x)[0])
        return y[:, -1] if self.last else y


class LearnedStart(nn.Module):
    """A series of one value, from a state that was learned."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 5, 2, batch_first=True)
        self.h = nn.Parameter(torch.randn(2, 1, 5))
        self.c = nn.Parameter(torch.randn(2, 1, 5))
        self.fc = nn.Linear(5, 1)

    def forward(self, x):
        state = (self.h.expand(-1, x.shape[0], -1).contiguous(), self.c.expand(-1, x.shape[0], -1).contiguous())
        return self.fc(self.lstm(x, state)[0][:, -1])


class Window(nn.Module):
    """Ten values without an axis for them, normalised over the window, the sequence first inside."""

    def __init__(self) -> None:
        super().__init__()
        self.BN = nn.BatchNorm1d(10)
        self.layer1 = nn.LSTM(1, 8, 2)
        self.layer2 = nn.Linear(8, 1)

    def forward(self, x):
        x = self.BN(x).reshape(-1, 10).t().reshape(10, -1, 1)
        return self.layer2(self.layer1(x)[0][-1])


class LastState(nn.Module):
    """Tokens in, logits from the last layer's final state, as `h_n[-1]`."""

    def __init__(self, size: int = 7) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, 5)
        self.lstm = nn.LSTM(5, 6, 2, batch_first=True)
        self.fc = nn.Linear(6, size)

    def forward(self, x):
        _, (h, _) = self.lstm(self.embedding(x.long()))
        return 9 * self.fc(h[-1])


class ClassesFirst(nn.Module):
    """Logits as `[batch, classes, seq]`, which PyTorch's cross-entropy takes, some tokens masked."""

    def __init__(self, size: int = 7) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, 5)
        self.lstm = nn.LSTM(5, 6, batch_first=True)
        self.fc = nn.Linear(6, size)
        mask = torch.zeros(size)
        mask[3] = -torch.inf
        self.register_buffer("mask", mask)

    def forward(self, x):
        return (9 * self.fc(self.lstm(self.embedding(x))[0]) + self.mask).transpose(1, 2)


class StepText(nn.Module):
    """One token `[batch]` a call, logits of the next out."""

    def __init__(self, size: int = 7) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, 5)
        self.cell = nn.LSTMCell(5, 6)
        self.fc = nn.Linear(6, size)

    def forward(self, x, state=None):
        state = self.cell(self.embedding(x), state)
        return 9 * self.fc(state[0]), state


class StepSeries(nn.Module):
    """One row `[batch, features]` a call, the next one out."""

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, 6, 2)
        self.fc = nn.Linear(6, width)

    def forward(self, x, state=None):
        y, state = self.lstm(x.unsqueeze(0), state)
        return self.fc(y[0]), state


class Feeder(NamedTuple):
    """A module with what `export` must be told of it."""

    module: nn.Module
    inputs: dict[str, str]
    task: Task
    state_policy: str = "reset"
    state_layout: str = "layers-first"


LETTERS = LanguageModel(vocabulary=tuple("abcdefg"))
PAIR = Forecast(features=("a", "b"), targets=("a", "b"), window=5)
ONE = Forecast(features=("a",), targets=("a",), window=6)
TEN = Forecast(features=("a",), targets=("a",), window=10)


def feeders() -> dict[str, Feeder]:
    """By a name for the test."""
    torch.manual_seed(1)
    made = {
        "one-hot": Feeder(OneHotText(), {"x": "float32[batch,seq,7]"}, LETTERS),
        "time-major": Feeder(TimeMajorText(), {"x": "int64[seq,batch]"}, LETTERS),
        "two LSTMs": Feeder(TwoLSTMs(), {"x": "int64[batch,seq]"}, LETTERS, "carry"),
        "batch-first state": Feeder(TwoLSTMs(), {"x": "int64[batch,seq]"}, LETTERS, "carry", "batch-first"),
        "last state": Feeder(LastState(), {"x": "int32[batch,seq]"}, LETTERS),
        "classes first": Feeder(ClassesFirst(), {"x": "int64[batch,seq]"}, LETTERS),
        "carried": Feeder(Series(), {"x": "float32[batch,seq,2]"}, PAIR, "carry"),
        "carried, last step": Feeder(Series(last=True), {"x": "float32[batch,seq,2]"}, PAIR, "carry"),
        "window": Feeder(Series(), {"x": "float32[batch,seq,2]"}, PAIR),
        "window, batch-first state": Feeder(Series(), {"x": "float32[batch,seq,2]"}, PAIR, "reset", "batch-first"),
        "window, bidirectional": Feeder(Series(bidirectional=True), {"x": "float32[batch,seq,2]"}, PAIR),
        "learned start": Feeder(LearnedStart(), {"x": "float32[batch,seq,1]"}, ONE),
        "one step, text": Feeder(StepText(), {"x": "int64[batch]"}, LETTERS),
        "one step, carried": Feeder(StepSeries(), {"x": "float32[batch,2]"}, PAIR, "carry"),
        "one step, window": Feeder(Series(), {"x": "float32[batch,1,2]"}, PAIR),
        "fixed window": Feeder(Window(), {"x": "float32[batch,10]"}, TEN),
    }
    for feeder in made.values():
        with torch.no_grad():
            for name, weight in feeder.module.named_parameters():
                # As drawn, these forget all but the last step, and repeat one token for ever.
                weight.mul_(4.0 if "_hh_" in name or "_ih_" in name else 1.0)
    return made
