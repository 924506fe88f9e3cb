"""Latency of artifacts and baselines, interleaved in one run, each in a process of its own.

Every round times all variants for a few milliseconds each, in a new random order, so that a machine that slows down
affects them all; ratios are taken within rounds. The baseline runs a second time as an A/A control: a difference that
is smaller than between these two is noise.
"""

import os
import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import asdict, replace

from lstm_deploy.artifacts import Bundle, as_path, environment, format_value, restore, scratch_folder, several
from lstm_deploy.benchmark import peaks, roofline
from lstm_deploy.benchmark.bench_report import BenchReport
from lstm_deploy.benchmark.plan import Plan, check_plan
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
from lstm_deploy.benchmark.variants import BASELINES, Selection, Variant, variants_of
from lstm_deploy.benchmark.worker_process import Measurement, WorkerProcess
from lstm_deploy.benchmark.workloads import BenchCase
from lstm_deploy.errors import InputError, LstmDeployError, machine_limits, without_effect
from lstm_deploy.progress import OnProgress, silent
from lstm_deploy.runtimes import check_provider

if TYPE_CHECKING:
    from torch import nn

    from lstm_deploy.lifting import Origin

CASE_S = 10.0
"""How long a case takes at most, unless `LEAST_ROUNDS` take longer."""
UNSTABLE = 0.05
"""Width of a median's interval to either side, as a fraction of the median, above which a row gets a warning."""
CONTROL = "again"
"""Follows the name of the baseline in that of its A/A control."""
WRONG = 1e-3
"""Relative difference from the baseline above which a float32 variant gets a warning; no proof, so not one of
`validation.tolerances`, whose figures are for artifacts."""
SEQ_LEN = 100
"""Steps of a sequence, where the model does not fix them."""


USUAL = Plan()


@machine_limits()
def bench(
    targets: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    plan: Plan = USUAL,
    *,
    reference: "nn.Module | Origin | str | os.PathLike[str] | None" = None,
    on_progress: OnProgress = silent,
) -> BenchReport:
    """Time one or several bundles or single artifacts; returns the document of `bench --json`.

    `reference` is the model of the PyTorch baselines, for a bundle whose source is of a class of its own: its file, an
    `Origin`, or the live module, whose class lies in a file that other processes can import.

    Raises `InputError` for a wrong target or plan, for an artifact that has not been validated, and where nothing can
    be timed, and `ProviderError` for a provider that does not load; nothing runs elsewhere instead.
    """
    check_plan(plan)
    paths = [as_path(target) for target in several(targets)]
    if not paths:
        raise InputError("There is nothing to time; give a bundle or an artifact.")
    for path in paths:
        restore(path)
    for provider in plan.providers:
        check_provider(provider)  # before asking for a validation on it
    plan = replace(plan, seq_lens=plan.seq_lens or _fixed_lengths(paths))
    cases = _cases(plan)
    before = environment.state()
    results: list[dict[str, Any]] = []
    all_peaks: list[dict[str, Any]] = []
    with scratch_folder() as folder:
        origin = _origin(reference, plan, paths, folder)
        selection = Selection(plan.providers, plan.baselines, cases, plan.unvalidated, origin)
        on_progress(0, 1, "preparing")
        variants, left_out = variants_of(paths, selection, folder)
        progress = Progress(len(plan.threads) * len(cases) * plan.rounds, on_progress)
        for threads in plan.threads:
            with ExitStack() as stack:
                workers = _start(variants, threads, stack, left_out)
                workers += _start(_controls([worker.variant for worker in workers]), threads, stack, left_out)
                measured = _peaks(plan.providers, threads, left_out) if plan.roofline else {}
                all_peaks += measured.values()
                for case in cases:
                    results += _time_case(workers, case, plan, threads, progress, measured)
                    left_out += _refusals(workers, case)
    left_out = sorted({reason.removesuffix(".") for reason in left_out})
    if not results:
        raise InputError(f"Nothing can be timed: {'; '.join(left_out) or 'no artifact takes part in these scenarios'}.")
    return BenchReport(
        schema_version=SCHEMA_VERSION,
        environment=environment.describe(),
        state={"before": before, "after": environment.state()},
        plan={**asdict(plan), "targets": [path.name for path in paths]},
        peaks=all_peaks,
        left_out=left_out,
        results=results,
    )


class Progress:
    """Progress over all rounds."""

    total: int
    on_progress: OnProgress
    done: int

    def __init__(self, total: int, on_progress: OnProgress) -> None:
        self.total, self.done, self.on_progress = total, 0, on_progress

    def advance(self, case: BenchCase, rounds: int = 1) -> None:
        """Count rounds that are done, or that will not be needed."""
        self.done += rounds
        text = f"{case.scenario}, {case.scope.replace('_', ' ')}, batch {case.batch}, {case.seq_len} step(s)"
        self.on_progress(self.done, self.total, text)


