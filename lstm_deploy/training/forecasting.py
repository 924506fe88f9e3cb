"""Forecasts: a series becomes windows split in time, a network that scales its columns, and errors in raw units."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lstm_deploy.contract import Array, Forecast
from lstm_deploy.errors import InputError
from lstm_deploy.training.batches import WITHOUT_GRADIENT, Batch, Order, Place, Windows, loader
from lstm_deploy.training.data.series import Series, Values, held_out_from
from lstm_deploy.training.evaluation import Compared, Evaluation, find_season, forecast_metrics, rmse
from lstm_deploy.training.learning_task import Lesson, Problem, fingerprint, network_of
from lstm_deploy.training.network import Network
from lstm_deploy.training.recipe import Recipe

ROLLOUT_STEPS = 50
"""Steps that a network which can feed itself is rolled out for, where as many are held out."""


def make_problem(series: Series, targets: tuple[str, ...], recipe: Recipe) -> Problem:
    """Predict each target `recipe.horizon` steps ahead from `recipe.window` rows of all columns.

    The last rows are held out for the metrics, and the last of the others choose the best epoch. The scaling is that of
    the rows that are learned from. Raises `InputError` for too few rows, a constant column or an unknown target.
    """
    if missing := [name for name in targets if name not in series.columns]:
        raise InputError(
            f"The target {missing[0]!r} is not among the features {', '.join(series.columns)}; "
            "name one of them, or add it with --features."
        )
    rows, window, horizon = len(series.values), recipe.window, recipe.horizon
    test_start = held_out_from(rows, recipe.test, horizon)
    fit_end = test_start - (max(horizon, round(recipe.validation * test_start)) if recipe.validation else 0)
    if fit_end < window + horizon:
        raise InputError(
            f"{rows} row(s) are too few for windows of {window} and a horizon of {horizon}; give more rows or a "
            "smaller --window."
        )
    if recipe.season and recipe.season >= fit_end:
        raise InputError(f"A season of {recipe.season} steps is longer than the training part; give another --season.")
    fitted = series.values[:fit_end]
    center, spread = _scaling(series, fitted, recipe.scaling)
    columns = tuple(series.columns.index(name) for name in targets)
    network = network_of(
        recipe,
        input="values",
        input_size=len(series.columns),
        window_norm=window if recipe.window_norm else 0,
        output_size=len(columns) * horizon,
        output_columns=columns * horizon,
    )
    network.scaling.offset.copy_(torch.from_numpy(center))
    network.scaling.scale.copy_(torch.from_numpy(1 / spread))
    scale = network.scaling.scale[list(columns) * horizon]

    values = torch.from_numpy(series.values.astype(np.float32))
    last = recipe.loss_on == "last" or recipe.pooling != "none"

    def windows(begin: int, end: int, *, stride: int = 1, last: bool = last) -> Windows:
        return Windows(values[begin:end], window, columns=columns, horizon=horizon, stride=stride, last=last)

    def loss(output: Tensor, wanted: Tensor) -> Tensor:
        """In scaled units, so that each target counts alike."""
        output = output[:, -1] if wanted.dim() < output.dim() else output
        factor = scale.to(output.device)
        return nn.functional.mse_loss(output * factor, wanted * factor)

    least = 2 if recipe.window_norm else 1  # BatchNorm has no variance of one example

    def train(place: Place) -> "DataLoader[Batch]":
        examples = windows(0, fit_end, stride=recipe.stride or 1)
        return loader(examples, Order(len(examples), recipe.batch_size, place, seed=recipe.seed, least=least))

    def validate(place: Place) -> "DataLoader[Batch]":
        # A window ends before the row that it predicts, so a part's first one starts before the part.
        # Only its last step is new.
        examples = windows(fit_end - window, test_start, last=True)
        return loader(examples, Order(len(examples), WITHOUT_GRADIENT, place))

    def evaluate() -> Evaluation:
        examples = windows(test_start - window, rows, last=True)
        prediction = _predict(network, loader(examples, Order(len(examples), WITHOUT_GRADIENT)))
        prediction = prediction.reshape(len(prediction), horizon, len(columns))
        season = recipe.season or find_season(fitted[:, columns[0]])
        metrics = forecast_metrics(prediction, series.values, test_start, columns, fit_end, season, targets)
        truth = series.values[test_start : test_start + len(prediction)][:, columns]
        labels = series.labels[test_start : test_start + len(prediction)]
        rollout = _rollout(network, series, window, test_start) if task.feeds_itself else None
        if rollout:
            metrics["rollout_steps"] = len(rollout.truth)
            metrics["rollout_rmse"] = rmse(rollout.prediction, rollout.truth)
        compared = Compared(truth=truth, prediction=prediction[:, 0], labels=labels)
        return Evaluation(metrics=metrics, forecast=compared, rollout=rollout)

    task = Forecast(features=series.columns, targets=targets, window=window, horizon=horizon)
    return Problem(
        lesson=Lesson(
            network=network,
            loss=loss,
            train=train,
            validate=validate if recipe.validation else None,
            data=fingerprint(series.values, series.columns, targets),
        ),
        task=task,
        state_policy="reset",
        low=tuple(map(float, fitted.min(axis=0))),
        high=tuple(map(float, fitted.max(axis=0))),
        evaluate=evaluate,
    )


def _scaling(series: Series, fitted: Values, scaling: str) -> tuple[Array, Array]:
    """What is taken from each column, and what it is then divided by, in float32.

    Raises `InputError` for a column that does not vary.
    """
    low, high = fitted.min(axis=0), fitted.max(axis=0)
    spread = fitted.std(axis=0) if scaling == "standard" else (high - low) / 2
    with np.errstate(all="ignore"):
        usable = np.isfinite((1 / spread).astype(np.float32)) & (spread > 1e-30)
    if constant := [name for name, varies in zip(series.columns, usable, strict=True) if not varies]:
        raise InputError(f"Column {constant[0]!r} is constant in the training part; leave it out with --features.")
    if scaling == "none":
        return np.zeros(len(low), np.float32), np.ones(len(low), np.float32)
    center = fitted.mean(axis=0) if scaling == "standard" else (low + high) / 2
    return center.astype(np.float32), spread.astype(np.float32)


def _predict(network: Network, batches: "DataLoader[Batch]") -> Values:
    """What the network says after the last row of each window: `[windows, horizon * targets]`."""
    with torch.no_grad():
        parts = [_after_last(network, batch.inputs[0]) for batch in batches]
    return torch.cat(parts).numpy().astype(np.float64)


def _after_last(network: Network, x: Tensor) -> Tensor:
    y: Tensor = network(x)[0]
    return y if y.dim() == 2 else y[:, -1]


def _rollout(network: Network, series: Series, window: int, start: int) -> Compared:
    """From the window before the held-out rows on, each prediction appended to the window."""
    steps = min(ROLLOUT_STEPS, len(series.values) - start)
    rows = torch.from_numpy(series.values[start - window : start].astype(np.float32))[None]
    made = []
    with torch.no_grad():
        for _ in range(steps):
            made.append(_after_last(network, rows))
            rows = torch.cat([rows[:, 1:], made[-1][:, None]], 1)
    truth = series.values if series.noiseless is None else series.noiseless
    return Compared(
        truth=truth[start : start + steps],
        prediction=torch.cat(made).numpy().astype(np.float64),
        labels=series.labels[start : start + steps],
        noiseless=series.noiseless is not None,
    )
