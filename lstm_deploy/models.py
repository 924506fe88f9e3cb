"""The networks that `lstm-deploy train` makes. They are plain modules: lifting treats them as anyone's."""

import torch
from torch import Tensor, nn

from lstm_deploy.checkpoint import ForecasterConfig, LanguageModelConfig, NetworkConfig
from lstm_deploy.errors import InputError, one_line
from lstm_deploy.signature import Array

State = tuple[Tensor, Tensor]


class Forecaster(nn.Module):
    """Raw values in, the next raw value of each target out, at every step.

    `x` `[batch, seq, features]` → `y` `[batch, seq, targets]`, in the units of the data.
    """

    x_offset: Tensor
    x_scale: Tensor
    y_offset: Tensor
    y_scale: Tensor
    columns: Tensor

    def __init__(self, config: ForecasterConfig) -> None:
        super().__init__()
        self.config = config
        self.residual = config.residual
        self.register_buffer("columns", torch.tensor(config.output_columns))
        self.register_buffer("x_offset", torch.zeros(config.input_size))
        self.register_buffer("x_scale", torch.ones(config.input_size))
        self.register_buffer("y_offset", torch.zeros(len(config.output_columns)))
        self.register_buffer("y_scale", torch.ones(len(config.output_columns)))
        self.lstm = _lstm(config.input_size, config.hidden_size, config.num_layers, config.dropout)
        self.fc = nn.Linear(config.hidden_size, len(config.output_columns))
        if config.residual:
            nn.init.zeros_(self.fc.weight)  # training starts from the naive forecast: no change
            nn.init.zeros_(self.fc.bias)

    def scale_to(self, low: Tensor, high: Tensor) -> None:
        """Have the LSTM see the range `low` to `high` `[features]` as (-1, 1)."""
        self.x_offset.copy_((low + high) / 2)
        self.x_scale.copy_(2 / (high - low))
        self.y_offset.copy_(self.x_offset[self.columns])
        self.y_scale.copy_(1 / self.x_scale[self.columns])

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        scaled = (x - self.x_offset) * self.x_scale
        hidden, state = self.lstm(scaled, state)
        y = self.fc(hidden)
        if self.residual:
            y = y + scaled.index_select(-1, self.columns)
        return y * self.y_scale + self.y_offset, state


class LanguageModel(nn.Module):
    """Tokens in, logits of the next token out, at every step.

    `x` int64 `[batch, seq]` → `y` `[batch, seq, vocabulary]`.
    """

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        size = config.vocabulary_size
        # A one-hot vector is a row of the identity: one lookup, in the graph too.
        self.one_hot = nn.Embedding.from_pretrained(torch.eye(size), freeze=True)  # type: ignore[no-untyped-call]
        self.lstm = _lstm(size, config.hidden_size, config.num_layers, config.dropout)
        self.fc = nn.Linear(config.hidden_size, size)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        hidden, state = self.lstm(self.one_hot(x), state)
        return self.fc(hidden), state


def build(config: NetworkConfig, tensors: dict[str, Array] | None = None) -> nn.Module:
    """The network of a configuration, with the given weights or fresh ones.

    Raises `InputError` if the weights do not fit.
    """
    if tensors is None:
        return _network(config)
    try:
        if config.num_layers > len(tensors):
            raise ValueError(f"{config.num_layers} layers have more weights than there are")
        with torch.device("meta"):  # no memory and no random numbers for weights that are there already
            network = _network(config)
        network.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()}, assign=True)
    except (
        ArithmeticError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # sizes that no network has, or that the weights have not
        reason = one_line(error)
        raise InputError(f"The weights contradict the checkpoint's spec ({reason}); train again.") from error
    return network


def _network(config: NetworkConfig) -> nn.Module:
    match config:
        case ForecasterConfig():
            return Forecaster(config)
        case LanguageModelConfig():
            return LanguageModel(config)


def _lstm(input_size: int, hidden_size: int, num_layers: int, dropout: float) -> nn.LSTM:
    between = dropout if num_layers > 1 else 0.0  # nn.LSTM drops between layers only, and warns otherwise
    return nn.LSTM(input_size, hidden_size, num_layers, batch_first=True, dropout=between)
