"""Latency of artifacts and baselines, interleaved in one run, each in a process of its own.

Every round visits all variants in a fresh random order, for a few milliseconds each, so that a machine that slows down
slows all alike; ratios are taken within rounds. The baseline runs twice, under two names: what differs by less than
those two do is no difference.
"""

import os
import random
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct
from msgspec.structs import asdict, replace

from lstm_deploy.artifacts import Bundle, environment, format_value
from lstm_deploy.benchmark import peaks, roofline
from lstm_deploy.benchmark.statistics import (
    LEAST_ROUNDS,
    Samples,
    median_interval,
    median_of_medians,
    noise_floor,
    percentile,
    ratio,
    verdict,
)
from lstm_deploy.benchmark.tables import SCHEMA_VERSION, UNSTABLE_SAYS
from lstm_deploy.benchmark.timing import Timing, Worker
from lstm_deploy.benchmark.variants import BASELINES, Variant, Wanted, variants_of
from lstm_deploy.benchmark.workloads import SCENARIOS, SCOPES, Case
from lstm_deploy.errors import InputError, LstmDeployError, machine_limits
from lstm_deploy.runtimes import PROVIDERS, check_provider

if TYPE_CHECKING:
    from lstm_deploy.lifting import Origin

CASE_S = 10.0
"""How long a case takes at most, unless the fewest rounds take longer."""
UNSTABLE = 0.05
"""Part of a figure that its interval may reach to either side; beyond it the row is marked."""
TWIN = "again"
"""What follows the name of a baseline that is timed a second time."""
WRONG = 1e-3
"""Relative difference from the baseline above which a float32 variant is warned of; no proof, so not one of
`validation.tolerances`, whose figures are for artifacts."""
SEQ_LEN = 100
"""Steps of a sequence, where the model takes any number."""


OnProgress = Callable[[int, int, str], None]


class Plan(Struct, frozen=True, kw_only=True):
    """What to measure."""

    scenarios: tuple[str, ...] = ("stream", "sequence")
    """`stream`: one step a call, state carried; `sequence`: many; `rollout`: the model fed with its own outputs."""
    scopes: tuple[str, ...] = SCOPES
    """`end_to_end`: from the caller's arrays to the caller's arrays; `resident`: all stays where it is computed."""
    batches: tuple[int, ...] = (1, 32)
    seq_lens: tuple[int, ...] = ()
    """Steps of a sequence, and of a rollout; none for what a model fixes, else 100. A stream takes one step a call."""
    threads: tuple[int, ...] = (1,)
    providers: tuple[str, ...] = ("cpu",)
    baselines: tuple[str, ...] = ("eager", "eager-no-onednn", "floor")
    """See `variants.BASELINES`. The first that runs is what ratios refer to; without any, the first artifact is."""
    rounds: int = 150
    """At most; where calls are slow, as many as fit into `CASE_S`."""
    seed: int = 0
    roofline: bool = True
    """Whether to measure what the machine can do."""
    unvalidated: bool = False
    """Whether to time artifacts that have not passed `validate`."""


