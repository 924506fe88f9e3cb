"""Modules as their authors write them: none knows of lstm-deploy."""

import torch
from torch import nn


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


class CalledTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 3, batch_first=True)

    def forward(self, x):
        return self.lstm(self.lstm(x)[0])[0]


class NeverCalled(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 3, batch_first=True)
        self.unused = nn.LSTM(3, 3)

    def forward(self, x):
        return self.lstm(x)[0]


class Subclassed(nn.Module):
    class Strange(nn.LSTM):
        def forward(self, x, hx=None):
            return super().forward(-x, hx)

    def __init__(self):
        super().__init__()
        self.lstm = self.Strange(3, 3, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0]


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 3, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]