def _refusals(workers: Sequence[WorkerProcess], case: BenchCase) -> list[str]:
    """The variants that cannot run a case, and why; a reason that all share is given once."""
    taking_part = [worker for worker in workers if worker.variant.takes_part(case) and not worker.variant.control]
    names: dict[str, list[str]] = {}
    for worker in taking_part:
        if worker.refusal:
            names.setdefault(worker.refusal, []).append(worker.variant.name)
    return [
        f"{case.scenario}: {reason}"
        if len(refusing) == len(taking_part) > 1
        else f"{', '.join(refusing)}, {case.scenario}: {reason}"
        for reason, refusing in names.items()
    ]


def _peaks(providers: Sequence[str], threads: int, left_out: list[str]) -> dict[str, dict[str, Any]]:
    """The peak rates of the machine by provider; a failure to measure them does not end the run."""
    measured = {}
    for provider in dict.fromkeys(providers):
        try:
            measured[provider] = peaks.measure(provider, threads)
        except LstmDeployError as error:
            left_out.append(f"limits of {provider}: {error}")
    return measured


def _origin(reference: Any, plan: Plan, targets: Sequence[Path], folder: Path) -> str:
    """JSON of the `Origin` of a reference; a live module is saved to `folder`."""
    if reference is None:
        return ""
    if len(targets) > 1:
        raise InputError("--reference is the model of one bundle; time the others separately.")
    if not targets[0].is_dir():
        raise without_effect("--reference", f"on {targets[0]}, which is no bundle and has no baselines")
    if not any(BASELINES[name].needs_source for name in plan.baselines):
        raise without_effect("--reference", "without a --baseline that is made from it, such as eager")
    from lstm_deploy.lifting import Origin, origin_to_json, sources

    if isinstance(reference, str | os.PathLike):
        reference = Origin(path=as_path(reference))
    origin = reference if isinstance(reference, Origin) else sources.save_module(reference, folder)
    if not origin.path.is_file():
        raise InputError(f"{origin.path} is no file; give the checkpoint or the weights of the model with --reference.")
    return origin_to_json(origin)


def _fixed_lengths(targets: Sequence[Path]) -> tuple[int, ...]:
    """Steps of a call where none are requested: those that the bundles fix, else `SEQ_LEN`."""
    fixed = set()
    for target in targets:
        if target.is_dir():
            signature = Bundle(target).signature
            if signature.one_step:
                fixed.add(1)
                continue
            if size := signature.fixed_size("seq"):
                fixed.add(size)
            fixed |= {dim for dim in signature.inputs[0].shape[1:2] if isinstance(dim, int)}  # [batch, 10, features]
    return tuple(sorted(fixed)) or (SEQ_LEN,)


def _cases(plan: Plan) -> list[BenchCase]:
    return [
        BenchCase(scenario=scenario, scope=scope, batch=batch, seq_len=seq_len)
        for scenario in dict.fromkeys(plan.scenarios)
        for scope in dict.fromkeys(plan.scopes)
        if (scenario, scope) != ("rollout", "resident")
        for batch in dict.fromkeys(plan.batches)
        for seq_len in ((1,) if scenario == "stream" else dict.fromkeys(plan.seq_lens))
    ]


def _start(variants: Sequence[Variant], threads: int, stack: ExitStack, left_out: list[str]) -> list[WorkerProcess]:
    """A process for each variant; those that may fail, and do, are left out."""
    workers = []
    for variant in variants:
        try:
            workers.append(WorkerProcess(variant, threads))
        except LstmDeployError as error:
            if not variant.may_fail:
                raise
            left_out.append(f"{variant.name}: {error}")
        else:
            stack.callback(workers[-1].close)
    return workers


def _controls(variants: Sequence[Variant]) -> list[Variant]:
    """The A/A controls: the baselines a second time."""
    baselines = _baselines(variants).values()
    return [replace(variant, name=f"{variant.name} {CONTROL}", control=True) for variant in baselines]


def _baselines(variants: Sequence[Variant]) -> dict[tuple[str, str], Variant]:
    """The variants that ratios refer to: the first of each group on each provider, other than the null model."""
    baselines: dict[tuple[str, str], Variant] = {}
    for variant in variants:
        if variant.kind != "floor":
            baselines.setdefault((variant.group, variant.provider), variant)
    return baselines


