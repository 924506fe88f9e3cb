"""The processes of a benchmark, as their parent sees them: one for each variant, timed round by round."""

import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
from msgspec.structs import asdict

from lstm_deploy.benchmark.statistics import Samples
from lstm_deploy.benchmark.variants import Variant
from lstm_deploy.benchmark.workloads import Case
from lstm_deploy.errors import InputError, LstmDeployError, ProviderError

SLICE_S = 0.003
"""How long a variant is timed in each round: neighbours on a shared machine come and go within tens of milliseconds."""

LONG_US = 50_000
"""Calls from here on are long enough to warm up by themselves."""


class Worker:
    """A process that holds one variant; see `worker` for what is said between them."""

    def __init__(self, variant: Variant, threads: int) -> None:
        self.variant = variant
        self.refusal = ""
        """Why the case last prepared cannot be run; empty where it can."""
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "lstm_deploy.benchmark.worker",
            ],  # -P: what lies in this directory is not imported
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the parent, which ends its workers
        )
        opened = {
            "kind": variant.kind,
            "path": variant.path,
            "provider": variant.provider,
            "threads": threads,
            "settings": variant.settings,
            "contract": variant.contract,
            "origin": variant.origin,
        }
        try:
            self.load_s = self.ask(open=opened)["load_s"]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except OSError:  # EPIPE, or EINVAL on Windows
            pass  # it died; the missing answer says so
        line = self.process.stdout.readline()
        if not line:
            raise LstmDeployError(
                f"The process that times {self.variant.name} ended by itself; look for its last words above."
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kinds = {kind.exit_code: kind for kind in (InputError, ProviderError)}
            raise kinds.get(answer["exit_code"], LstmDeployError)(answer["error"])
        return answer

    def prepare(self, case: Case, warm_up_s: float) -> "Timing | None":
        """Get ready for a case, and wait so long at most until calls are stable.

        None, with the reason in `refusal`, if that cannot be.
        """
        self.refusal = ""
        try:
            return Timing(self, self.ask(case=asdict(case), warm_up_s=warm_up_s))
        except LstmDeployError as error:
            if not isinstance(error, InputError) and not self.variant.may_fail:
                raise
            self.refusal = str(error)
            return None


class Timing:
    """The samples of one variant in one case, round by round."""

    def __init__(self, worker: Worker, prepared: dict[str, Any]) -> None:
        self.worker, self.variant = worker, worker.variant
        self.first_call_us: float = prepared["first_call_us"]
        self.y = np.array(prepared["y"], np.float64)  # None becomes NaN
        self.calls = max(1, int(SLICE_S * 1e6 / prepared["call_us"]))
        # Another process ran meanwhile; what that costs the next calls is not theirs.
        self.warm = math.ceil(self.calls / 10) if prepared["call_us"] < LONG_US else 0
        self.round_s = (self.calls + self.warm) * prepared["call_us"] / 1e6
        self.rounds: list[Samples] = []

    def measure(self) -> None:
        """One round."""
        self.rounds.append(np.array(self.worker.ask(calls=self.calls, warm=self.warm)["samples_us"]))
