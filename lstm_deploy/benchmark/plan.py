"""The plan of a benchmark: which cases, on what, beside what."""

from msgspec import Struct, ValidationError, convert
from msgspec.structs import asdict, force_setattr

from lstm_deploy.artifacts import several
from lstm_deploy.benchmark.statistics import LEAST_ROUNDS
from lstm_deploy.benchmark.variants import BASELINES
from lstm_deploy.benchmark.workloads import SCENARIOS, SCOPES
from lstm_deploy.errors import InputError, check_known
from lstm_deploy.runtimes import PROVIDERS

SEVERAL = ("scenarios", "scopes", "batches", "seq_lens", "threads", "providers", "baselines")
"""The fields of a plan that hold several values."""


class Plan(Struct, frozen=True, kw_only=True):
    """What to measure."""

    scenarios: tuple[str, ...] = ("stream", "sequence")
    """`stream`: one step a call, state carried; `sequence`: many; `rollout`: the model fed with its own outputs."""
    scopes: tuple[str, ...] = SCOPES
    batches: tuple[int, ...] = (1, 32)
    seq_lens: tuple[int, ...] = ()
    """Steps of a sequence or a rollout; none for what the model fixes, else 100. A stream takes one step a call."""
    threads: tuple[int, ...] = (1,)
    providers: tuple[str, ...] = ("cpu",)
    baselines: tuple[str, ...] = ("eager", "eager-no-onednn", "floor")
    """See `variants.BASELINES`. Ratios refer to the first that runs; without any, to the first artifact."""
    rounds: int = 150
    """At most; where calls are slow, as many as fit into `CASE_S`."""
    seed: int = 0
    roofline: bool = True
    """Whether to measure the peak rates of the machine."""
    unvalidated: bool = False
    """Whether to time artifacts that have not passed `validate`."""

    def __post_init__(self) -> None:
        """Take one value, or a list of them, where there can be several."""
        for name in SEVERAL:
            force_setattr(self, name, several(getattr(self, name)))


def check_plan(plan: Plan) -> None:
    """Raise `InputError` for a value that cannot be measured, and for one that has no effect."""
    if not isinstance(plan, Plan):
        raise InputError(f"A plan is needed, not {plan!r}; give one such as lstm_deploy.Plan(batches=(1, 8)).")
    try:
        convert(asdict(plan), Plan, strict=True)
    except ValidationError as error:
        message, _, field = str(error).partition(" - at `$.")
        raise InputError(f"{field.rstrip('`')} of the plan: {message}; give another value.") from error
    for name, values, choices in (
        ("scenario", plan.scenarios, SCENARIOS),
        ("scope", plan.scopes, SCOPES),
        ("baseline", plan.baselines, tuple(BASELINES)),
        ("provider", plan.providers, PROVIDERS),
    ):
        for value in values:
            check_known(value, choices, f"a {name}")
    for name, numbers in (("batch", plan.batches), ("seq-len", plan.seq_lens), ("threads", plan.threads)):
        if any(number < 1 for number in numbers):
            raise InputError(f"--{name} must be 1 or more.")
    if plan.rounds < LEAST_ROUNDS:
        raise InputError(f"--rounds must be {LEAST_ROUNDS} or more: fewer do not show how reliable a figure is.")
