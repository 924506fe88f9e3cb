"""Forecasts: a series becomes windows split in time, and a network that scales its columns predicts what follows."""

import numpy as np
import torch
from torch import Tensor, nn

from lstm_deploy.contract import Array, Forecast
from lstm_deploy.errors import InputError, did_you_mean
from lstm_deploy.training.batches import WHOLE, Batches, Shard, Windows, make_loader
from lstm_deploy.training.data.series import Series, Values
from lstm_deploy.training.data.splits import Part, Split, split_series
from lstm_deploy.training.evaluation import Evaluation, Predictions, find_season, forecast_metrics, rmse
from lstm_deploy.training.learning_task import LearningTask, digest, new_network
from lstm_deploy.training.network import Network
from lstm_deploy.training.recipe import Recipe

EVALUATION_BATCH_SIZE = 512
"""Where no gradients are computed; the result does not depend on it."""
ROLLOUT_STEPS = 50
"""The longest rollout that is evaluated."""


class Forecasting(LearningTask):
    """Predict each target `recipe.horizon` steps ahead from `recipe.window` rows of all columns."""

    task: Forecast

    recipe: Recipe
    series: Series
    columns: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    values: Tensor

    def __init__(self, series: Series, targets: tuple[str, ...], recipe: Recipe) -> None:
        """Hold out the last rows for the metrics, and scale columns by the rows to fit.

        Raises `InputError` for too few rows, a constant column or an unknown target.
        """
        rows, window, horizon = len(series.values), recipe.window, recipe.horizon
        self.split: Split[slice] = split_series(rows, horizon, recipe.test, recipe.validation)
        fit_end = self.split.fit.stop
        if missing := [name for name in targets if name not in series.columns]:
            raise InputError(
                f"The target {missing[0]!r} is not among the features (--features adds it); "
                f"{did_you_mean(missing[0], series.columns)}"
            )
        if fit_end < window + horizon:
            raise InputError(
                f"{rows} row(s) are too few for windows of {window} and a horizon of {horizon}; use a smaller --window."
            )
        if recipe.season and recipe.season >= fit_end:
            raise InputError(f"A --season of {recipe.season} is longer than the training part; give a shorter one.")
        fitted = series.values[:fit_end]
        offset, divisor = _scaling(series, fitted, recipe.scaling)
        self.recipe, self.series = recipe, series
        self.columns = tuple(series.columns.index(name) for name in targets)
        outputs = self.columns * horizon
        sizes = {"input_size": len(series.columns), "output_size": len(outputs)}
        self.network: Network = new_network(recipe, input="values", output_columns=outputs, **sizes)
        scaling = self.network.scaling
        scaling.offset.copy_(torch.from_numpy(offset))
        scaling.scale.copy_(torch.from_numpy(1 / divisor))
        self.output_scale: Tensor = scaling.scale[list(outputs)]
        self.task = Forecast(features=series.columns, targets=targets, window=window, horizon=horizon)
        self.low, self.high = tuple(map(float, fitted.min(axis=0))), tuple(map(float, fitted.max(axis=0)))
        self.data_digest: str = digest(series.values, series.columns, targets)
        self.values = torch.from_numpy(series.values.astype(np.float32))

    def batches(self, part: Part, shard: Shard) -> Batches:
        recipe, rows = self.recipe, getattr(self.split, part)
        size, columns, horizon = recipe.window, self.columns, recipe.horizon
        if part != "fit":  # the first window ends right before the part; the last step of each predicts a row in it
            values = self.values[rows.start - size : rows.stop]
            windows = Windows(values, size, columns=columns, horizon=horizon, last=True)
            return make_loader(windows, EVALUATION_BATCH_SIZE, shard)
        stride, last = recipe.stride or 1, recipe.loss_on == "last" or recipe.pooling != "none"
        windows = Windows(self.values[rows], size, columns=columns, horizon=horizon, stride=stride, last=last)
        minimum = 2 if recipe.window_norm else 1  # BatchNorm needs several examples for a variance
        return make_loader(windows, recipe.batch_size, shard, seed=recipe.seed, minimum=minimum)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """In scaled units, so that each target counts the same."""
        output = output[:, -1] if targets.dim() < output.dim() else output
        scale = self.output_scale.to(output.device)
        return nn.functional.mse_loss(output * scale, targets * scale)

    def evaluate(self) -> Evaluation:
        values, fit_end, start = self.series.values, self.split.fit.stop, self.split.test.start
        outputs = [self._last_output(batch.inputs[0]) for batch in self.batches("test", WHOLE)]
        prediction = torch.cat(outputs).numpy().astype(np.float64)
        prediction = prediction.reshape(len(prediction), self.task.horizon, len(self.columns))
        season = self.recipe.season or find_season(values[:fit_end, self.columns[0]])
        metrics = forecast_metrics(prediction, values, start, self.columns, fit_end, season, self.task.targets)
        end = start + len(prediction)
        one_step = Predictions(
            truth=values[start:end][:, self.columns], prediction=prediction[:, 0], labels=self.series.labels[start:end]
        )
        rollout = self._rollout(start) if self.task.feeds_itself else None
        if rollout:
            metrics["rollout_steps"] = len(rollout.truth)
            metrics["rollout_rmse"] = rmse(rollout.prediction, rollout.truth)
        return Evaluation(metrics=metrics, forecast=one_step, rollout=rollout)

    def _last_output(self, x: Tensor) -> Tensor:
        """The output after the last row of each window, `[windows, horizon * targets]`."""
        y: Tensor = self.network(x)[0]
        return y if y.dim() == 2 else y[:, -1]

    def _rollout(self, start: int) -> Predictions:
        """Predict the held-out rows from the window before them and the network's own predictions."""
        series, predictions = self.series, list[Tensor]()
        end = min(start + ROLLOUT_STEPS, len(series.values))
        rows = self.values[None, start - self.task.window : start]
        for _ in range(start, end):
            predictions.append(self._last_output(rows))
            rows = torch.cat([rows[:, 1:], predictions[-1][:, None]], 1)
        truth = series.values if series.noiseless is None else series.noiseless
        return Predictions(
            truth=truth[start:end],
            prediction=torch.cat(predictions).numpy().astype(np.float64),
            labels=series.labels[start:end],
            noiseless=series.noiseless is not None,
        )


def _scaling(series: Series, fitted: Values, scaling: str) -> tuple[Array, Array]:
    """The offset and the divisor of each column, in float32; raises `InputError` for a constant column."""
    low, high = fitted.min(axis=0), fitted.max(axis=0)
    spread = fitted.std(axis=0) if scaling == "standard" else (high - low) / 2
    with np.errstate(all="ignore"):
        usable = np.isfinite((1 / spread).astype(np.float32)) & (spread > 1e-30)
    if constant := [name for name, varies in zip(series.columns, usable, strict=True) if not varies]:
        raise InputError(f"Column {constant[0]!r} is constant in the training part; exclude it with --features.")
    if scaling == "none":
        return np.zeros(len(low), np.float32), np.ones(len(low), np.float32)
    center = fitted.mean(axis=0) if scaling == "standard" else (low + high) / 2
    return center.astype(np.float32), spread.astype(np.float32)
