"""Forecasts, generated text and classes from a bundle, as `run` gives them.

No PyTorch, unless a TorchScript artifact is asked for.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lstm_deploy.contract import (
    NO_STOP,
    Classify,
    Forecast,
    LanguageModel,
    carries_state,
    layout_of,
    pad_sequences,
    window_of,
)
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes import Model, Stepper
from lstm_deploy.training import Series, Values

Where = Mapping[str, Any]
"""The `provider`, `precision` and `format` of `Model.runtime`."""
CPU: Where = {}


class Prediction(NamedTuple):
    """The class of one text."""

    label: str
    probability: float

    def __str__(self) -> str:
        return f"{self.label}\t{self.probability:.4f}"


def forecast(model: Model, task: Forecast, series: Series, steps: int = 0, where: Where = CPU) -> Values:
    """The next `steps` values after the series, `[steps, targets]`, in raw units; 0 steps are the model's horizon.

    A model trained with policy `reset` sees the last `task.window` rows, from the initial state, for each step; one
    trained with `carry` sees the whole series and keeps its state. `where` selects the runtime, as `Model.runtime`
    does. Raises `InputError` if the series is too short, or if more steps than its horizon are asked of a model that
    cannot feed itself.
    """
    if len(series.values) < task.window:
        raise InputError(
            f"The series has {len(series.values)} rows and the model was trained on {task.window} at a time; "
            "give a longer one."
        )
    rows = series.values.astype(np.float32)[None]
    steps = steps or task.horizon
    if task.horizon == 1 and (steps > 1 or task.feeds_itself):
        contract = model.rollout_contract  # says why it cannot feed itself
        rows = rows[:, -contract.least_seq :] if not contract.recurrent else rows
        return np.asarray(model.rollout({"x": rows, "steps": np.array(steps)}, **where)["y"][0], np.float64)
    if steps > task.horizon:
        raise InputError(
            f"The model predicts the next {task.horizon} steps and none after them; give --steps {task.horizon}."
        )
    signature = model.signature
    rows = rows if carries_state(signature) else rows[:, -window_of(signature) :]
    y, _ = Stepper(model.runtime(**where))(rows, signature.initial_state(1))
    return np.asarray(y, np.float64).reshape(task.horizon, len(task.targets))[:steps]


def generate(
    model: Model,
    task: LanguageModel,
    prompts: Sequence[str],
    steps: int,
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    stop: str = "",
    seed: int | Sequence[int] = 0,
    where: Where = CPU,
) -> list[str]:
    """The characters that follow each prompt, the state carried throughout.

    `temperature` 0 takes the likeliest character; above 0 characters are sampled as `contract.rollouts` describes, from
    the noise `numpy.random.default_rng(seed).random((len(prompts), steps), numpy.float32)`. Text ends before the
    character `stop`. Raises `InputError` for a prompt that the vocabulary cannot spell.
    """
    if not all(prompts):
        raise InputError("The prompt is empty; give at least one character with --prompt.")
    x, lengths = pad_sequences([task.encode(text) for text in prompts])
    if stop and (stop not in task.index or (task.unit == "byte" and not stop.isascii())):
        raise InputError(f"The text cannot stop at {stop!r}, which is not a token of the model; give another --stop.")
    feeds = {
        "x": x,
        "lengths": lengths,
        "noise": np.random.default_rng(seed).random((len(prompts), steps), np.float32),
        "temperature": np.array(temperature, np.float32),
        "top_k": np.array(top_k),
        "stop": np.array(task.index[stop] if stop else NO_STOP),
    }
    texts = [task.decode(row) for row in model.rollout(feeds, **where)["y"].tolist()]
    return [text.partition(stop)[0] if stop else text for text in texts]


def classify(model: Model, task: Classify, line: str, where: Where = CPU) -> Prediction:
    """The class of one line of text; raises `InputError` for one with nothing in it that the model knows."""
    tokens = task.encode(line)
    layout, signature = layout_of(model.signature), model.signature
    rows = np.array([tokens])
    if layout.window and len(tokens) != layout.window:
        raise InputError(f"The model takes {layout.window} {task.unit}s at a time, and the line has {len(tokens)}.")
    logits = Stepper(model.runtime(**where))(rows, signature.initial_state(1))[0][0].astype(np.float64)
    weights = np.exp(logits - logits.max())
    best = int(logits.argmax())
    return Prediction(task.labels[best], float(weights[best] / weights.sum()))
