"""Training of the networks in `models`, on Lightning."""

import logging
import math
import signal
import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeVar

import lightning.pytorch as pl
import numpy as np
import torch
from msgspec import Struct
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from lstm_deploy.checkpoint import ForecasterConfig, LanguageModelConfig, Spec
from lstm_deploy.data import Series, Values
from lstm_deploy.errors import InputError, LstmDeployError
from lstm_deploy.models import Forecaster, State
from lstm_deploy.models import LanguageModel as LanguageNetwork
from lstm_deploy.signature import Array
from lstm_deploy.tasks import Forecast, LanguageModel

OnProgress = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and the latest loss in words."""
Batch = tuple[Tensor, Tensor]
Config = TypeVar("Config", ForecasterConfig, LanguageModelConfig)


class Options(Struct, frozen=True, kw_only=True):
    """How to train; the command line's defaults are in `cli`."""

    hidden_size: int
    num_layers: int
    dropout: float
    epochs: int
    batch_size: int
    learning_rate: float
    window: int
    """Steps in one training example."""
    seed: int
    residual: bool = True


class Trained(Struct, frozen=True, kw_only=True):
    """A network with its spec, and what a plot of its quality needs."""

    network: nn.Module
    spec: Spec
    validation_losses: tuple[float, ...]
    """After each epoch."""
    truth: Values | None = None
    """Forecasts only: `[rows, targets]` of the held-out part."""
    prediction: Values | None = None
    labels: tuple[str, ...] = ()

    @property
    def tensors(self) -> dict[str, Array]:
        return {name: value.numpy() for name, value in self.network.state_dict().items()}


def train_forecaster(series: Series, targets: tuple[str, ...], options: Options, on_progress: OnProgress) -> Trained:
    """Learn to predict the next value of each target from `options.window` steps of all columns.

    The last 20 % of the rows are held out for the metrics and the last tenth of the others chooses the
    best epoch. Columns are scaled to (-1, 1) by the range they have in the training part.
    """
    if missing := [name for name in targets if name not in series.columns]:
        raise InputError(
            f"The target {missing[0]!r} is not among the features {', '.join(series.columns)}; "
            "name one of them, or add it with --features."
        )
    rows, window = len(series.values), options.window
    test_start = rows - max(1, round(0.2 * rows))
    fit_end = test_start - max(1, round(0.1 * test_start))
    if fit_end <= window:
        raise InputError(f"{rows} rows are too few for windows of {window}; give more rows or a smaller --window.")
    low, high = series.values[:fit_end].min(axis=0), series.values[:fit_end].max(axis=0)
    with np.errstate(all="ignore"):
        usable = np.isfinite((2 / (high - low)).astype(np.float32)) & (high - low > 1e-30)
    if constant := [name for name, varies in zip(series.columns, usable, strict=True) if not varies]:
        raise InputError(f"Column {constant[0]!r} is constant in the training part; leave it out with --features.")
    columns = tuple(series.columns.index(name) for name in targets)
    pl.seed_everything(options.seed, verbose=False)
    config = ForecasterConfig(
        input_size=len(series.columns),
        output_columns=columns,
        hidden_size=options.hidden_size,
        num_layers=options.num_layers,
        dropout=options.dropout,
        residual=options.residual,
    )
    network = Forecaster(config)
    network.scale_to(torch.from_numpy(low), torch.from_numpy(high))

    values = torch.from_numpy(series.values.astype(np.float32))
    windows = {
        # A window of n rows ends with the row to predict, so a part's first one starts before the part.
        "fit": _Windows(values[:fit_end], window, columns),
        "validate": _Windows(values[fit_end - window : test_start], window, columns),
        "test": _Windows(values[test_start - window :], window, columns),
    }

    def loss(output: Tensor, wanted: Tensor) -> Tensor:
        """In scaled units, so that each target counts alike."""
        return nn.functional.mse_loss(output / network.y_scale, wanted / network.y_scale)

    losses = _fit(
        _Learner(network, loss, options.learning_rate, carry=False),
        _loader(windows["fit"], options.batch_size, shuffle=True),
        _loader(windows["validate"], options.batch_size),
        options,
        on_progress,
    )
    prediction = _predict(network, _loader(windows["test"], options.batch_size))
    truth = series.values[test_start:, columns]
    naive = series.values[test_start - 1 : -1, columns]
    metrics = {
        "rows": len(truth),
        "rmse": _rmse(prediction, truth),
        "mae": float(np.abs(prediction - truth).mean()),
        "naive_rmse": _rmse(naive, truth),
        "naive_mae": float(np.abs(naive - truth).mean()),
    }
    spec = Spec(
        network=config,
        task=Forecast(features=series.columns, targets=targets, window=window),
        state_policy="reset",
        training=_record(options, metrics, losses),
        low=tuple(map(float, low)),
        high=tuple(map(float, high)),
    )
    return Trained(
        network=network,
        spec=spec,
        validation_losses=losses,
        truth=truth,
        prediction=prediction,
        labels=series.labels[test_start:],
    )


