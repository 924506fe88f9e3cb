import numpy as np
import pytest

from lstm_deploy.contract.tasks import BYTES, Classify, Forecast, LanguageModel
from lstm_deploy.training import plots
from lstm_deploy.training.evaluation import Evaluation, Predictions
from lstm_deploy.training.run_folder import Epoch


def history(epochs: int, validated: bool = True) -> list[Epoch]:
    return [
        Epoch(
            epoch=number,
            step=number,
            train_loss=1 / number,
            validation_loss=2 / number if validated else None,
            learning_rate=0.1,
            seconds=1.0,
        )
        for number in range(1, epochs + 1)
    ]


def predictions(rows: int, targets: int) -> Predictions:
    values = np.random.default_rng(0).standard_normal((rows, targets))
    return Predictions(truth=values, prediction=values + 0.1, labels=tuple(map(str, range(rows))))


@pytest.mark.parametrize("rows", [1, 2, 1000])
@pytest.mark.parametrize(("targets", "horizon"), [(("a",), 1), (("a $x_", "ü"), 3)])
def test_a_forecast_has_its_plots_at_any_size(rows, targets, horizon):
    task = Forecast(features=targets, targets=targets, window=2, horizon=horizon)
    metrics = {"rmse": 0.1, "naive_rmse": 0.2, "rollout_rmse": 0.3}
    evaluation = Evaluation(
        metrics=metrics,
        forecast=predictions(rows, len(targets)),
        rollout=predictions(min(rows, 50), len(targets)) if horizon == 1 else None,
    )
    figures = plots.plots(history(3), evaluation, task)
    assert list(figures) == ["prediction", "residuals", *(["rollout"] if horizon == 1 else []), "loss"]
    for figure in figures.values():
        figure.savefig("/dev/null", format="png", dpi=30)
    panel = figures["prediction"].axes[0]
    assert len(panel.lines[0].get_ydata()) == min(rows, plots.SHOWN_ROWS)


@pytest.mark.parametrize("labels", [2, 12, 30])
def test_a_confusion_matrix_shows_its_counts_where_they_fit(labels):
    task = Classify(labels=tuple(f"label {n}" for n in range(labels)), vocabulary=("a",))
    confusion = np.arange(labels * labels).reshape(labels, labels)
    figures = plots.plots(history(2), Evaluation(metrics={"accuracy": 0.5}, confusion=confusion), task)
    assert list(figures) == ["confusion", "loss"]
    assert len(figures["confusion"].axes[0].texts) == (labels * labels if labels <= plots.NUMBERED_CONFUSION else 0)
    figures["confusion"].savefig("/dev/null", format="png", dpi=30)


def test_a_confusion_matrix_of_too_many_labels_is_left_out():
    task = Classify(labels=tuple(map(str, range(50))), vocabulary=("a",))
    assert list(plots.plots(history(2), Evaluation(metrics={}, confusion=np.eye(50)), task)) == ["loss"]


@pytest.mark.parametrize(("epochs", "validated"), [(1, True), (100, True), (3, False)])
def test_losses_are_drawn_beside_a_baseline(epochs, validated):
    task = LanguageModel(vocabulary=BYTES, unit="byte")
    evaluation = Evaluation(metrics={"nats_per_byte": 1.0, "naive_nats_per_byte": 2.0})
    (axes,) = plots.plots(history(epochs, validated), evaluation, task)["loss"].axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert drawn["training"] == [1 / number for number in range(1, epochs + 1)]
    assert ("validation" in drawn) == validated
    assert drawn["bigram baseline on held-out text"] == [2.0, 2.0]