@machine_limits()
def bench(
    targets: "Sequence[str | os.PathLike[str]]",
    plan: Plan,
    on_progress: OnProgress = lambda *_: None,
    reference: "Origin | None" = None,
) -> dict[str, Any]:
    """Time bundles or single artifacts; the result is the document of `bench --json`.

    `reference` says whose class the baselines of PyTorch are, where a bundle cannot tell that by itself.

    Raises `InputError` for a target or plan that is wrong, for an artifact that has not been validated, and where
    nothing can be timed, and `ProviderError` for a provider that does not load; nothing runs elsewhere instead.
    """
    _check(plan)
    paths = [Path(target) for target in targets]
    if reference is not None and len(paths) > 1:
        raise InputError("--reference is the model of one bundle; time the others apart.")
    if reference is not None and not reference.path.is_file():
        raise InputError(f"{reference.path} does not exist or is not a file; check --reference.")
    for provider in plan.providers:
        check_provider(provider)  # before anything is said of what must be validated on it
    plan = replace(plan, seq_lens=plan.seq_lens or _own_lengths(paths))
    cases = _cases(plan)
    before = environment.state()
    results: list[dict[str, Any]] = []
    found_peaks: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        wanted = Wanted(plan.providers, plan.baselines, cases, plan.unvalidated, _origin(reference))
        on_progress(0, 1, "preparing")
        variants, left_out = variants_of(paths, wanted, Path(folder))
        steps = Steps(len(plan.threads) * len(cases) * plan.rounds, on_progress)
        for threads in plan.threads:
            with ExitStack() as stack:
                workers = _opened(variants, threads, stack, left_out)
                workers += _opened(_twins([worker.variant for worker in workers]), threads, stack, left_out)
                if plan.roofline:
                    found_peaks += _peaks(plan.providers, threads, left_out)
                for case in cases:
                    results += _time_case(workers, case, plan, threads, steps, found_peaks)
                    left_out += _refused(workers, case)
    left_out = sorted({reason.removesuffix(".") for reason in left_out})
    if not results:
        raise InputError(f"Nothing can be timed: {'; '.join(left_out) or 'no artifact takes part in these scenarios'}.")
    return {
        "schema_version": SCHEMA_VERSION,
        "environment": environment.describe(),
        "state": {"before": before, "after": environment.state()},
        "plan": {**asdict(plan), "targets": [path.name for path in paths]},
        "peaks": found_peaks,
        "left_out": left_out,
        "results": results,
    }


def without_samples(document: dict[str, Any]) -> dict[str, Any]:
    """The same without each single call: what a bundle keeps."""
    rows = [{name: value for name, value in row.items() if name != "samples_us"} for row in document["results"]]
    return {**document, "results": rows}


class Steps:
    """Progress over all rounds."""

    def __init__(self, total: int, on_progress: OnProgress) -> None:
        self.total, self.done, self.on_progress = total, 0, on_progress

    def take(self, case: Case, rounds: int = 1) -> None:
        """So many rounds are done, or need not be done."""
        self.done += rounds
        what = f"{case.scenario}, {case.scope.replace('_', ' ')}, batch {case.batch}, {case.seq_len} step(s)"
        self.on_progress(self.done, self.total, what)


def _refused(workers: Sequence[Worker], case: Case) -> list[str]:
    """Who does not take part in a case, and why; a reason that all share is told once."""
    names: dict[str, list[str]] = {}
    for worker in workers:
        if worker.refusal and worker.variant.takes_part(case) and not worker.variant.twin:
            names.setdefault(worker.refusal, []).append(worker.variant.name)
    everybody = sum(worker.variant.takes_part(case) and not worker.variant.twin for worker in workers)
    return [
        f"{case.scenario}: {reason}" if len(who) == everybody > 1 else f"{', '.join(who)}, {case.scenario}: {reason}"
        for reason, who in names.items()
    ]


def _peaks(providers: Sequence[str], threads: int, left_out: list[str]) -> list[dict[str, Any]]:
    """What the machine can do on each provider; where that cannot be measured, the figures stand without it."""
    found = []
    for provider in dict.fromkeys(providers):
        try:
            found.append(peaks.measure(provider, threads))
        except LstmDeployError as error:
            left_out.append(f"limits of {provider}: {error}")
    return found


def _origin(reference: "Origin | None") -> str:
    if reference is None:
        return ""
    from lstm_deploy.lifting import origin_to_json

    return origin_to_json(reference)


