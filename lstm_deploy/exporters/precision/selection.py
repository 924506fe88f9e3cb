"""Which artifacts of lower precision a bundle gets beside its float32 ones, and the evidence for each."""

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
from msgspec.structs import replace

from lstm_deploy.artifacts import SUFFIXES, Artifact, Bundle, Evidence, c_weights, environment
from lstm_deploy.benchmark import Plan, runner
from lstm_deploy.contract import RECURRENT_OPERATORS
from lstm_deploy.errors import InputError, ParityError
from lstm_deploy.exporters.c.writer import export_c
from lstm_deploy.exporters.precision.evaluation_data import EvaluationData
from lstm_deploy.exporters.precision.float16_onnx import export_float16
from lstm_deploy.exporters.precision.int8_onnx import (
    Settings,
    float_reason,
    layer_counts,
    quantizable_nodes,
    quantize_onnx,
)
from lstm_deploy.exporters.precision.options import FLOAT16_FILE, INT8_FILES, PrecisionOptions
from lstm_deploy.exporters.precision.search import ANY_CPU, VNNI_ONLY, Candidate, Evaluator, search_int8
from lstm_deploy.runtimes import c_compiler
from lstm_deploy.validation import ParityCase

SEQUENCE = 100
"""Steps that are timed in one call where a model cannot be streamed."""


