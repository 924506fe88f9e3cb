"""Bundles of each kind to try a GPU with: `python benchmarks/gpu_bundles.py FOLDER`. Weights are random."""

import shutil
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import lstm_deploy

REFERENCE = Path(__file__).parents[1] / "exported" / "reference"


class Characters(nn.Module):
    """A usual size; its weights in float16, too."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(65, 128, 2, batch_first=True)
        self.fc = nn.Linear(128, 65)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, seq, 65]` -> `[batch, seq, 65]`."""
        y: torch.Tensor = self.fc(self.lstm(x)[0])
        return y


class Bidirectional(nn.Module):
    """Rows of several lengths, in both directions, with tensors that the code makes on the device of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 64, batch_first=True, bidirectional=True)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """`[batch, seq, 40]`, `[batch]` -> the mean over the steps of each row, `[batch, 128]`."""
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        y, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        inside = torch.arange(y.shape[1], device=x.device)[None] < lengths[:, None]
        mean: torch.Tensor = (y * inside[:, :, None]).sum(1) / lengths[:, None]
        return mean


class Cells(nn.Module):
    """Every other kind of cell."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(40, 64, 2, batch_first=True)
        self.rnn = nn.RNN(64, 32, batch_first=True)
        self.relu = nn.RNN(32, 16, nonlinearity="relu", batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, seq, 40]` -> `[batch, seq, 16]`."""
        y: torch.Tensor = self.relu(self.rnn(self.gru(x)[0])[0])[0]
        return y


def main(folder: Path) -> None:
    """Export each kind into a folder of its own; that of the rollout is the one in the repository."""
    torch.manual_seed(0)
    formats = ("onnx", "torchscript")
    lstm_deploy.export(
        Characters().eval(), folder / "characters", inputs={"x": "float32[batch,seq,65]"}, formats=formats, half=True
    )
    inputs = {"x": "float32[batch,seq,40]", "lengths": "int64[batch]"}
    lstm_deploy.export(Bidirectional().eval(), folder / "bidirectional", inputs=inputs, formats=formats)
    lstm_deploy.export(
        Cells().eval(), folder / "cells", inputs={"x": "float32[batch,seq,40]"}, formats=formats, half=True
    )
    shutil.copytree(REFERENCE, folder / "rollout")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