def _check(plan: Plan) -> None:
    for name, values, known in (
        ("scenario", plan.scenarios, SCENARIOS),
        ("scope", plan.scopes, SCOPES),
        ("baseline", plan.baselines, tuple(BASELINES)),
        ("provider", plan.providers, PROVIDERS),
    ):
        if unknown := [value for value in values if value not in known]:
            raise InputError(f"{unknown[0]!r} is not a {name}; choose from {', '.join(known)}.")
    for name, numbers in (("batch", plan.batches), ("seq-len", plan.seq_lens), ("threads", plan.threads)):
        if any(number < 1 for number in numbers):
            raise InputError(f"--{name} must be 1 or more.")
    if plan.rounds < LEAST_ROUNDS:
        raise InputError(
            f"--rounds must be {LEAST_ROUNDS} or more: fewer say nothing of how far a figure can be trusted."
        )


def _own_lengths(targets: Sequence[Path]) -> tuple[int, ...]:
    """Steps of a call where nobody asks for a number: those that the bundles fix, else `SEQ_LEN`."""
    fixed = set()
    for target in targets:
        if target.is_dir():
            signature = Bundle(target).signature
            fixed |= {dim.size for dim in signature.fixed if dim.name == "seq"}
            fixed |= {dim for dim in signature.inputs[0].shape[1:2] if isinstance(dim, int)}  # [batch, 10, features]
    return tuple(sorted(fixed)) or (SEQ_LEN,)


def _cases(plan: Plan) -> list[Case]:
    sizes = {
        "stream": [(batch, 1) for batch in plan.batches],
        "sequence": [(batch, seq_len) for batch in plan.batches for seq_len in plan.seq_lens],
    }
    sizes["rollout"] = sizes["sequence"]
    return [
        Case(scenario=scenario, scope=scope, batch=batch, seq_len=seq_len)
        for scenario in dict.fromkeys(plan.scenarios)
        for scope in dict.fromkeys(plan.scopes)
        if (scenario, scope) != ("rollout", "resident")
        for batch, seq_len in dict.fromkeys(sizes[scenario])
    ]


def _opened(variants: Sequence[Variant], threads: int, stack: ExitStack, left_out: list[str]) -> list[Worker]:
    """A process for each variant; those that may fail, and do, are left out."""
    workers = []
    for variant in variants:
        try:
            workers.append(stack.enter_context(Worker(variant, threads)))
        except LstmDeployError as error:
            if not variant.may_fail:
                raise
            left_out.append(f"{variant.name}: {error}")
    return workers


def _twins(variants: Sequence[Variant]) -> list[Variant]:
    """What ratios refer to, once more."""
    return [replace(variant, name=f"{variant.name} {TWIN}", twin=True) for variant in _references(variants).values()]


def _references(variants: Sequence[Variant]) -> dict[tuple[str, str], Variant]:
    """What ratios refer to: the first variant of each group on each provider."""
    references: dict[tuple[str, str], Variant] = {}
    for variant in variants:
        if variant.kind != "floor":
            references.setdefault((variant.group, variant.provider), variant)
    return references


