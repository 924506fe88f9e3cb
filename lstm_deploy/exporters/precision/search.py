"""Candidates of lower precision: what each loses beside float32, and the search for int8 within the budget."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from itertools import chain, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from lstm_deploy.contract import RECURRENT_OPERATORS, Signature
from lstm_deploy.exporters.precision import metrics
from lstm_deploy.exporters.precision.evaluation_data import EvaluationData
from lstm_deploy.exporters.precision.int8_onnx import Settings
from lstm_deploy.exporters.precision.metrics import Measured
from lstm_deploy.validation import ParityCase, Subject, check_file, open_emulating

MAX_METRIC_LOSS = 0.01
"""Default budget: how much worse a metric may become, relative to float32's."""
MAX_DIFFERENCE = 0.1
"""Default budget without a metric: how far outputs may be from float32's, relative to how much they vary."""
Groups = Sequence[Sequence[Settings]]
"""Quantization settings to try; those of a group only if none of an earlier group is within the budget."""
ANY_CPU: Groups = ((Settings(), Settings(per_channel=False)), (Settings(weights="unsigned"),))
"""Settings of ONNX that are exact on every CPU."""
VNNI_ONLY: Groups = ((Settings(weights="full"), Settings(weights="full", per_channel=False)),)
"""Settings of ONNX that are exact only on CPUs with VNNI."""


class Candidate(NamedTuple):
    """One artifact of lower precision, and what it loses."""

    path: Path
    precision: str
    settings: dict[str, Any]
    kept: tuple[str, ...]
    """Layers that stay in float32."""
    metric: float | None
    loss: float
    difference: float
    cosine: float
    changed: float | None
    """The part of decisions that are others; None where the outputs are no decisions."""
    problem: str
    """Why it is not within the budget; empty if it is."""

    def summary(self) -> dict[str, Any]:
        """The entry in the manifest's evidence."""
        result = {name: getattr(self, name) for name in ("loss", "difference", "cosine", "problem")}
        return {**self.settings, "kept_float": self.kept, **result}


class Evaluator:
    """Compares artifacts with the float32 one on evaluation data, and runs the parity checks on them."""

    data: EvaluationData
    cases: Sequence[ParityCase]
    float32: Measured
    signature: Signature

    def __init__(
        self, float32: Path, data: EvaluationData, cases: Sequence[ParityCase], max_loss: float | None
    ) -> None:
        self.data, self.cases = data, cases
        default = MAX_METRIC_LOSS if data.truth else MAX_DIFFERENCE
        self.max_loss: float = default if max_loss is None else max_loss
        self.float32, self.signature = self._measured(float32, "float32")

    def evaluate(
        self, path: Path, precision: str, settings: dict[str, Any] | None = None, kept: Sequence[str] = ()
    ) -> Candidate:
        """The loss of an artifact, and whether that is within the budget."""
        measured, _ = self._measured(path, precision)
        difference, cosine = metrics.difference(measured.outputs, self.float32.outputs)
        changed = metrics.decisions_changed(self.signature, measured.outputs, self.float32.outputs)
        loss = difference
        if measured.metric is not None and self.float32.metric is not None:
            loss = metrics.loss(self.data.metric, measured.metric, self.float32.metric)
        problem = self._over_budget(loss) if loss > self.max_loss else self._failure(path, precision)
        return Candidate(
            path, precision, settings or {}, tuple(kept), measured.metric, loss, difference, cosine, changed, problem
        )

    def _measured(self, path: Path, precision: str) -> tuple[Measured, Signature]:
        with closing(open_emulating(path, precision, "cpu")) as runtime:
            return metrics.measure(runtime, self.data), runtime.signature

    def _over_budget(self, loss: float) -> str:
        problem = f"its outputs differ from float32's by {_percent(loss)} of how much these vary"
        if self.data.truth:
            problem = f"its {self.data.metric.replace('_', ' ')} is {_percent(loss)} worse"
        return f"{problem} on {self.data.description}, where {_percent(self.max_loss)} is allowed"

    def _failure(self, path: Path, precision: str) -> str:
        """The worst check that an artifact fails; empty if it passes all."""
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
    nodes: Mapping[str, onnx.NodeProto],
    source: Path,
    target: Path,
    evaluator: Evaluator,
    on_candidate: Callable[[str], None],
    write: Callable[[Path, Path, Settings, Collection[str]], None],
    groups: Groups,
) -> tuple[list[Candidate], list[Candidate]]:
    """int8 candidates from the float32 graph at `source`, written beside `target`: those within the budget, and all.

    `nodes` are the `quantizable_nodes` of the format. `write` takes the graph, a path, settings, and labels of nodes
    that stay in float. If no settings are within the budget, layers stay in float one after another, the most
    sensitive first, until the rest is; at least one recurrent layer has to be in int8, if `nodes` has any.
    """
    tried: list[Candidate] = []

    def attempt(settings: Settings, kept: Collection[str] = ()) -> Candidate:
        path = target.with_stem(f"trial{len(tried)}")
        described = settings.described()
        without = f" without {', '.join(kept)}" if kept else ""
        on_candidate(f"trying {described['weights']} {described['scales']}{without}")
        write(source, path, settings, kept)
        tried.append(evaluator.evaluate(path, "int8", described, [label for label in nodes if label in kept]))
        return tried[-1]

    for group in groups:
        within = [candidate for candidate in map(attempt, group) if not candidate.problem]
        if within:
            return within, tried
    if len(nodes) == 1:
        return [], tried
    _, best = min(zip(tried, chain(*groups), strict=True), key=lambda trial: trial[0].difference)
    alone = {label: attempt(best, [label]) for label in nodes}
    order = sorted(alone, key=lambda label: alone[label].difference)

    recurrent = {label for label, node in nodes.items() if node.op_type in RECURRENT_OPERATORS}

    def has_int8_layer(kept: Collection[str]) -> bool:
        return bool((recurrent or nodes.keys()) - set(kept))

    within = [candidate for candidate in alone.values() if not candidate.problem and has_int8_layer(candidate.kept)]
    if within:
        return [min(within, key=lambda candidate: candidate.difference)], tried
    for kept in takewhile(has_int8_layer, (order[:count] for count in range(2, len(nodes)))):
        candidate = attempt(best, kept)
        if not candidate.problem:
            return [candidate], tried
    return [], tried
