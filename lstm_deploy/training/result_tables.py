"""Tables of a training: its metrics beside the baselines', and the trials of a search."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lstm_deploy.artifacts import format_value
from lstm_deploy.training.recipe import option_name

if TYPE_CHECKING:
    from lstm_deploy.training.tuning import TrialSummary


def metric_rows(metrics: Mapping[str, Any]) -> list[list[str]]:
    """Name and value of each metric; those of each target have its name before theirs."""
    rows = []
    for name, value in metrics.items():
        if isinstance(value, dict):
            rows += [[f"{target}: {key}", text] for target, own in value.items() for key, text in metric_rows(own)]
        elif value is not None:
            rows.append([name.replace("_", " "), _figure(value)])
    return rows


NAIVE, SEASONAL = "naive_", "seasonal_naive_"


def metric_table(metrics: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: each metric of the model, beside that of the naive and of the seasonal naive baseline."""
    headings, rows = ["metric", "model", "naive", "seasonal naive"], _rows_beside_baselines(metrics)
    shown = [0, 1, *(column for column in (2, 3) if any(row[column] for row in rows))]
    return [headings[column] for column in shown], [[row[column] for column in shown] for row in rows]


def _rows_beside_baselines(metrics: Mapping[str, Any]) -> list[list[str]]:
    """Name, figure, and that of each baseline, empty where it has none; the metrics of each target come last."""
    rows = []
    for name, value in sorted(metrics.items(), key=lambda item: isinstance(item[1], dict)):
        if isinstance(value, dict):
            own = ((target, row) for target, part in value.items() for row in _rows_beside_baselines(part))
            rows += [[f"{target}: {label}", *figures] for target, (label, *figures) in own]
        elif value is not None and not name.startswith((NAIVE, SEASONAL)):
            beside = (metrics.get(f"{prefix}{name}") for prefix in (NAIVE, SEASONAL))
            cells = ("" if each is None else _figure(each, 4) for each in beside)
            rows.append([name.replace("_", " "), _figure(value, 4), *cells])
    return rows


def baseline_verdict(metrics: Mapping[str, Any]) -> str:
    """Whether the model beats the better of its baselines, by the metric that it was trained for.

    Several targets are compared by MASE, which has no unit.
    """
    name = next(name for name in metrics if name in ("rmse", "accuracy") or name.startswith("nats_per_"))
    name = "mase" if "by_target" in metrics and metrics["mase"] is not None else name
    keys = {"naive": f"naive_{name}", "seasonal naive": f"seasonal_naive_{name}"}
    baselines = [(metrics[key], kind) for kind, key in keys.items() if metrics.get(key) is not None]
    higher_is_better = name == "accuracy"
    ours, (theirs, which) = metrics[name], (max if higher_is_better else min)(baselines)
    label = name.replace("_", " ")
    if theirs == (1 if higher_is_better else 0):
        return f"The {which} baseline makes no error at all ({label} {theirs:g}), so there is nothing to beat."
    if higher_is_better:
        beats = "Better than" if ours > theirs else "It does NOT beat"
        return f"{beats} the {which} baseline: {label} {ours:.3f} against {theirs:.3f}."
    if ours < theirs:
        return f"Better than the {which} baseline by {1 - ours / theirs:.1%} ({label})."
    worse = ours / theirs - 1
    return f"It does NOT beat the {which} baseline: {label} is {f'{worse:.1%} worse' if worse >= 5e-4 else 'the same'}."


def search_table(trials: "Sequence[TrialSummary]") -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the trials of a search, in their order: a search gives the best first."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.chosen))
    columns = {
        "trial": [trial.trial for trial in trials],
        "val loss": [trial.loss for trial in trials],
        "epochs": [trial.epochs for trial in trials],
    }
    if any(trial.state != "complete" for trial in trials):
        columns["ended"] = [trial.state for trial in trials]
    columns |= {option_name(name): [trial.chosen.get(name) for trial in trials] for name in names}
    return [*columns], [[*map(format_value, row)] for row in zip(*columns.values(), strict=True)]


def _figure(value: Any, digits: int = 3) -> str:
    if isinstance(value, list):
        return ", ".join(_figure(each, digits) for each in value)
    if not isinstance(value, float):
        return f"{value:,}"
    return format_value(value) if digits == 3 or abs(value) >= 1000 else f"{value:.{digits}g}"
