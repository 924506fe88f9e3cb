"""Parsing of option values: lists, numbers, pairs, the source of a network and its task."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lstm_deploy.cli.options import SourceOptions, TaskOptions
from lstm_deploy.errors import InputError

if TYPE_CHECKING:
    from lstm_deploy.contract import StatePolicy, Task
    from lstm_deploy.lifting import Origin


def origin(
    path: Path, source: SourceOptions, task: "Task | None" = None, state_policy: "StatePolicy | None" = None
) -> "Origin":
    """A file of weights, and how it becomes a network."""
    import json

    from lstm_deploy.contract import TensorSpec
    from lstm_deploy.lifting import Origin

    try:
        init = json.loads(source.init or "{}")
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"--init is not JSON ({error}); write it as '{{\"hidden\": 64}}'.") from error
    if not isinstance(init, dict):
        raise InputError("--init is not a JSON object; write it as '{\"hidden\": 64}'.")
    return Origin(
        path=path,
        model=source.model,
        init=init,
        weights_key=source.weights_key,
        inputs=tuple(map(TensorSpec.parse, listed(source.inputs))),
        trust_pickle=source.trust_pickle,
        task=task,
        state_policy=state_policy,
    )


def task_of(given: TaskOptions) -> "Task | None":
    """The task of a third-party model; none where no option names it."""
    from lstm_deploy.contract import Classify, Forecast, LanguageModel
    from lstm_deploy.training import read_vocabulary

    columns, classes, vocabulary = listed(given.features), listed(given.labels), given.vocabulary
    match given.task:
        case None:
            return None
        case "forecast":
            if not columns:
                raise InputError("--task forecast needs --features, the columns of x in order; add them.")
            if given.window is None:
                raise InputError("--task forecast needs --window, the rows that one example had; add it.")
            return Forecast(features=columns, targets=listed(given.target) or columns, window=given.window)
        case "lm":
            if vocabulary is None:
                raise InputError("--task lm needs --vocabulary, a file with what each token stands for; add it.")
            return LanguageModel(vocabulary=read_vocabulary(vocabulary, characters=True)[0])
    if vocabulary is None or not classes:
        raise InputError("--task classify needs --vocabulary, a file, and --labels; add them.")
    entries, unknown_token = read_vocabulary(vocabulary, characters=given.unit == "character")
    return Classify(labels=classes, vocabulary=entries, unit=given.unit, unknown=unknown_token)


def listed(texts: Sequence[str] | None) -> tuple[str, ...]:
    """The values of an option that takes several: between commas, or the option repeated, or both.

    A comma within brackets, as in `x:float32[batch,seq,40]`, separates nothing.
    """
    found = (part.strip() for text in texts or () for part in re.split(r",(?![^\[\]]*\])", text))
    return tuple(part for part in found if part)


def pairs(option: str, texts: Iterable[str]) -> dict[str, str]:
    """`NAME=VALUE` options by name."""
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise InputError(f"--{option} {text!r} is not NAME=VALUE; write it as --{option} h_in=state_h.")
        pairs[name] = value
    return pairs


def numbers(option: str, texts: Sequence[str] | None) -> dict[str, float]:
    """`NUMBER` for all outputs, or `OUTPUT=NUMBER` for one."""
    numbers = {}
    for text in listed(texts):
        name, equals, value = text.rpartition("=")
        try:
            numbers[name] = float(value if name or not equals else text)
        except ValueError as error:
            raise InputError(f"--{option} {text!r} is not a number; write 1e-4, or y=1e-4 for one output.") from error
    return numbers


def choices(option: str, texts: Sequence[str]) -> tuple[str, ...]:
    """As `listed`, at least one, each once."""
    if found := tuple(dict.fromkeys(listed(texts))):
        return found
    raise InputError(f"--{option} is empty; see lstm-deploy bench --help.")


def sizes(option: str, texts: Sequence[str]) -> tuple[int, ...]:
    """Positive numbers, as `listed`, each once."""
    found = tuple(dict.fromkeys(listed(texts)))
    if not found or not all(name.isascii() and name.isdigit() and int(name) for name in found):
        raise InputError(f"--{option} {','.join(texts)!r} is not a list of positive numbers; write it as 1,32.")
    return tuple(map(int, found))


def part(option: str, text: str | None) -> float | None:
    """`1%` or `0.01` as a part of 1. A 1 alone is refused, as some would mean 1% by it."""
    if text is None:
        return None
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1 or (value == 1 and not percent):
        raise InputError(f"--{option} {text} is unclear; write it as 1% or 0.01.")
    return value