def _time_case(
    workers: Sequence[WorkerProcess],
    case: BenchCase,
    plan: Plan,
    threads: int,
    progress: Progress,
    measured_peaks: Mapping[str, dict[str, Any]],
) -> list[dict[str, Any]]:
    taking_part = [worker for worker in workers if worker.variant.takes_part(case)]
    measurements = [measurement for worker in taking_part if (measurement := worker.prepare(case, CASE_S / 5))]
    order = random.Random(plan.seed)
    rounds = plan.rounds
    if round_s := sum(measurement.round_s for measurement in measurements):
        rounds = min(rounds, max(LEAST_ROUNDS, int(CASE_S / round_s)))
    for _ in range(rounds):
        for measurement in order.sample(measurements, len(measurements)):
            measurement.run_round()
        progress.advance(case)
    progress.advance(case, plan.rounds - rounds)
    baselines = _baselines([measurement.variant for measurement in measurements if not measurement.variant.control])
    by_name = {measurement.variant.name: measurement for measurement in measurements}
    rows = []
    for measurement in measurements:
        variant = measurement.variant
        baseline = baselines.get((variant.group, variant.provider))
        reference = by_name[baseline.name] if baseline else None
        control = by_name.get(f"{baseline.name} {CONTROL}") if baseline else None
        row = _row(measurement, reference, control, case, threads)
        rows.append(row | _limits(variant, case, row["p50_us"], measured_peaks.get(variant.provider)))
    return rows


def _row(
    measurement: Measurement,
    baseline: Measurement | None,
    control: Measurement | None,
    case: BenchCase,
    threads: int,
) -> dict[str, Any]:
    variant, rounds = measurement.variant, measurement.rounds
    p50, interval = median_of_medians(rounds), median_interval(rounds)
    ratio_to_baseline, ratio_interval = ratio(rounds, baseline.rounds) if baseline else (None, None)
    noise = noise_floor(control.rounds, baseline.rounds) if control and baseline else None
    state = measurement.worker.ask(state=True)
    comparable = baseline is not None and variant.gives_what(baseline.variant)
    row = {
        "variant": variant.name,
        "group": variant.group,
        "kind": variant.kind,
        "artifact": variant.artifact,
        "provider": variant.provider,
        "active": state["active"],
        "precision": variant.precision,
        "settings": variant.settings,
        "again": variant.control,
        **asdict(case),
        "threads": threads,
        "p50_us": p50,
        "p50_interval_us": interval,
        "p90_us": percentile(rounds, 90),
        "p99_us": percentile(rounds, 99),
        "steps_per_s": case.batch * case.seq_len * 1e6 / p50,
        "baseline": baseline.variant.name if baseline else None,
        "ratio_to_baseline": ratio_to_baseline,
        "ratio_interval": ratio_interval,
        "noise_floor": noise,
        "verdict": verdict(ratio_interval, noise) if ratio_interval and noise is not None else None,
        "error": _error(measurement.y, baseline.y) if baseline and comparable else None,
        "load_s": measurement.worker.load_s,
        "first_call_us": measurement.first_call_us,
        "peak_mib": state["peak_mib"],
        "calls": measurement.calls * len(rounds),
        "round_medians_us": [float(np.median(samples)) for samples in rounds],
        "samples_us": [samples.tolist() for samples in rounds],
    }
    return {**row, "warnings": _warnings(row, comparable=comparable)}


def _warnings(row: dict[str, Any], *, comparable: bool) -> list[str]:
    warnings = []
    low, high = row["p50_interval_us"]
    if max(high - row["p50_us"], row["p50_us"] - low) > UNSTABLE * row["p50_us"]:
        remedy = "close other programs, or give more --rounds"
        warnings.append(f"{UNSTABLE_SAYS} {format_value(low)} and {format_value(high)} µs; {remedy}.")
    error = row["error"]
    if error is None and comparable:
        warnings.append("Its outputs cannot be compared with the baseline's; run lstm-deploy validate.")
    elif error is not None and row["precision"] == "float32" and "tf32" not in row["settings"] and error > WRONG:
        warnings.append(f"Its outputs differ from the baseline's by {error:.1%}; run lstm-deploy validate.")
    return warnings


def _limits(variant: Variant, case: BenchCase, p50_us: float, measured: Mapping[str, Any] | None) -> dict[str, Any]:
    """The least time that the machine allows, and the fraction of its speed that is reached."""
    limit = None
    if measured is not None and variant.work is not None:
        chained = case.scenario == "rollout"
        limit = roofline.limit_of(variant.work, measured, batch=case.batch, seq_len=case.seq_len, chained=chained)
    values = (limit.us / p50_us, limit.name, limit.us, limit.operations, limit.bytes) if limit else [None] * 5
    return dict(zip(("roofline_fraction", "limit", "limit_us", "operations", "bytes"), values, strict=True))


def _error(y: Samples, expected: Samples) -> float | None:
    """The largest difference, relative to the range of the expected values; none where they are not comparable."""
    if y.shape != expected.shape or not (np.isfinite(y).all() and np.isfinite(expected).all()):
        return None
    size = float(np.ptp(expected)) if expected.size else 0.0
    return float(np.abs(y - expected).max(initial=0)) / (size or 1.0)
