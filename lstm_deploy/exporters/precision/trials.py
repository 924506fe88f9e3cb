"""Artifacts of lower precision, tried out: what each loses, and the search for one within a budget."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from lstm_deploy.contract import LSTM
from lstm_deploy.exporters.precision import metrics
from lstm_deploy.exporters.precision.int8 import Settings, parts
from lstm_deploy.exporters.precision.metrics import Examples, Measured
from lstm_deploy.validation import ParityCase, Subject, check_file, open_emulating

MAX_METRIC_LOSS = 0.01
"""What a metric may lose where nobody says otherwise."""
MAX_DIFFERENCE = 0.1
"""Where no data tells a metric: how far outputs may be from float32's, as a part of how much they vary."""
SEQUENCE = 100
"""Steps that are timed in one call where a model cannot be streamed."""
ANY_CPU = (
    (Settings(), Settings(per_channel=False)),
    (Settings(weights="unsigned"),),
)
"""What is tried in ONNX, in groups, each only where nothing before it is within the budget: the same on every CPU."""
VNNI_ONLY = ((Settings(weights="full"), Settings(weights="full", per_channel=False)),)
"""The same for CPUs with VNNI alone."""


class Trial(NamedTuple):
    """One artifact of lower precision, and what it loses."""

    path: Path
    precision: str
    settings: dict[str, Any]
    kept: tuple[str, ...]
    metric: float | None
    loss: float
    difference: float
    cosine: float
    problem: str
    """Why it is not within the budget; empty if it is."""

    def described(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            **self.settings,
            "kept_float": self.kept,
            "loss": self.loss,
            "difference": self.difference,
            "cosine": self.cosine,
            "problem": self.problem,
        }


class Way(NamedTuple):
    """How int8 artifacts of one format are made."""

    write: Callable[[Path, Path, Settings, Collection[str]], None]
    """From the float32 graph, to a path, with settings and labels of `int8.parts` that stay in float."""
    choices: Sequence[Sequence[Settings]]
    """In groups, as `ANY_CPU`."""
    suffix: str


class Examiner:
    """Holds artifacts against a float32 one: on data, and on the cases that every artifact has to pass."""

    def __init__(self, wanted: Path, given: Examples, cases: Sequence[ParityCase], max_loss: float | None) -> None:
        """`wanted` is the float32 artifact; `max_loss` is what may be lost, the default where it is none."""
        self.given, self.cases = given, cases
        default = MAX_METRIC_LOSS if given.truth else MAX_DIFFERENCE
        self.max_loss = default if max_loss is None else max_loss
        self.wanted, self.seq_len = self._measured(wanted, "float32")

    def examine(
        self, path: Path, precision: str, settings: dict[str, Any] | None = None, kept: Sequence[str] = ()
    ) -> Trial:
        """What an artifact loses, and whether that is within the budget."""
        found, _ = self._measured(path, precision)
        difference, cosine = metrics.difference(found.outputs, self.wanted.outputs)
        loss = difference
        if found.metric is not None and self.wanted.metric is not None:
            loss = metrics.loss(self.given.metric, found.metric, self.wanted.metric)
        problem = self._too_much(loss) if loss > self.max_loss else self._differs(path, precision)
        return Trial(path, precision, settings or {}, tuple(kept), found.metric, loss, difference, cosine, problem)

    def _measured(self, path: Path, precision: str) -> tuple[Measured, int]:
        """What an artifact makes of the examples, and the steps of a long call."""
        runtime = open_emulating(path, precision, "cpu")
        try:
            return metrics.measure(runtime, self.given), runtime.signature.clamp({"seq": SEQUENCE})["seq"]
        finally:
            runtime.close()

    def _too_much(self, loss: float) -> str:
        if self.given.truth:
            what = f"its {self.given.metric.replace('_', ' ')} is {_percent(loss)} worse"
        else:
            what = f"its outputs differ from float32's by {_percent(loss)} of how much these vary"
        return f"{what} on {self.given.described}, where {_percent(self.max_loss)} is allowed"

    def _differs(self, path: Path, precision: str) -> str:
        checks = check_file(Subject(path=path, name=path.name, precision=precision), self.cases).checks
        worst = max(checks, key=lambda check: check.severity)
        if worst.passed:
            return ""
        size = "" if worst.max_abs is None else f" by {worst.max_abs:.2g}, where {worst.tolerance:.2g} is allowed"
        return f"{worst.output or worst.name} differs{size} ({worst.name}: {worst.detail})"


def _percent(part: float) -> str:
    """With as many digits as it takes not to be 0."""
    return f"{100 * part:.3g}%"


def search_int8(
    source: Path,
    folder: Path,
    examiner: Examiner,
    on_trial: Callable[[str], None],
    way: Way,
) -> tuple[list[Trial], list[Trial]]:
    """int8 artifacts of the float32 graph at `source`, written into `folder`: those within the budget, and all.

    Where no settings are within it, layers are kept in float one after another, those first whose rounding costs the
    most, until it holds; one LSTM layer at least has to be in int8. Raises `InputError` for a graph that cannot be
    quantized.
    """
    nodes = parts(onnx.load(source, load_external_data=False))
    labels = list(nodes)
    tried: list[Trial] = []

    def attempt(settings: Settings, kept: Collection[str] = ()) -> Trial:
        path = folder / f"trial{len(tried)}{way.suffix}"
        described = settings.described()
        on_trial(
            f"trying {described['weights']} {described['scales']}" + (f" without {', '.join(kept)}" if kept else "")
        )
        way.write(source, path, settings, kept)
        tried.append(examiner.examine(path, "int8", described, [label for label in labels if label in kept]))
        return tried[-1]

    for group in way.choices:
        within = [trial for trial in map(attempt, group) if not trial.problem]
        if within:
            return within, tried
    if len(labels) == 1:
        return [], tried
    choices = [settings for group in way.choices for settings in group]
    best = choices[min(range(len(choices)), key=lambda index: tried[index].difference)]
    spared = {label: attempt(best, [label]) for label in labels}
    order = sorted(labels, key=lambda label: spared[label].difference)

    def is_quantized(kept: Collection[str]) -> bool:
        return any(nodes[label].op_type == LSTM.onnx_operator for label in labels if label not in kept)

    holding = [trial for trial in spared.values() if not trial.problem and is_quantized(trial.kept)]
    if holding:
        return [min(holding, key=lambda trial: trial.difference)], tried
    for count in range(2, len(labels)):
        if not is_quantized(order[:count]):
            break
        trial = attempt(best, order[:count])
        if not trial.problem:
            return [trial], tried
    return [], tried
