"""Latency of artifacts and baselines, interleaved in one run, each in a process of its own.

Every round visits all variants in a fresh random order, so that a machine that slows down slows all alike;
ratios are taken within rounds.
"""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import asdict

from lstm_deploy import environment
from lstm_deploy.bundle import Bundle
from lstm_deploy.errors import InputError, LstmDeployError, ProviderError
from lstm_deploy.runtimes import NO_KERNEL, PROVIDERS
from lstm_deploy.statistics import Samples, median_of_medians, percentile, ratio, spread

SCHEMA_VERSION = 1
SCENARIOS = ("stream", "sequence")
BASELINES = ("eager",)
ROUND_S = 0.05
"""How long a variant is timed in each round."""
CALLS_PER_ROUND = (5, 2000)
UNSTABLE = 0.1
"""Spread of the rounds above which a row is marked."""

OnProgress = Callable[[int, int, str], None]


class Plan(Struct, frozen=True, kw_only=True):
    """What to measure."""

    scenarios: tuple[str, ...] = SCENARIOS
    batches: tuple[int, ...] = (1, 32)
    seq_lens: tuple[int, ...] = (100,)
    """Of the scenario `sequence`; a stream always takes one step a call."""
    threads: tuple[int, ...] = (1,)
    providers: tuple[str, ...] = ("cpu",)
    baselines: tuple[str, ...] = BASELINES
    """The first one that can be run here is what ratios refer to."""
    rounds: int = 9
    seed: int = 0


class Variant(Struct, frozen=True, kw_only=True):
    """One thing to time."""

    name: str
    kind: str
    """`onnx`, `torchscript` or `eager`."""
    path: str
    artifact: str
    provider: str
    precision: str


class Case(Struct, frozen=True, kw_only=True):
    """One size to time everything at."""

    scenario: str
    batch: int
    seq_len: int


def bench(targets: Sequence[Path], plan: Plan, on_progress: OnProgress = lambda *_: None) -> dict[str, Any]:
    """Time bundles or single artifacts; the result is the document of `bench --json`.

    Raises `InputError` for a target or plan that is wrong and `ProviderError` for a provider that does
    not load; nothing runs elsewhere instead.
    """
    _check(plan)
    variants, left_out = _variants(targets, plan)
    cases = _cases(plan)
    total = len(plan.threads) * len(cases) * plan.rounds
    done = 0
    results: list[dict[str, Any]] = []
    for threads in plan.threads:
        with ExitStack() as stack:
            workers = [stack.enter_context(Worker(variant, threads)) for variant in variants]
            for case in cases:
                timings = [Timing(worker) for worker in workers if worker.prepare(case)]
                left_out += [f"{w.variant.name}, {case.scenario}: {w.refusal}" for w in workers if w.refusal]
                order = random.Random(plan.seed)
                for _ in range(plan.rounds):
                    for timing in order.sample(timings, len(timings)):
                        timing.measure()
                    done += 1
                    on_progress(done, total, f"{case.scenario}, batch {case.batch}, {case.seq_len} step(s)")
                results += _rows(timings, case, threads)
    return {
        "schema_version": SCHEMA_VERSION,
        "environment": environment.describe(),
        "plan": {**asdict(plan), "targets": [target.name for target in targets]},
        "left_out": sorted(set(left_out)),
        "results": results,
    }


class Worker:
    """A process that holds one variant; see `worker` for what is said between them."""

    def __init__(self, variant: Variant, threads: int) -> None:
        self.variant = variant
        self.refusal = ""
        """Why the case last prepared cannot be run; empty where it can."""
        self.call_us = 0.0
        self.first_call_us = 0.0
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lstm_deploy.worker"],  # -P: what lies in this directory is not imported
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
        except BrokenPipeError:
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

    def prepare(self, case: Case) -> bool:
        """Get ready for a case; false, with the reason in `refusal`, if the model cannot do it."""
        self.refusal = ""
        try:
            answer = self.ask(case=asdict(case))
        except InputError as error:
            self.refusal = str(error)
            return False
        self.call_us, self.first_call_us = answer["call_us"], answer["first_call_us"]
        return True