def train_language_model(text: str, options: Options, on_progress: OnProgress) -> Trained:
    """Learn to predict the next character, with the state carried from one stretch of text to the next.

    The last 10 % of the text is held out for the metrics and the 5 % before it choose the best epoch.
    """
    vocabulary = tuple(sorted(set(text)))
    index = {character: token for token, character in enumerate(vocabulary)}
    tokens = torch.tensor([index[character] for character in text])
    test_start = round(0.9 * len(tokens))
    fit_end = round(0.85 * len(tokens))
    if fit_end - 1 < options.window or test_start - fit_end < 2 or len(tokens) - test_start < 2:
        raise InputError(
            f"A text of {len(tokens)} characters is too short for windows of {options.window}; "
            "give a longer text or a smaller --window."
        )
    pl.seed_everything(options.seed, verbose=False)
    config = LanguageModelConfig(
        vocabulary_size=len(vocabulary),
        hidden_size=options.hidden_size,
        num_layers=options.num_layers,
        dropout=options.dropout,
    )
    network = LanguageNetwork(config)

    def loader(part: Tensor) -> "DataLoader[Batch]":
        return _loader(_Streams(part, options.batch_size, options.window), None)

    learner = _Learner(network, _cross_entropy, options.learning_rate, carry=True)
    losses = _fit(learner, loader(tokens[:fit_end]), loader(tokens[fit_end:test_start]), options, on_progress)
    nats = _evaluate(learner, loader(tokens[test_start:]))
    naive = _bigram_nats(tokens[:fit_end].numpy(), tokens[test_start:].numpy(), len(vocabulary))
    metrics = {
        "characters": len(tokens) - test_start,
        "nats_per_character": nats,
        "bits_per_character": nats / math.log(2),
        "naive_nats_per_character": naive,
        "naive_bits_per_character": naive / math.log(2),
    }
    spec = Spec(
        network=config,
        task=LanguageModel(vocabulary=vocabulary),
        state_policy="carry",
        training=_record(options, metrics, losses),
        low=(0,),
        high=(len(vocabulary) - 1,),
    )
    return Trained(network=network, spec=spec, validation_losses=losses)


class _Windows(Dataset[Batch]):
    """All windows of a series; an item is a batch: a list of windows by their first row."""

    def __init__(self, values: Tensor, window: int, columns: tuple[int, ...]) -> None:
        self.values, self.columns = values, list(columns)
        self.offsets = torch.arange(window)

    def __len__(self) -> int:
        return len(self.values) - len(self.offsets)

    def __getitem__(self, starts: list[int]) -> Batch:
        rows = torch.tensor(starts)[:, None] + self.offsets
        return self.values[rows], self.values[rows + 1][..., self.columns]


class _Streams(Dataset[Batch]):
    """A text cut into equal streams that are read side by side; an item is the next stretch of each."""

    def __init__(self, tokens: Tensor, streams: int, stretch: int) -> None:
        streams = max(1, min(streams, (len(tokens) - 1) // stretch))
        length = (len(tokens) - 1) // streams
        self.x = tokens[: streams * length].view(streams, length)
        self.y = tokens[1 : streams * length + 1].view(streams, length)
        self.stretch = stretch

    def __len__(self) -> int:
        return math.ceil(self.x.shape[1] / self.stretch)

    def __getitem__(self, item: int) -> Batch:
        if item >= len(self):
            raise IndexError(item)
        part = slice(item * self.stretch, (item + 1) * self.stretch)
        return self.x[:, part], self.y[:, part]


def _loader(dataset: Dataset[Batch], batch_size: int | None, *, shuffle: bool = False) -> "DataLoader[Batch]":
    """Items are whole batches (gathered at once, far faster than row by row), so none is collated."""
    if batch_size is None:
        return DataLoader(dataset, batch_size=None)
    order = (RandomSampler if shuffle else SequentialSampler)(dataset)  # type: ignore[arg-type]
    sampler = BatchSampler(order, batch_size, drop_last=False)
    return DataLoader(dataset, sampler=sampler, batch_size=None)


class _Learner(pl.LightningModule):  # type: ignore[misc] # Lightning publishes no types
    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        learning_rate: float,
        *,
        carry: bool,
    ) -> None:
        super().__init__()
        self.network, self.loss, self.learning_rate, self.carry = network, loss, learning_rate, carry
        self.state: State | None = None
        self.validation_losses: list[float] = []
        self._sum, self._count = 0.0, 0

    def on_train_epoch_start(self) -> None:
        self.state = None

    def training_step(self, batch: Batch, _: int) -> Tensor:
        loss = self._step(batch)
        if not torch.isfinite(loss):
            raise LstmDeployError(
                f"The loss became {loss.item()} at step {self.global_step}; try a smaller --learning-rate."
            )
        return loss

    def on_validation_epoch_start(self) -> None:
        self.state, self._sum, self._count = None, 0.0, 0

    def validation_step(self, batch: Batch, _: int) -> None:
        size = batch[1].numel()
        self._sum += float(self._step(batch)) * size
        self._count += size

    def on_validation_epoch_end(self) -> None:
        self.state = None
        self.validation_losses.append(self._sum / self._count)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), lr=self.learning_rate)

    def _step(self, batch: Batch) -> Tensor:
        x, wanted = batch
        output, (h, c) = self.network(x, self.state)
        self.state = (h.detach(), c.detach()) if self.carry else None
        return self.loss(output, wanted)


