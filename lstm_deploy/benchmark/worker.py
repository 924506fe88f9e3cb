"""A process that runs one contender and times it when told to.

Each variant of a benchmark has a process of its own, so that the threads, allocator and memory of one do not
disturb another, and so that timing an ONNX file never imports PyTorch. Requests and answers are lines of JSON
on standard input and output:

    {"open": {"kind": "onnx", "path": …, "provider": "cpu", "threads": 1, …}}     ->  {"load_s": …}
    {"case": {"scenario": "stream", "scope": "resident", …}, "warm_up_s": 2}      ->  {"first_call_us": …, …}
    {"calls": 100, "warm": 10}                                                     ->  {"samples_us": […]}
    {"state": true}                                                                ->  {"peak_mib": …, "active": […]}

What goes wrong is answered as {"error": …, "exit_code": …}.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from lstm_deploy.benchmark.opening import open_contender
from lstm_deploy.benchmark.workloads import Case, Contender, Prepared
from lstm_deploy.errors import LstmDeployError, one_line

BLOCK_S = 0.02
STABLE = 0.05
"""How far the medians of the latest three blocks of calls may lie apart."""
SENT_OUTPUTS = 4096
"""How many entries of an output are compared."""


def main() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to standard error
    timer = Timer()
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any]
        try:
            answer = timer.answer(request)
        except Exception as error:  # the parent decides what to do with it
            known = isinstance(error, LstmDeployError)
            text = str(error) if known else f"{type(error).__name__}: {one_line(error)}"
            answer = {
                "error": text,
                "exit_code": error.exit_code if isinstance(error, LstmDeployError) else 1,
            }
        print(json.dumps(answer), file=answers, flush=True)


class Timer:
    """One contender, and the call of it that was prepared last."""

    contender: Contender
    prepared: Prepared

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked."""
        if "open" in request:
            start = time.perf_counter()
            self.contender = open_contender(**request["open"])
            return {"load_s": time.perf_counter() - start}
        if "case" in request:
            return self.prepare(Case(**request["case"]), request["warm_up_s"])
        if "calls" in request:
            self.measure(request["warm"])
            return {"samples_us": self.measure(request["calls"]).tolist()}
        return {"peak_mib": _peak_mib(), "active": self.contender.active()}

    def prepare(self, case: Case, warm_up_s: float) -> dict[str, Any]:
        """Get ready for a case: the first call, calls until they are stable, or so long, and what they compute."""
        self.prepared = self.contender.prepare(case)
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

    def measure(self, calls: int) -> Any:
        """Time that many calls, each on its own: microseconds."""
        clock, call = time.perf_counter_ns, self.prepared.call
        samples = np.empty(calls, np.int64)
        for index in range(calls):
            start = clock()
            call()
            samples[index] = clock() - start
        return samples / 1000


def _peak_mib() -> float | None:
    """The most memory that this process ever held; none where the system does not tell.

    Not from `getrusage`, which on Linux counts what the parent held when it forked, too.
    """
    status = Path("/proc/self/status")
    told = status.read_text().partition("VmHWM:")[2].split() if status.is_file() else []
    return int(told[0]) / 1024 if told else None


if __name__ == "__main__":
    main()