class Timing:
    """The samples of one variant in one case, round by round."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        low, high = CALLS_PER_ROUND
        self.calls = int(min(high, max(low, ROUND_S * 1e6 / worker.call_us)))
        self.rounds: list[Samples] = []

    def measure(self) -> None:
        """One round."""
        self.rounds.append(np.array(self.worker.ask(calls=self.calls)["samples_us"]))


def _check(plan: Plan) -> None:
    for name, values, known in (
        ("scenario", plan.scenarios, SCENARIOS),
        ("baseline", plan.baselines, BASELINES),
        ("provider", plan.providers, PROVIDERS),
    ):
        if unknown := [value for value in values if value not in known]:
            raise InputError(f"{unknown[0]!r} is not a {name}; choose from {', '.join(known)}.")
    for name, numbers in (("batch", plan.batches), ("seq-len", plan.seq_lens), ("threads", plan.threads)):
        if any(number < 1 for number in numbers):
            raise InputError(f"--{name} must be 1 or more.")


def _variants(targets: Sequence[Path], plan: Plan) -> tuple[list[Variant], list[str]]:
    """Baselines first, then every artifact of every target on every provider; and what was left out, and why."""
    baselines, variants, left_out = [], [], []
    torch = find_spec("torch") is not None
    for target in targets:
        bundle = Bundle(target) if target.is_dir() else None
        prefix = f"{target.name}: " if len(targets) > 1 else ""
        files = (
            [(bundle.file(a), a.format, a.precision) for a in bundle.manifest.artifacts]
            if bundle
            else [(target, target.suffix.removeprefix("."), "float32")]
        )
        for provider in plan.providers:
            suffix = f" {provider}" if len(plan.providers) > 1 else ""
            for path, format_, precision in files:
                if why := NO_KERNEL.get((precision, provider)):
                    left_out.append(f"{path.name}: {why}")
                    continue
                if format_ == "torchscript" and not torch:
                    left_out.append(f"{path.name}: PyTorch is not installed")
                    continue
                variants.append(
                    Variant(
                        name=f"{prefix}{format_}{'' if precision == 'float32' else f' {precision}'}{suffix}",
                        kind=format_,
                        path=str(path),
                        artifact=path.name,
                        provider=provider,
                        precision=precision,
                    )
                )
            if "eager" in plan.baselines:
                source = bundle.source_path if bundle else None
                if source is None or not torch:
                    why = (
                        "PyTorch is not installed"
                        if not torch
                        else "the model is gone, or would have to run code of yours"
                    )
                    left_out.append(f"{prefix}eager: {why}")
                    continue
                baselines.append(
                    Variant(
                        name=f"{prefix}eager{suffix}",
                        kind="eager",
                        path=str(target),
                        artifact=source.name,
                        provider=provider,
                        precision="float32",
                    )
                )
    return baselines + variants, left_out


def _cases(plan: Plan) -> list[Case]:
    cases = []
    if "stream" in plan.scenarios:
        cases += [Case(scenario="stream", batch=batch, seq_len=1) for batch in plan.batches]
    if "sequence" in plan.scenarios:
        cases += [
            Case(scenario="sequence", batch=batch, seq_len=seq_len)
            for batch in plan.batches
            for seq_len in plan.seq_lens
        ]
    return cases


def _rows(timings: Sequence[Timing], case: Case, threads: int) -> list[dict[str, Any]]:
    baseline = next((timing for timing in timings if timing.worker.variant.kind == "eager"), None)
    rows = []
    for timing in timings:
        variant, rounds = timing.worker.variant, timing.rounds
        p50 = median_of_medians(rounds)
        times, interval = ratio(rounds, baseline.rounds) if baseline else (None, None)
        unstable = spread(rounds) > UNSTABLE
        rows.append(
            {
                "variant": variant.name,
                "artifact": variant.artifact,
                "provider": variant.provider,
                "precision": variant.precision,
                "scenario": case.scenario,
                "scope": "resident",
                "batch": case.batch,
                "seq_len": case.seq_len,
                "threads": threads,
                "p50_us": p50,
                "p90_us": percentile(rounds, 90),
                "p99_us": percentile(rounds, 99),
                "steps_per_s": case.batch * case.seq_len * 1e6 / p50,
                "ratio_to_baseline": times,
                "ratio_interval": interval,
                "roofline_fraction": None,  # not measured yet
                "load_s": timing.worker.load_s,
                "first_call_us": timing.worker.first_call_us,
                "calls": timing.calls * len(rounds),
                "round_medians_us": [float(np.median(samples)) for samples in rounds],
                "warnings": ["The rounds differ by more than 10 %; close other programs and run again."]
                if unstable
                else [],
            }
        )
    return rows
