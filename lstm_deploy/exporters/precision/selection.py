"""Which artifacts of lower precision a bundle gets beside its float32 ones, and the evidence for each."""

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from msgspec import Struct
from msgspec.structs import replace

from lstm_deploy.artifacts import FORMATS, SUFFIXES, Artifact, Evidence, c_weights, environment
from lstm_deploy.benchmark import runner
from lstm_deploy.contract import StateDtype
from lstm_deploy.errors import InputError, ParityError
from lstm_deploy.exporters.c.writer import export_c
from lstm_deploy.exporters.precision.float16 import export_float16
from lstm_deploy.exporters.precision.int8 import Settings, lstm_counts, parts, quantize_onnx
from lstm_deploy.exporters.precision.trials import ANY_CPU, VNNI_ONLY, Examiner, Trial, Way, search_int8
from lstm_deploy.runtimes import c_compiler

INT8 = {name: format_.file_name("int8") for name, format_ in FORMATS.items()}
"""File names of the int8 artifacts, by format."""
FLOAT16 = FORMATS["onnx"].file_name("float16")

OnTrial = Callable[[str], None]


class Request(Struct, frozen=True, kw_only=True):
    """What is asked for beside float32."""

    quantize: Literal["int8", "auto"] | None = None
    """`auto` keeps int8 ONNX only where it is faster than float32 on this machine, and within the budget."""
    int8_cpus: Literal["any", "vnni"] = "any"
    """Where int8 ONNX must be right: on every CPU, or on those with VNNI alone, with up to one bit more."""
    half: bool = False
    state_dtype: StateDtype = "float16"
    """Of the float16 artifact."""
    data: Path | None = None
    """What to measure the loss on; none for the part of the training's file that was held out."""
    max_metric_loss: float | None = None
    """As a part of the metric, 1 % where it is none; without data of how much the outputs vary, then 10 %."""

    def __bool__(self) -> bool:
        return self.half or self.quantize is not None


