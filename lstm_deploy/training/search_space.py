"""The hyper-parameters that a search tries, as Optuna's distributions. No PyTorch."""

from collections.abc import Collection, Mapping

from msgspec.structs import replace
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lstm_deploy.errors import InputError, did_you_mean
from lstm_deploy.training.recipe import Recipe, check_values, option_name

Distribution = FloatDistribution | IntDistribution | CategoricalDistribution
SearchSpace = Mapping[str, Distribution]
"""Distributions by field of the recipe."""
DEFAULT_SPACE: SearchSpace = {
    "learning_rate": FloatDistribution(3e-4, 2e-2, log=True),
    "hidden_size": CategoricalDistribution((32, 64, 128, 256)),
    "num_layers": IntDistribution(1, 3),
    "dropout": FloatDistribution(0.0, 0.5),
}
SEARCHABLE: dict[str, type[float] | type[int] | type[str]] = {
    **dict.fromkeys(("learning_rate", "weight_decay", "dropout", "clip"), float),
    **dict.fromkeys(("hidden_size", "num_layers", "batch_size", "window", "proj_size", "embedding_size"), int),
    **dict.fromkeys(("head_size", "warmup", "accumulate"), int),
    **dict.fromkeys(("cell", "optimizer", "schedule", "pooling"), str),
}
"""Fields that a search can vary, with their types. Others change the meaning of the loss."""


def make_search_space(ranges: Mapping[str, str], recipe: Recipe, fixed: Collection[str]) -> SearchSpace:
    """The space of `ranges` (by option: `LOW..HIGH`, `LOW..HIGH:log` or `A,B,C`), or the default one without `fixed`.

    Raises `InputError` for an option that cannot be searched, and for values that the recipe cannot have.
    """
    options = {option_name(field): field for field in SEARCHABLE}
    space: dict[str, Distribution] = {}
    for option, text in ranges.items():
        field = options.get(option.strip().removeprefix("--").replace("_", "-"))
        if field is None:
            raise InputError(f"--range {option} is not an option to search; {did_you_mean(option, options)}")
        try:
            space[field] = _distribution(SEARCHABLE[field], text)
        except ValueError as error:
            raise InputError(
                f"--range {option}={text} is not a range; write LOW..HIGH, LOW..HIGH:log (both above 0) or A,B,C."
            ) from error
    space = space or {field: values for field, values in DEFAULT_SPACE.items() if field not in fixed}
    if not space:
        raise InputError("All options that a search tries by default are given; name others with --range.")
    for field, values in space.items():
        for value in values.choices if isinstance(values, CategoricalDistribution) else (values.low, values.high):
            check_values(replace(recipe, **{field: value}))
    return space


def _distribution(kind: type[float] | type[int] | type[str], text: str) -> Distribution:
    """Raises `ValueError` for text that is not a range of that type."""
    values, log = text.removesuffix(":log"), text.endswith(":log")
    if ".." not in values:
        return CategoricalDistribution(tuple(kind(value.strip()) for value in values.split(",")))
    low, high = values.split("..")
    if kind is str or not 0 <= float(low) <= float(high) < float("inf"):
        raise ValueError
    if kind is int:
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(float(low), float(high), log=log)