class _Progress(pl.Callback):  # type: ignore[misc]
    def __init__(self, on_progress: OnProgress) -> None:
        self.on_progress = on_progress

    def on_train_batch_end(self, trainer: Any, _: Any, outputs: Any, *__: Any) -> None:
        text = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}, loss {float(outputs['loss']):.4f}"
        self.on_progress(trainer.global_step, trainer.estimated_stepping_batches, text)


class _KeepBest(pl.Callback):  # type: ignore[misc]
    """Give the network the weights of its best epoch when training ends."""

    def __init__(self) -> None:
        self.loss = math.inf
        self.weights: dict[str, Tensor] = {}

    def on_validation_end(self, _: Any, learner: _Learner) -> None:
        if learner.validation_losses[-1] < self.loss:
            self.loss = learner.validation_losses[-1]
            self.weights = deepcopy(learner.network.state_dict())

    def on_fit_end(self, _: Any, learner: _Learner) -> None:
        if self.weights:
            learner.network.load_state_dict(self.weights)


def _fit(
    learner: _Learner,
    train: "DataLoader[Batch]",
    validate: "DataLoader[Batch]",
    options: Options,
    on_progress: OnProgress,
) -> tuple[float, ...]:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # hints about hardware and itself
    on_interrupt = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")  # advice on workers for loading: ours need none
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)  # Lightning's own
        trainer = pl.Trainer(
            max_epochs=options.epochs,
            gradient_clip_val=1.0,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=[_Progress(on_progress), _KeepBest()],
        )
        try:
            trainer.fit(learner, train, validate)
        except SystemExit as error:  # what Lightning turns Ctrl-C into, with further ones ignored
            signal.signal(signal.SIGINT, on_interrupt)
            raise KeyboardInterrupt from error
    learner.network.cpu().eval()
    return tuple(learner.validation_losses)


def _predict(network: nn.Module, loader: "DataLoader[Batch]") -> Values:
    with torch.no_grad():
        parts = [network(x)[0][:, -1] for x, _ in loader]
    return torch.cat(parts).numpy().astype(np.float64)


def _evaluate(learner: _Learner, loader: "DataLoader[Batch]") -> float:
    learner.eval().on_validation_epoch_start()
    with torch.no_grad():
        for item, batch in enumerate(loader):
            learner.validation_step(batch, item)
    learner.on_validation_epoch_end()
    return learner.validation_losses.pop()


def _cross_entropy(output: Tensor, wanted: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output.flatten(0, 1), wanted.flatten())


def _bigram_nats(train: Array, test: Array, size: int) -> float:
    """Cross-entropy of the frequencies of pairs in the training part, with 1 added to each count."""
    counts = np.ones((size, size))
    np.add.at(counts, (train[:-1], train[1:]), 1)
    probability = counts / counts.sum(axis=1, keepdims=True)
    return float(-np.log(probability[test[:-1], test[1:]]).mean())


def _rmse(prediction: Values, truth: Values) -> float:
    return float(np.sqrt(np.mean((prediction - truth) ** 2)))


def _record(options: Options, metrics: dict[str, Any], losses: tuple[float, ...]) -> dict[str, Any]:
    return {
        "options": {name: getattr(options, name) for name in options.__struct_fields__},
        "metrics": metrics,
        "best_epoch": int(np.argmin(losses)) + 1,
    }