class Precisions:
    """Makes artifacts of lower precision in `folder`, beside the float32 ones that were `made` there."""

    def __init__(
        self,
        folder: Path,
        made: Sequence[Artifact],
        request: Request,
        examiner: Examiner,
        graph: Path,
        name: str,
        on_trial: OnTrial = lambda _: None,
    ) -> None:
        """`graph` is the float32 ONNX graph, and `name` what functions of C begin with."""
        self.folder, self.request, self.examiner, self.on_trial = folder, request, examiner, on_trial
        self.graph, self.name = graph, name
        self.made = {artifact.format: artifact for artifact in made}
        self.artifacts: list[Artifact] = []
        self.notes: list[str] = []
        """What was decided, one sentence each."""

    def make(self, quantized: tuple[int, int] | str | None) -> None:
        """All that was asked for; `quantized` tells the LSTM layers of an int8 TorchScript file, or why there is none.

        Raises `ParityError` where float16 does not hold.
        """
        for format_ in ("onnx", "c") if self.request.quantize else ():
            if format_ in self.made:
                self.int8(format_)
        if isinstance(quantized, str):
            self.notes.append(f"{INT8['torchscript']} is left out: {quantized}")
        elif quantized is not None:
            self.int8_torchscript(self.folder / INT8["torchscript"], quantized)
        if self.request.half:
            self.float16()

    def int8(self, format_: str) -> None:
        """The best int8 artifact within the budget, if there is one; for `auto` the fastest, if that is not float32.

        Of ONNX or C: `format_` says which.
        """
        source, words = self.folder / self.made[format_].path, INT8[format_] if "c" in self.made else "int8"
        with tempfile.TemporaryDirectory(dir=self.folder) as trials:
            if format_ == "c":
                way = Way(self._write_c, ((Settings(),),), ".c")
            else:
                way = Way(quantize_onnx, VNNI_ONLY if self.request.int8_cpus == "vnni" else ANY_CPU, ".onnx")
            within, tried = search_int8(self.graph, Path(trials), self.examiner, self.on_trial, way)
            if not within:
                best = min(tried, key=lambda trial: trial.difference)
                kept = f" with {', '.join(best.kept)} in float32" if best.kept else ""
                self.notes.append(f"{words} is left out: even at best{kept}, {best.problem}")
                return
            self.on_trial(f"timing {words}")
            timed = times([source, *(trial.path for trial in within)], self.examiner.seq_len)
            chosen = min(within, key=lambda trial: trial.difference)
            if self.request.quantize == "auto":
                chosen = min(within, key=lambda trial: timed.get(trial.path, {}).get("time_ratio", np.inf))
                faster, figures = _is_faster(timed.get(chosen.path, {}))
                self.notes.append(f"{words if faster else words.replace('int8', 'float32')} is best here: {figures}")
                if not faster:
                    return
            elif timed and timed[chosen.path]["time_ratio_interval"][0] > 1:
                self.notes.append(
                    f"{INT8[format_]} is smaller here, but not faster: {_is_faster(timed[chosen.path])[1]}"
                )
            if chosen.kept:
                where = "" if format_ == "onnx" else " of C"
                self.notes.append(
                    f"kept in float32{where}: {' and '.join(chosen.kept)}, since otherwise {tried[0].problem}"
                )
            target = self.folder / INT8[format_]
            if format_ == "onnx":
                chosen.path.rename(target)
                if self.request.int8_cpus == "vnni":
                    self.notes.append(f"{target.name} is for CPUs with VNNI alone: its sums saturate on others")
                layers = lstm_counts(onnx.load(target, load_external_data=False))
            else:  # its header and weights go with it, under its name
                self._write_c(self.graph, target, Settings(), chosen.kept)
                lstms = {label for label, node in self._parts.items() if node.op_type == "LSTM"}
                layers = len(lstms - set(chosen.kept)), len(lstms)
            self._add(chosen, target, layers, tried, timed.get(chosen.path, {}))

    def _write_c(self, graph: Path, target: Path, _: Settings, kept: Collection[str] = ()) -> None:
        """Write and compile C whose layers are in int8 but for those in `kept`."""
        lowered = [node.name for label, node in self._parts.items() if label not in kept]
        export_c(graph, target, f"{self.name}_int8", lowered)
        c_compiler.build(target)

    @cached_property
    def _parts(self) -> dict[str, onnx.NodeProto]:
        """What there is to quantize in the graph."""
        return parts(onnx.load(self.graph, load_external_data=False))

    def int8_torchscript(self, path: Path, layers: tuple[int, int]) -> None:
        """Keep the int8 artifact at `path` if it is within the budget."""
        self.on_trial("trying int8 TorchScript")
        trial = self.examiner.examine(path, "int8")
        if trial.problem:
            path.unlink()
            self.notes.append(f"{path.name} is left out: {trial.problem}")
            return
        timed = times([self.folder / self.made["torchscript"].path, path], self.examiner.seq_len)
        self._add(trial, path, layers, [trial], timed.get(path, {}))

    def float16(self) -> None:
        """The float16 artifact. Raises `ParityError` where float16 overflows or is not within the budget."""
        path = self.folder / FLOAT16
        self.on_trial("writing float16")
        export_float16(self.folder / self.made["onnx"].path, path, self.request.state_dtype)
        trial = self.examiner.examine(path, "float16")
        if trial.problem:
            raise ParityError(f"float16 is not within the budget: {trial.problem}; export without --half.")
        layers = sum(lstm_counts(onnx.load(path, load_external_data=False)))
        self._add(trial, path, (layers, layers), [trial], {})
        self.notes.append(
            f"{path.name} was proven with its numbers rounded to float16 and its sums in float32, since the CPU has no "
            "float16 LSTM: prove it where a GPU is, with validate --provider cuda"
        )

    def _add(
        self, trial: Trial, path: Path, layers: tuple[int, int], tried: Sequence[Trial], timed: Mapping[str, Any]
    ) -> None:
        """List an artifact with its evidence; `layers` are its LSTM layers in lower precision, and all."""
        beside = self.made[SUFFIXES[path.suffix].name]
        artifact = Artifact.of(path, beside.format, trial.precision)
        examiner = self.examiner
        evidence = Evidence(
            lowered_layers=layers[0],
            lstm_layers=layers[1],
            kept_float=trial.kept,
            settings={**trial.settings, "chosen_for": environment.describe()["cpu"]["features"]},
            bytes_ratio=_size(path, artifact) / _size(self.folder / beside.path, beside),
            data=examiner.given.described,
            metric=examiner.given.metric,
            metric_float32=examiner.wanted.metric,
            metric_value=trial.metric,
            loss=trial.loss,
            max_loss=examiner.max_loss,
            difference=trial.difference,
            cosine=trial.cosine,
            tried=tuple(each.described() for each in tried),
            **timed,
        )
        dtype = self.request.state_dtype if trial.precision == "float16" else "float32"
        self.artifacts.append(replace(artifact, state_dtype=dtype, evidence=evidence))


def _size(path: Path, artifact: Artifact) -> int:
    """Bytes of an artifact; of C, which is text, those of its weights."""
    return c_weights.nbytes(path) if artifact.format == "c" else artifact.bytes


def _is_faster(timed: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether int8 is clearly faster than float32, and the figures."""
    if not timed:
        return False, "it can be timed neither in streams nor in sequences"
    low, high = timed["time_ratio_interval"]
    what = "a step" if timed["scenario"] == "stream" else "a sequence"
    return high < 1, f"in int8 {what} takes {timed['time_ratio']:.2f} ({low:.2f} to {high:.2f}) of float32's time"


def times(paths: Sequence[Path], seq_len: int, rounds: int = 20) -> dict[Path, dict[str, Any]]:
    """Time single steps of artifacts side by side, or sequences where they cannot be streamed.

    For each path the fields of `Evidence` about time; the first path is the float32 artifact. Empty where one of them
    runs in neither way.
    """
    for scenario in ("stream", "sequence"):
        plan = runner.Plan(
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
