"""The worker processes of a benchmark as their parent sees them: one per variant, timed round by round."""

import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
from msgspec.structs import asdict

from lstm_deploy.benchmark.statistics import Samples
from lstm_deploy.benchmark.variants import Variant
from lstm_deploy.benchmark.workloads import BenchCase
from lstm_deploy.contract import Array
from lstm_deploy.errors import InputError, LstmDeployError, ProviderError

SLICE_S = 0.003
"""How long a variant is timed in each round: neighbours on a shared machine come and go within tens of milliseconds."""
LONG_US = 50_000
"""Calls that take this long or longer need no warm-up calls in each round."""
OPENED = ("kind", "path", "provider", "settings", "contract", "origin")
"""The fields of a variant that its worker needs to open it."""


class WorkerProcess:
    """A process that holds one variant; the protocol is described in `worker`."""

    refusal: str

    def __init__(self, variant: Variant, threads: int) -> None:
        self.variant = variant
        self.refusal = ""
        """Why the case that was prepared last cannot run; empty where it can."""
        self.process: subprocess.Popen[str] = subprocess.Popen(
            [sys.executable, "-P", "-m", "lstm_deploy.benchmark.worker"],  # -P: nothing is imported from this directory
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the parent, which ends its workers
        )
        try:
            opened = {name: getattr(variant, name) for name in OPENED}
            self.load_s: float = self.ask(open={**opened, "threads": threads})["load_s"]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer; raises the error that the worker reports."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except OSError:  # EPIPE, or EINVAL on Windows: the process has died, and the missing answer says so
            pass
        line = self.process.stdout.readline()
        if not line:
            raise LstmDeployError(f"The process of {self.variant.name} ended unexpectedly; see its last output above.")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kinds = {kind.exit_code: kind for kind in (InputError, ProviderError)}
            raise kinds.get(answer["exit_code"], LstmDeployError)(answer["error"])
        return answer

    def prepare(self, case: BenchCase, warm_up_s: float) -> "Measurement | None":
        """Prepare a case and warm up for `warm_up_s` at most; none, with the reason in `refusal`, if it cannot run."""
        self.refusal = ""
        try:
            return Measurement(self, self.ask(case=asdict(case), warm_up_s=warm_up_s))
        except LstmDeployError as error:
            if not isinstance(error, InputError) and not self.variant.may_fail:
                raise
            self.refusal = str(error)
            return None


class Measurement:
    """The samples of one variant in one case, round by round."""

    worker: WorkerProcess
    variant: Variant
    calls: int

    def __init__(self, worker: WorkerProcess, prepared: dict[str, Any]) -> None:
        self.worker, self.variant = worker, worker.variant
        self.first_call_us: float = prepared["first_call_us"]
        self.y: Array = np.array(prepared["y"], np.float64)  # None becomes NaN
        self.calls = max(1, int(SLICE_S * 1e6 / prepared["call_us"]))
        # Other processes ran in between; what that costs the first calls of a round is not measured.
        self.warm: int = math.ceil(self.calls / 10) if prepared["call_us"] < LONG_US else 0
        self.round_s: float = (self.calls + self.warm) * prepared["call_us"] / 1e6
        self.rounds: list[Samples] = []

    def run_round(self) -> None:
        """Time one round, in microseconds."""
        self.rounds.append(np.array(self.worker.ask(calls=self.calls, warm=self.warm)["samples_us"]))
