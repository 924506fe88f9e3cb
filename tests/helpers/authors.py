"""Networks as people write them in their own scripts, for the five systems that must work end to end."""

import torch
from torch import nn

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class SineLSTM(nn.Module):
    def __init__(self, input_size=1, hidden_size=64, num_layers=1):
        super().__init__()
        self.hidden_size, self.num_layers = hidden_size, num_layers
        self.lstm = nn.LSTM(input_size, hidden_size, num_layers, batch_first=True)
        self.linear = nn.Linear(hidden_size, 1)

    def forward(self, x, hidden=None):
        if x.dim() == 2:
            x = x.view(x.size(0), x.size(1), 1)
        if hidden is None:
            hidden = (
                torch.zeros(self.num_layers, x.size(0), self.hidden_size).to(device),
                torch.zeros(self.num_layers, x.size(0), self.hidden_size).to(device),
            )
        out, hidden = self.lstm(x, hidden)
        return self.linear(out[:, -1, :]), hidden


class Practitioner(nn.Module):
    def __init__(self, input_dim, hidden, layers, bidirectional=False, attention=False):
        super().__init__()
        self.lstm = nn.LSTM(input_dim, hidden, layers, batch_first=True, dropout=0.3, bidirectional=bidirectional)
        H = hidden * (2 if bidirectional else 1)
        self.attention = nn.Sequential(nn.Linear(H, H), nn.Tanh(), nn.Linear(H, 1)) if attention else None
        self.fc = nn.Linear(H, 3)

    def forward(self, x):
        out, _ = self.lstm(x)
        if self.attention is not None:
            w = torch.softmax(self.attention(out), dim=1)
            return self.fc(torch.sum(w * out, dim=1))
        return self.fc(out[:, -1])


class TextClassifier(nn.Module):
    def __init__(self, vocab=100, dim=16, hidden=32):
        super().__init__()
        self.embedding = nn.Embedding(vocab, dim)
        self.lstm = nn.LSTM(dim, hidden, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(2 * hidden, 4)

    def forward(self, tokens):
        out, _ = self.lstm(self.embedding(tokens))
        return self.fc(out.max(dim=1).values)


class Stock(nn.Module):
    def __init__(self, hidden=32):
        super().__init__()
        self.lstm = nn.LSTM(4, hidden, 2, batch_first=True)
        self.fc = nn.Linear(hidden, 1)

    def forward(self, x):
        return self.fc(self.lstm(x)[0])


class Window(nn.Module):
    def __init__(self, bidirectional=False):
        super().__init__()
        self.BN = nn.BatchNorm1d(10)
        self.layer1 = nn.LSTM(1, 200, 2, bidirectional=bidirectional)
        self.Dropped = nn.Dropout(0.1)
        self.layer2 = nn.Linear(400 if bidirectional else 200, 1)

    def forward(self, x):
        x = self.BN(x)
        x = x.reshape(-1, 10).t().reshape(10, -1, 1)
        out, _ = self.layer1(x)
        return self.layer2(self.Dropped(out[-1]))


class CharLSTM(nn.Module):
    def __init__(self, V=65, H=128):
        super().__init__()
        self.H = H
        self.lstm = nn.LSTM(V, H, 2, batch_first=True)
        self.fc = nn.Linear(H, V)

    def forward(self, x, hidden):
        out, hidden = self.lstm(x, hidden)
        return self.fc(out[:, -1]), hidden

    def init_hidden(self, b):
        return (torch.zeros(2, b, self.H), torch.zeros(2, b, self.H))