def _time_case(
    workers: Sequence[Worker],
    case: Case,
    plan: Plan,
    threads: int,
    steps: Steps,
    found_peaks: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    taking_part = [worker for worker in workers if worker.variant.takes_part(case)]
    timings = [timing for worker in taking_part if (timing := worker.prepare(case, CASE_S / 5))]
    order = random.Random(plan.seed)
    rounds = plan.rounds
    if once := sum(timing.round_s for timing in timings):
        rounds = min(rounds, max(LEAST_ROUNDS, int(CASE_S / once)))
    for _ in range(rounds):
        for timing in order.sample(timings, len(timings)):
            timing.measure()
        steps.take(case)
    if rounds < plan.rounds:
        steps.take(case, plan.rounds - rounds)
    own = [timing.variant for timing in timings if not timing.variant.twin]
    references = {key: variant.name for key, variant in _references(own).items()}
    by_name = {timing.variant.name: timing for timing in timings}
    rows = []
    for timing in timings:
        variant = timing.variant
        reference = by_name.get(references.get((variant.group, variant.provider), ""))
        twin = by_name.get(f"{reference.variant.name} {TWIN}") if reference else None
        row = _row(timing, reference, twin, case, threads)
        known = [p for p in found_peaks if (p["provider"], p["threads"]) == (variant.provider, threads)]
        rows.append({**row, **_limits(variant, case, row["p50_us"], known[-1] if known else None)})
    return rows


def _row(timing: Timing, reference: Timing | None, twin: Timing | None, case: Case, threads: int) -> dict[str, Any]:
    variant, rounds = timing.variant, timing.rounds
    p50, interval = median_of_medians(rounds), median_interval(rounds)
    times, times_interval = ratio(rounds, reference.rounds) if reference else (None, None)
    floor = noise_floor(twin.rounds, reference.rounds) if twin and reference else None
    state = timing.worker.ask(state=True)
    error = None if variant.kind == "floor" or not reference else _error(timing.y, reference.y)
    row = {
        "variant": variant.name,
        "group": variant.group,
        "kind": variant.kind,
        "artifact": variant.artifact,
        "provider": variant.provider,
        "active": state["active"],
        "precision": variant.precision,
        "settings": variant.settings,
        "again": variant.twin,
        **asdict(case),
        "threads": threads,
        "p50_us": p50,
        "p50_interval_us": interval,
        "p90_us": percentile(rounds, 90),
        "p99_us": percentile(rounds, 99),
        "steps_per_s": case.batch * case.seq_len * 1e6 / p50,
        "baseline": reference.variant.name if reference else None,
        "ratio_to_baseline": times,
        "ratio_interval": times_interval,
        "noise_floor": floor,
        "verdict": verdict(times_interval, floor) if times_interval and floor is not None else None,
        "error": error,
        "load_s": timing.worker.load_s,
        "first_call_us": timing.first_call_us,
        "peak_mib": state["peak_mib"],
        "calls": timing.calls * len(rounds),
        "round_medians_us": [float(np.median(samples)) for samples in rounds],
        "samples_us": [samples.tolist() for samples in rounds],
    }
    return {**row, "warnings": _warnings(row, compared=bool(reference) and variant.kind != "floor")}


def _warnings(row: dict[str, Any], *, compared: bool) -> list[str]:
    found = []
    low, high = row["p50_interval_us"]
    if max(high - row["p50_us"], row["p50_us"] - low) > UNSTABLE * row["p50_us"]:
        found.append(
            f"{UNSTABLE_SAYS} {format_value(low)} and {format_value(high)} µs; close other programs, or give more "
            "--rounds."
        )
    error = row["error"]
    if error is None and compared:
        found.append("Its outputs cannot be compared with the baseline's; run lstm-deploy validate.")
    elif error is not None and row["precision"] == "float32" and "tf32" not in row["settings"] and error > WRONG:
        found.append(f"Its outputs differ from the baseline's by {error:.1%}; run lstm-deploy validate.")
    return found


def _limits(variant: Variant, case: Case, p50_us: float, known: dict[str, Any] | None) -> dict[str, Any]:
    """What the hardware allows, and the part of it that is reached."""
    nothing = {"roofline_fraction": None, "limit": None, "limit_us": None, "operations": None, "bytes": None}
    if known is None or variant.work is None:
        return nothing
    chained = case.scenario == "rollout"
    limit = roofline.limit_of(variant.work, known, batch=case.batch, seq_len=case.seq_len, chained=chained)
    if limit is None:
        return nothing
    return {
        "roofline_fraction": limit.us / p50_us,
        "limit": limit.name,
        "limit_us": limit.us,
        "operations": limit.operations,
        "bytes": limit.bytes,
    }


def _error(y: Samples, reference: Samples) -> float | None:
    """The largest difference as a part of how far the values reach; none where they cannot be compared."""
    if y.shape != reference.shape or not (np.isfinite(y).all() and np.isfinite(reference).all()):
        return None
    size = float(np.ptp(reference)) if reference.size else 0.0
    return float(np.abs(y - reference).max(initial=0)) / (size or 1.0)
