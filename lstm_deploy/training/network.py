"""The network of `lstm-deploy train`: a plain module, lifted like any third-party one."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import rnn

from lstm_deploy.contract import CELLS_BY_NAME, Array, Cell
from lstm_deploy.errors import InputError, one_line
from lstm_deploy.training.checkpoint import NetworkConfig

State = Tensor | tuple[Tensor, ...]
"""As PyTorch has it: tensors `[layers*directions, batch, size]`, or the tensor itself where the cell has but one."""


class Scaling(nn.Module):
    """Scales each feature from raw units: `(x - offset) * scale`."""

    offset: nn.Buffer
    scale: nn.Buffer

    def __init__(self, size: int) -> None:
        super().__init__()
        self.offset, self.scale = nn.Buffer(torch.zeros(size)), nn.Buffer(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.offset) * self.scale


class Network(nn.Module):
    """Scaling, one-hot or embedding; BatchNorm over the window; recurrent layers; LayerNorm; pooling over time; head.

    `x` is `[batch, seq, features]` in raw units, or int64 tokens `[batch, seq]`; `lengths` `[batch]` gives the valid
    steps of each row, by default all. `y` is `[batch, seq, outputs]`, or `[batch, outputs]` with pooling, in raw units
    or as logits. The recurrent layers are an attribute that is called after their cell, such as `lstm`.
    """

    embedding: nn.Embedding
    hidden: nn.Linear

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        width = config.input_size
        if config.input == "values":
            self.scaling: Scaling = Scaling(width)
        elif config.input == "one-hot":
            # A one-hot vector is a row of the identity matrix, so the graph needs one lookup only.
            self.one_hot: Any = nn.Embedding.from_pretrained(torch.eye(width), freeze=True)  # type: ignore[no-untyped-call]
        else:
            self.embedding, width = nn.Embedding(width, config.embedding_size), config.embedding_size
        if config.window_norm:
            self.window_norm: nn.BatchNorm1d = nn.BatchNorm1d(config.window_norm)
        recurrent = make_recurrent(
            CELLS_BY_NAME[config.cell],
            width,
            config.hidden_size,
            config.num_layers,
            dropout=config.dropout if config.num_layers > 1 else 0.0,  # which has no effect on one layer: a warning
            bidirectional=config.bidirectional,
            **({"proj_size": config.proj_size} if config.proj_size else {}),  # refused by other cells, even if it is 0
        )
        self.add_module(config.cell, recurrent)
        width = (config.proj_size or config.hidden_size) * (2 if config.bidirectional else 1)
        if config.layer_norm:
            self.layer_norm: nn.LayerNorm = nn.LayerNorm(width)
        if config.pooling == "attention":
            self.attention: nn.Sequential = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))
        self.dropout: nn.Dropout = nn.Dropout(config.dropout)
        if config.head_size:
            self.hidden, width = nn.Linear(width, config.head_size), config.head_size
        self.fc: nn.Linear = nn.Linear(width, config.output_size)
        if config.output_columns:
            self.columns: nn.Buffer = nn.Buffer(torch.tensor(config.output_columns))
        if config.residual:
            nn.init.zeros_(self.fc.weight)  # training starts from the naive forecast: no change
            nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor, lengths: Tensor | None = None, state: State | None = None) -> tuple[Tensor, State]:
        config = self.config
        if config.input == "values":
            x = self.scaling(x)
        elif config.input == "one-hot":
            x = self.one_hot(x)
        else:
            x = self.embedding(x)
        inputs = self.window_norm(x) if config.window_norm else x
        recurrent = getattr(self, config.cell)
        if lengths is None:
            hidden, state = recurrent(inputs, state)
        else:
            packed = rnn.pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
            hidden, state = recurrent(packed, state)
            hidden, _ = rnn.pad_packed_sequence(hidden, batch_first=True, total_length=x.shape[1])
        if config.layer_norm:
            hidden = self.layer_norm(hidden)
        hidden = self.dropout(self._pooled(hidden, lengths))
        if config.head_size:
            hidden = torch.relu(self.hidden(hidden))
        y = self.fc(hidden)
        if config.output_columns:
            y = self._in_raw_units(y, x)
        return y, cast(State, state)

    def _in_raw_units(self, y: Tensor, x: Tensor) -> Tensor:
        """Outputs in the units of the columns that they predict; `x` is scaled."""
        if self.config.residual:
            present = x.index_select(-1, self.columns)
            y = y + (present if self.config.pooling == "none" else present[:, -1])
        return y / self.scaling.scale[self.columns] + self.scaling.offset[self.columns]

    def _pooled(self, hidden: Tensor, lengths: Tensor | None) -> Tensor:
        """`[batch, seq, width]` → `[batch, width]` over the valid steps; unchanged without pooling."""
        pooling = self.config.pooling
        if pooling == "none":
            return hidden
        if pooling == "last":
            return self._last(hidden, lengths)
        if lengths is None:
            valid = torch.ones_like(hidden[..., :1], dtype=torch.bool)
        else:
            valid = (torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None])[..., None]
        if pooling == "max":
            return hidden.masked_fill(~valid, -torch.inf).amax(1)
        if pooling == "mean":
            return (hidden * valid).sum(1) / valid.sum(1)
        weights: Tensor = self.attention(hidden).masked_fill(~valid, -torch.inf).softmax(1)
        return (hidden * weights).sum(1)

    def _last(self, hidden: Tensor, lengths: Tensor | None) -> Tensor:
        """The output of each direction at the last step that it reads."""
        if lengths is None:
            last = hidden[:, -1]
        else:
            last = hidden.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0]
        if not self.config.bidirectional:
            return last
        half = hidden.shape[2] // 2
        return torch.cat([last[:, :half], hidden[:, 0, half:]], 1)


def make_recurrent(cell: Cell, *sizes: int, **options: Any) -> nn.RNNBase:
    """New recurrent layers of a kind of cell, which take `[batch, seq, features]`."""
    kind = getattr(nn, cell.pytorch_modules[0])
    return cast(nn.RNNBase, kind(*sizes, batch_first=True, **cell.pytorch_options, **options))


def load_network(config: NetworkConfig, tensors: dict[str, Array]) -> Network:
    """A network with the given weights; raises `InputError` if they do not fit its configuration."""
    try:
        if config.num_layers > len(tensors):
            raise ValueError(f"{config.num_layers} layers have more weights than there are")
        with torch.device("meta"):  # neither memory nor random numbers for weights that are replaced at once
            network = Network(config)
        network.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()}, assign=True)
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:  # impossible sizes, or those of others
        raise InputError(f"The weights contradict the checkpoint's spec ({one_line(error)}); train again.") from error
    return network
