"""Recipes and data for networks that train in a second."""

import numpy as np

from lstm_deploy.training import training_data
from lstm_deploy.training.data.labelled_texts import LabelledTexts
from lstm_deploy.training.recipe import Recipe, make_recipe
from lstm_deploy.training.training_data import TrainingData

COLUMNS = ("open", "high", "low", "close")


def small(task: str, **changes: object) -> Recipe:
    """A recipe of a small network and one epoch."""
    settings = {"hidden_size": 8, "num_layers": 2, "epochs": 1, "batch_size": 64, "learning_rate": 5e-3}
    settings |= {"forecast": {"window": 20}, "lm": {"window": 50}, "classify": {"embedding_size": 6}}[task]
    return make_recipe(task, **{**settings, **changes})


def ignore(*_: object) -> None:
    """A progress callback."""


def sine(rows: int = 300) -> TrainingData:
    """A series."""
    return training_data.generate_series("sine", rows, seed=0)


def text(content: str = "abcdefgh" * 100) -> TrainingData:
    """A text."""
    return TrainingData(content=content)


def reviews(rows: int = 60) -> TrainingData:
    """Labelled texts, two thirds of them `good`."""
    words = {"good": ("fine", "great"), "bad": ("poor", "awful")}
    labels = tuple("good" if row % 3 else "bad" for row in range(rows))
    texts = tuple(f"{'it was ' * (row % 4)}{words[label][row % 2]}" for row, label in enumerate(labels))
    return TrainingData(content=LabelledTexts(texts=texts, labels=labels))


def same_weights(first: object, second: object) -> bool:
    """Whether two trained networks are equal bit for bit."""
    return all(np.array_equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
