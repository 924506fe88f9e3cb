"""What `run` does with a bundle: the next values of a series, the next characters of a text. No PyTorch."""

from collections.abc import Callable, Iterator

import numpy as np

from lstm_deploy.data import Series, Values
from lstm_deploy.errors import InputError
from lstm_deploy.signature import Array
from lstm_deploy.streaming import Model
from lstm_deploy.tasks import Forecast, LanguageModel

COLDEST = 1e-6
"""Temperatures below it are 0: dividing by them overflows."""


def forecast(model: Model, task: Forecast, series: Series, steps: int = 1) -> Values:
    """The next `steps` values after the series, `[steps, targets]`, in raw units.

    A model trained with policy `reset` sees the last `task.window` rows, from the initial state, for each
    step; one trained with `carry` sees the whole series and keeps its state. Raises `InputError` if the
    series is too short, or if more than one step is asked of a model that cannot feed itself.
    """
    if steps > 1 and not task.feeds_itself:
        raise InputError(
            f"The model predicts {', '.join(task.targets)} but needs {', '.join(task.features)} at each step, so "
            "it can look one step ahead only; use --steps 1, or train with every feature as a target."
        )
    if len(series.values) < task.window:
        raise InputError(
            f"The series has {len(series.values)} rows and the model was trained on {task.window} at a time; "
            "give a longer one."
        )
    rows = series.values.astype(np.float32)
    predicted: list[Array] = []
    if model.signature.state_policy == "carry":
        stream = model.stream()
        y = stream.feed(rows[None])[:, -1].copy()
        for _ in range(steps - 1):
            predicted.append(y[0])
            y = stream.step(y).copy()
        predicted.append(y[0])
    else:
        for _ in range(steps):
            y = model.run({"x": rows[None, -task.window :]})["y"]
            predicted.append(y[0, -1])
            rows = np.concatenate([rows, y[:, -1]]) if task.feeds_itself else rows
    return np.array(predicted, dtype=np.float64)


def generate(
    model: Model,
    task: LanguageModel,
    prompt: str,
    steps: int,
    *,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[str]:
    """The characters that follow the prompt, one at a time, the state carried throughout.

    `temperature` 0 takes the likeliest character; above 0, characters are drawn with probability
    softmax(logits / temperature). Raises `InputError` for a prompt the vocabulary cannot spell.
    """
    index = {character: token for token, character in enumerate(task.vocabulary)}
    if not prompt:
        raise InputError("The prompt is empty; give at least one character with --prompt.")
    if unknown := [character for character in prompt if character not in index]:
        raise InputError(f"The model has never seen {unknown[0]!r}; its vocabulary is {''.join(task.vocabulary)!r}.")
    choose = _greedy if temperature < COLDEST else _sampler(temperature, seed)

    def characters() -> Iterator[str]:
        stream = model.stream()
        logits = stream.feed(np.array([[index[character] for character in prompt]], np.int64))[0, -1]
        for step in range(steps):
            token = choose(logits)
            yield task.vocabulary[token]
            if step + 1 < steps:
                logits = stream.step(np.array([token]))[0]

    return characters()


def _greedy(logits: Array) -> int:
    return int(logits.argmax())


def _sampler(temperature: float, seed: int) -> Callable[[Array], int]:
    rng = np.random.default_rng(seed)

    def draw(logits: Array) -> int:
        scaled = logits.astype(np.float64) / temperature
        weights = np.exp(scaled - scaled.max())
        return int(rng.choice(len(weights), p=weights / weights.sum()))

    return draw
