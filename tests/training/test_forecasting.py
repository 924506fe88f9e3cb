import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from small_models import COLUMNS, ignore, small

from lstm_deploy.errors import InputError
from lstm_deploy.training import pipeline, training_data
from lstm_deploy.training.batches import WHOLE
from lstm_deploy.training.data.series import Series, generate
from lstm_deploy.training.forecasting import Forecasting
from lstm_deploy.training.training_data import TrainingData


def series(values: np.ndarray) -> Series:
    columns = tuple(f"c{index}" for index in range(values.shape[1]))
    labels = tuple(map(str, range(len(values))))
    return Series(columns=columns, values=values, labels=labels)


def train(values, targets=("c0",), **changes):
    return pipeline.train(TrainingData(content=series(values), targets=targets), small("forecast", **changes), ignore)


def cycle(rows: int = 400) -> np.ndarray:
    return np.sin(np.arange(rows) / 3)[:, None] * 40 + 1000


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"horizon": 3},
        {"scaling": "standard"},
        {"residual": False, "loss_on": "last"},
        {"pooling": "attention", "residual": False},
        {"bidirectional": True},
        {"window_norm": True, "residual": False},
    ],
)
def test_a_cycle_is_learned_far_better_than_the_naive_forecast(form):
    metrics = train(cycle(), hidden_size=16, epochs=20, learning_rate=0.02, batch_size=32, **form).evaluation.metrics
    assert metrics["rmse"] < 0.35 * metrics["naive_rmse"]


def test_metrics_are_those_of_the_predictions_on_the_last_fifth():
    values = cycle()
    evaluation = train(values).evaluation
    assert np.array_equal(evaluation.forecast.truth, values[320:])
    assert evaluation.forecast.prediction.shape == (80, 1)
    errors = evaluation.forecast.prediction - evaluation.forecast.truth
    assert evaluation.metrics["rmse"] == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert evaluation.metrics["naive_mae"] == pytest.approx(np.abs(np.diff(values[319:, 0])).mean())


def test_a_horizon_predicts_the_steps_that_follow():
    """Two straight lines, so that each output is near its own column."""
    values = np.stack([np.arange(300.0), 5 - np.arange(300.0)], 1)
    trained = train(values, ("c1", "c0"), horizon=4, window=5)
    x = torch.from_numpy(values[None, 100:105].astype(np.float32))
    y = trained.network(x)[0][0, -1].reshape(4, 2)
    assert trained.spec.task.output_names == ("c1", "c0", "c1+2", "c0+2", "c1+3", "c0+3", "c1+4", "c0+4")
    # With a residual of the present value each output is near its own column.
    assert (y[:, 0] < -50).all()
    assert (y[:, 1] > 50).all()
    assert len(trained.evaluation.metrics["rmse_by_step"]) == 4
    assert trained.evaluation.metrics["rows"] == 60 - 3


@pytest.mark.parametrize("scaling", ["minmax", "standard", "none"])
def test_scaling_uses_the_rows_to_fit_only(scaling):
    values = np.arange(100.0)[:, None]
    task = Forecasting(series(values), ("c0",), small("forecast", window=5, scaling=scaling))
    assert (task.low, task.high) == ((0.0,), (71.0,))
    scaled = task.network.scaling(torch.from_numpy(values[:72].astype(np.float32)))
    if scaling == "standard":
        assert float(scaled.mean()) == pytest.approx(0, abs=1e-5)
        assert float(scaled.std(correction=0)) == pytest.approx(1, rel=1e-5)
    else:
        expected = (-1, 1) if scaling == "minmax" else (0, 71)
        assert (float(scaled.min()), float(scaled.max())) == pytest.approx(expected)


def test_the_rollout_of_a_network_that_can_feed_itself_is_compared_with_the_noiseless_series():
    data = training_data.generate_series("sines", 400, 0)
    evaluation = pipeline.train(data, small("forecast", window=10), ignore).evaluation
    assert evaluation.rollout.noiseless
    assert np.array_equal(evaluation.rollout.truth, generate("sines", 400).noiseless[320:370])
    assert evaluation.metrics["rollout_steps"] == 50
    errors = evaluation.rollout.prediction - evaluation.rollout.truth
    assert evaluation.metrics["rollout_rmse"] == pytest.approx(np.sqrt(np.mean(errors**2)))


def test_a_rollout_feeds_the_network_with_its_own_predictions(prices):
    data = training_data.load_series(prices, COLUMNS, COLUMNS, "previous")
    trained = pipeline.train(data, small("forecast"), ignore)
    start = len(data.content.values) - len(trained.evaluation.forecast.truth)
    rows = torch.from_numpy(data.content.values[start - 20 : start].astype(np.float32))[None]
    for prediction in trained.evaluation.rollout.prediction[:3]:
        with torch.no_grad():
            y = trained.network(rows)[0][:, -1]
        np.testing.assert_allclose(y[0].numpy(), prediction, rtol=1e-6)
        rows = torch.cat([rows[:, 1:], y[:, None]], 1)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
def test_the_smallest_series_is_trained_on_or_refused(rows):
    try:
        trained = train(cycle(rows), window=1)
    except InputError:
        assert rows < 5
    else:
        assert np.isfinite(trained.evaluation.metrics["rmse"])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 8), st.integers(1, 4), st.sampled_from([0.0, 0.1, 0.4]))
def test_no_window_reaches_into_a_later_part(rows, window, horizon, validation):
    values = np.arange(float(rows))[:, None]
    recipe = small("forecast", window=window, horizon=horizon, validation=validation)
    try:
        task = Forecasting(series(values), ("c0",), recipe)
    except InputError:
        return
    test_start = rows - max(horizon, round(0.2 * rows))
    fitted = list(task.batches("fit", WHOLE))
    seen = max(max(float(batch.inputs[0].max()), float(batch.targets.max())) for batch in fitted)
    if validation:
        targets = torch.cat([batch.targets[:, -1].flatten() for batch in task.batches("validation", WHOLE)])
        assert seen < targets.min()
        assert targets.max() == test_start - 1
    else:
        assert seen == test_start - 1
    assert seen == task.high[0]


def test_a_constant_column_and_one_without_finite_scale_are_refused_by_name():
    for second in (np.full(100, 3.0), np.full(100, 3.0) + 1e-300 * np.arange(100)):
        with pytest.raises(InputError, match="'c1' is constant"):
            train(np.column_stack([np.arange(100.0), second]), window=5)


def test_too_few_rows_and_unknown_targets_are_refused():
    with pytest.raises(InputError, match="smaller --window"):
        train(cycle(20))
    with pytest.raises(InputError, match="'z'"):
        train(cycle(), ("z",))