class LowerPrecision:
    """Writes artifacts of lower precision into a bundle's folder, and keeps those that are worth it."""

    options: PrecisionOptions
    folder: Path
    graph: Path
    name: str
    remedy: str

    def __init__(
        self,
        options: PrecisionOptions,
        bundle: Bundle,
        graph: Path,
        data: EvaluationData,
        cases: Sequence[ParityCase],
        on_candidate: Callable[[str], None],
    ) -> None:
        """`bundle` has the float32 artifacts; `graph` is the float32 ONNX graph, which may lie elsewhere."""
        self.options, self.folder, self.graph, self.name = options, bundle.path, graph, bundle.manifest.name
        self.on_candidate = on_candidate
        self.seq_len: int = bundle.signature.clamp({"seq": SEQUENCE})["seq"]
        float32 = bundle.manifest.artifacts
        self.float32: dict[str, Artifact] = {artifact.format: artifact for artifact in float32}
        self.evaluator: Evaluator = Evaluator(self.folder / float32[0].path, data, cases, options.max_metric_loss)
        self.artifacts: list[Artifact] = []
        self.notes: list[str] = []
        """The decisions, one sentence each."""
        self.remedy = "export without --quantize"
        """What to do where no int8 artifact is left."""

    def write(self, int8_torchscript: tuple[int, int] | str | None) -> None:
        """Write all that the options ask for.

        `int8_torchscript` is the number of recurrent layers in int8, and of all, of the candidate that was written; or
        why there is none. Raises `ParityError` where float16 overflows or is over the budget.
        """
        for format_ in ("onnx", "c") if self.options.quantize else ():
            if format_ in self.float32:
                with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                    self._write_int8(format_, Path(folder))
        if int8_torchscript is not None:
            self._add_int8_torchscript(int8_torchscript)
        if self.options.half:
            self._write_float16()

    def _write_int8(self, format_: str, folder: Path) -> None:
        """The best int8 artifact of ONNX or C within the budget, if any; with `auto` the fastest, if not float32 is."""
        onnx_groups = VNNI_ONLY if self.options.int8_cpus == "vnni" else ANY_CPU
        write, groups = (quantize_onnx, onnx_groups) if format_ == "onnx" else (self._write_int8_c, [[Settings()]])
        target = self.folder / INT8_FILES[format_]
        label = target.name if "c" in self.float32 else "int8"
        nodes = self._nodes if format_ == "c" else self._onnx_nodes(label)
        if not nodes:
            return
        path = folder / target.name
        within, tried = search_int8(nodes, self.graph, path, self.evaluator, self.on_candidate, write, groups)
        if not within:
            best = min(tried, key=lambda candidate: candidate.difference)
            kept = f" with {', '.join(best.kept)} in float32" if best.kept else ""
            self.notes.append(f"{label} is left out: even at best{kept}, {best.problem}")
            if best.loss > self.evaluator.max_loss:
                self.remedy = "allow more with --max-metric-loss, or give --data"
            return
        self.on_candidate(f"timing {label}")
        chosen, timed = self._chosen(format_, label, within)
        if chosen is None:
            return
        if chosen.kept:
            where = "" if format_ == "onnx" else " of C"
            kept = " and ".join(chosen.kept)
            self.notes.append(f"kept in float32{where}: {kept}, since otherwise {tried[0].problem}")
        if format_ == "onnx":
            chosen.path.rename(target)
            if self.options.int8_cpus == "vnni":
                self.notes.append(f"{target.name} is for CPUs with VNNI only: its sums saturate on others")
            layers = layer_counts(onnx.load(target, load_external_data=False))
        else:  # its header and weights go with it, under its name
            self._write_int8_c(self.graph, target, Settings(), chosen.kept)
            recurrent = {label for label, node in nodes.items() if node.op_type in RECURRENT_OPERATORS}
            layers = len(recurrent - set(chosen.kept)), len(recurrent)
        self._add(chosen, target, layers, tried, timed)

    def _onnx_nodes(self, label: str) -> dict[str, onnx.NodeProto]:
        """What can be in int8 in ONNX; a note says why recurrent layers cannot."""
        model = onnx.load(self.graph, load_external_data=False)
        nodes = quantizable_nodes(model, "onnx")
        shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
        recurrent = [node for node in model.graph.node if node.op_type in RECURRENT_OPERATORS]
        for reason in sorted({float_reason(node, shapes) for node in recurrent} - {""}):
            left_out = "" if nodes else f"{label} is left out: "
            self.notes.append(f"{left_out}{reason}, so such layers stay in float32; --format c has them in int8")
            self.remedy = "add --format c, or export without --quantize"
        return nodes

    def _chosen(
        self, format_: str, label: str, within: Sequence[Candidate]
    ) -> tuple[Candidate | None, Mapping[str, Any]]:
        """The candidate to keep, with its time; none where `auto` finds none clearly faster than float32."""
        auto = self.options.quantize == "auto"
        timed = self._times(format_, *(candidate.path for candidate in within))
        chosen = min(within, key=lambda one: timed[one.path]["time_ratio"] if auto and timed else one.difference)
        time = timed.get(chosen.path, {})
        low, high = time.get("time_ratio_interval", (1, 1))
        faster, slower = high < 1, low > 1
        figures = "it can be timed neither in streams nor in sequences"
        if time:
            call = "a step" if time["scenario"] == "stream" else "a sequence"
            figures = f"in int8 {call} takes {time['time_ratio']:.2f} ({low:.2f} to {high:.2f}) of float32's time"
        if auto:
            self.notes.append(f"{label if faster else label.replace('int8', 'float32')} is best here: {figures}")
            return chosen if faster else None, time
        if slower:
            self.notes.append(f"{INT8_FILES[format_]} is smaller here, but not faster: {figures}")
        return chosen, time

    def _times(self, format_: str, *paths: Path) -> dict[Path, dict[str, Any]]:
        return times([self.folder / self.float32[format_].path, *paths], self.seq_len)

    def _write_int8_c(self, graph: Path, target: Path, _: Settings, kept: Collection[str]) -> None:
        """Write and compile C with all but the nodes in `kept` in int8."""
        lowered = [node.name for label, node in self._nodes.items() if label not in kept]
        export_c(graph, target, f"{self.name}_int8", lowered)
        c_compiler.build(target)

    @cached_property
    def _nodes(self) -> dict[str, onnx.NodeProto]:
        return quantizable_nodes(onnx.load(self.graph, load_external_data=False), "c")

    def _add_int8_torchscript(self, layers: tuple[int, int] | str) -> None:
        """Keep the int8 TorchScript candidate if it is within the budget."""
        path = self.folder / INT8_FILES["torchscript"]
        if isinstance(layers, str):
            self.notes.append(f"{path.name} is left out: {layers}")
            return
        self.on_candidate("trying int8 TorchScript")
        candidate = self.evaluator.evaluate(path, "int8")
        if candidate.problem:
            path.unlink()
            self.notes.append(f"{path.name} is left out: {candidate.problem}")
            return
        self._add(candidate, path, layers, [candidate], self._times("torchscript", path).get(path, {}))

    def _write_float16(self) -> None:
        """The float16 artifact. Raises `ParityError` where float16 overflows or is over the budget."""
        path = self.folder / FLOAT16_FILE
        self.on_candidate("writing float16")
        export_float16(self.folder / self.float32["onnx"].path, path, self.options.state_dtype)
        candidate = self.evaluator.evaluate(path, "float16")
        if candidate.problem:
            raise ParityError(f"float16 is not within the budget: {candidate.problem}; export without --half.")
        layers = sum(layer_counts(onnx.load(path, load_external_data=False)))
        self._add(candidate, path, (layers, layers), [candidate], {})
        self.notes.append(
            f"{path.name} was proven with its numbers rounded to float16 and its sums in float32, since the CPU has no "
            "float16 kernels for it: prove it where a GPU is, with validate --provider cuda"
        )

    def _add(
        self,
        candidate: Candidate,
        path: Path,
        layers: tuple[int, int],
        tried: Sequence[Candidate],
        timed: Mapping[str, Any],
    ) -> None:
        """List an artifact with its evidence; `layers` are its recurrent layers in lower precision, and all."""
        float32 = self.float32[SUFFIXES[path.suffix].name]
        artifact = Artifact.of(path, float32.format, candidate.precision)
        evaluator = self.evaluator
        evidence = Evidence(
            lowered_layers=layers[0],
            recurrent_layers=layers[1],
            kept_float=candidate.kept,
            settings={**candidate.settings, "chosen_for": environment.describe()["cpu"]["features"]},
            bytes_ratio=_size(path, artifact) / _size(self.folder / float32.path, float32),
            data=evaluator.data.description,
            metric=evaluator.data.metric,
            metric_float32=evaluator.float32.metric,
            metric_value=candidate.metric,
            loss=candidate.loss,
            max_loss=evaluator.max_loss,
            difference=candidate.difference,
            cosine=candidate.cosine,
            decisions_changed=candidate.changed,
            tried=tuple(other.summary() for other in tried),
            **timed,
        )
        dtype = self.options.state_dtype if candidate.precision == "float16" else "float32"
        self.artifacts.append(replace(artifact, state_dtype=dtype, evidence=evidence))


