"""A process that runs one workload and times it on request.

Each variant of a benchmark has a process of its own, so that the threads, allocator and memory of one do not
disturb another, and so that timing an ONNX file never imports PyTorch. Requests and answers are lines of JSON
on standard input and output:

    {"open": {"kind": "onnx", "path": …, "provider": "cpu", "threads": 1, …}}     ->  {"load_s": …}
    {"case": {"scenario": "stream", "scope": "resident", …}, "warm_up_s": 2}      ->  {"first_call_us": …, …}
    {"calls": 100, "warm": 10}                                                     ->  {"samples_us": […]}
    {"state": true}                                                                ->  {"peak_mib": …, "active": […]}

Errors are answered as {"error": …, "exit_code": …}.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lstm_deploy.artifacts import FORMATS
from lstm_deploy.benchmark.statistics import Samples
from lstm_deploy.benchmark.workloads import (
    ArtifactWorkload,
    BenchCase,
    PreparedCall,
    SessionWorkload,
    Workload,
    null_model,
    sized_file,
)
from lstm_deploy.contract import Signature
from lstm_deploy.errors import LstmDeployError, one_line
from lstm_deploy.runtimes import open_runtime

BLOCK_S = 0.02
STABLE = 0.05
"""How far apart the medians of the latest three blocks of calls may be, as a fraction of the least."""
SENT_OUTPUTS = 4096
"""Entries of an output that are sent for comparison."""


def main() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to standard error
    timer = Timer()
    for line in sys.stdin:
        answer: dict[str, Any]
        try:
            answer = timer.answer(json.loads(line))
        except LstmDeployError as error:
            answer = {"error": str(error), "exit_code": error.exit_code}
        except Exception as error:  # the parent decides what to do with it
            answer = {"error": f"{type(error).__name__}: {one_line(error)}", "exit_code": 1}
        print(json.dumps(answer), file=answers, flush=True)


class Timer:
    """The workload of this process, and its call for the case that was prepared last."""

    workload: Workload
    prepared: PreparedCall

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request."""
        if "open" in request:
            start = time.perf_counter()
            self.workload = open_workload(**request["open"])
            return {"load_s": time.perf_counter() - start}
        if "case" in request:
            return self.prepare(BenchCase(**request["case"]), request["warm_up_s"])
        if "calls" in request:
            self.measure(request["warm"])
            return {"samples_us": self.measure(request["calls"]).tolist()}
        return {"peak_mib": _peak_mib(), "active": self.workload.active()}

    def prepare(self, case: BenchCase, warm_up_s: float) -> dict[str, Any]:
        """Prepare a case: the first call, calls until they are stable or `warm_up_s` is over, and the outputs."""
        self.prepared = self.workload.prepare(case)
        first = self.measure(1)[0]
        medians: list[float] = []
        start = time.perf_counter()
        while time.perf_counter() - start < warm_up_s or len(medians) < 3:
            block, began = [], time.perf_counter()
            while time.perf_counter() - began < BLOCK_S:
                block += self.measure(1).tolist()
            medians.append(float(np.median(block)))
            latest = medians[-3:]
            if len(latest) == 3 and max(latest) <= (1 + STABLE) * min(latest):
                break
        y = np.asarray(self.prepared.outputs()).ravel()
        sent = y[:: max(1, y.size // SENT_OUTPUTS)]
        values = [value if np.isfinite(value) else None for value in sent.tolist()]
        return {"first_call_us": float(first), "call_us": min(medians[-3:]), "y": values}

    def measure(self, calls: int) -> Samples:
        """Time each of so many calls, in microseconds."""
        clock, call = time.perf_counter_ns, self.prepared.call
        samples = np.empty(calls, np.int64)
        for index in range(calls):
            start = clock()
            call()
            samples[index] = clock() - start
        return samples / 1000


def open_workload(
    kind: str, path: str, provider: str, threads: int, settings: Sequence[str], contract: str, origin: str
) -> Workload:
    """Open the workload that the fields of a `Variant` describe."""
    file = Path(path)
    if kind in FORMATS:
        # `variants` refused it if it was changed, unless it was asked for even so.
        return ArtifactWorkload(open_runtime(file, provider, threads, settings, even_changed=True))
    match kind:
        case "floor":
            from lstm_deploy.runtimes import OnnxRuntime

            return ArtifactWorkload(OnnxRuntime(null_model(Signature.from_json(contract)), provider, threads))
        case "openvino":
            from lstm_deploy.runtimes import OpenVinoRuntime

            return ArtifactWorkload(OpenVinoRuntime(file, threads, bf16="bf16" in settings))
        case "stock":
            from lstm_deploy.runtimes import open_session

            def session_for(case: BenchCase) -> Any:
                sized = sized_file(file, case)
                return open_session(sized if sized.exists() else file, provider, threads)

            return SessionWorkload(session_for, Signature.from_json(contract))
    from lstm_deploy.benchmark.baselines import open_baseline

    return open_baseline(kind, file, provider, threads, settings, origin)


def _peak_mib() -> float | None:
    """The peak memory of this process; none where the system does not report it.

    Not from `getrusage`, which on Linux includes what the parent held when it forked.
    """
    status = Path("/proc/self/status")
    peak_kib = status.read_text().partition("VmHWM:")[2].split() if status.is_file() else []
    return int(peak_kib[0]) / 1024 if peak_kib else None


if __name__ == "__main__":
    main()
