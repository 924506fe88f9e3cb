"""A process that runs one artifact and times it when told to.

Each variant of a benchmark has a process of its own, so that the threads, allocator and memory of one do not
disturb another, and so that timing an ONNX file never imports PyTorch. Requests and answers are lines of JSON
on standard input and output:

    {"open": {"kind": "onnx", "path": …, "provider": "cpu", "threads": 1}}   ->  {"load_s": …}
    {"case": {"scenario": "stream", "batch": 1, "seq_len": 1}}               ->  {"first_call_us": …, "call_us": …}
    {"calls": 100}                                                            ->  {"samples_us": […]}

What goes wrong is answered as {"error": …, "exit_code": …}.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lstm_deploy.bundle import Bundle
from lstm_deploy.errors import InputError, LstmDeployError, one_line
from lstm_deploy.runtimes import Runtime, open_runtime
from lstm_deploy.sampling import sample_inputs, sizes_of
from lstm_deploy.streaming import StateStream

WARM_UP_S = 0.1


def main() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to standard error
    timed: Timed | None = None
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any]
        try:
            if "open" in request:
                start = time.perf_counter()
                timed = Timed(_open(**request["open"]))
                answer = {"load_s": time.perf_counter() - start}
            elif timed is None:
                raise LstmDeployError("Nothing is open.")
            elif "case" in request:
                answer = timed.prepare(**request["case"])
            else:
                answer = {"samples_us": timed.measure(request["calls"]).tolist()}
        except Exception as error:  # the parent decides what to do with it
            known = isinstance(error, LstmDeployError)
            text = str(error) if known else f"{type(error).__name__}: {one_line(error)}"
            answer = {
                "error": text,
                "exit_code": error.exit_code if isinstance(error, LstmDeployError) else 1,
            }
        print(json.dumps(answer), file=answers, flush=True)


class Timed:
    """A runtime with one prepared call."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.call: Callable[[], object] = lambda: None

    def prepare(self, scenario: str, batch: int, seq_len: int) -> dict[str, float]:
        """Make the buffers of a case, and run it until it is warm."""
        signature, rng = self.runtime.signature, np.random.default_rng(0)
        sizes = signature.clamp(sizes_of(signature.inputs, batch, seq_len))
        for name, asked in (("batch", batch), ("seq", seq_len)):
            if sizes[name] != asked:
                raise InputError(f"A call of this model has {name} {sizes[name]}, not {asked}; ask for that.")
        inputs = sample_inputs(signature.inputs, sizes, rng)
        if scenario == "stream":
            stream = StateStream(self.runtime, batch)
            spec = signature.inputs[0]
            x = inputs[spec.name].squeeze(stream.time_axis)
            step = stream.step
            self.call = lambda: step(x)
        else:
            recurrence = self.runtime.recur(batch, seq_len)
            for name, value in inputs.items():
                recurrence.inputs[name][...] = value
            self.call = recurrence.step
        first = self.measure(1)[0]
        warm: list[float] = []
        start = time.perf_counter()
        while time.perf_counter() - start < WARM_UP_S or len(warm) < 3:
            warm += self.measure(1).tolist()
        return {"first_call_us": float(first), "call_us": float(np.median(warm[len(warm) // 2 :]))}

    def measure(self, calls: int) -> Any:
        """Time that many calls, each on its own: microseconds."""
        clock, call = time.perf_counter_ns, self.call
        samples = np.empty(calls, np.int64)
        for index in range(calls):
            start = clock()
            call()
            samples[index] = clock() - start
        return samples / 1000


def _open(kind: str, path: str, provider: str, threads: int) -> Runtime:
    if kind != "eager":
        runtime = open_runtime(Path(path), provider, threads)
        if runtime.signature.rollout:
            raise InputError(f"{path} is a rollout, whose calls make many steps; give the model's own artifact.")
        return runtime
    from lstm_deploy import sources
    from lstm_deploy.runtimes.torchrt import EagerRuntime

    loaded = sources.load_source_of(Bundle(path))
    if loaded is None:
        raise InputError(f"The source of {path} is not there any more; leave out the baseline with --baseline none.")
    return EagerRuntime(loaded.lifted, provider, threads)


if __name__ == "__main__":
    main()