def _size(path: Path, artifact: Artifact) -> int:
    """Bytes of an artifact; of C, which is text, those of its weights."""
    return c_weights.nbytes(path) if artifact.format == "c" else artifact.bytes


def times(paths: Sequence[Path], seq_len: int, rounds: int = 20) -> dict[Path, dict[str, Any]]:
    """Time single steps of artifacts side by side, or sequences where they cannot be streamed.

    For each path the fields of `Evidence` about time, relative to the first path, which is float32. Empty where one of
    them runs in neither way.
    """
    for scenario in ("stream", "sequence"):
        plan = Plan(
            scenarios=(scenario,),
            scopes=("end_to_end",),
            batches=(1,),
            seq_lens=(seq_len,),
            baselines=(),
            rounds=rounds,
            roofline=False,
            unvalidated=True,  # they are just being made
        )
        try:
            results = runner.bench(paths, plan)["results"]
        except InputError:  # none of them takes part in this scenario
            continue
        rows = {row["artifact"]: row for row in results if not row["again"]}
        if len(rows) == len(paths):
            break
    else:
        return {}
    return {
        path: {
            "scenario": scenario,
            "p50_us": rows[path.name]["p50_us"],
            "p50_us_float32": rows[paths[0].name]["p50_us"],
            "time_ratio": rows[path.name]["ratio_to_baseline"],
            "time_ratio_interval": rows[path.name]["ratio_interval"],
        }
        for path in paths
    }
