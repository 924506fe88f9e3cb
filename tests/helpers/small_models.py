"""Recipes of networks that are trained in a second."""

from lstm_deploy.training.recipe import Recipe, make_recipe

COLUMNS = ("open", "high", "low", "close")


def small(task: str, **changes: object) -> Recipe:
    """A recipe of a small network and one epoch."""
    settings = {"hidden_size": 8, "num_layers": 2, "epochs": 1, "batch_size": 64, "learning_rate": 5e-3}
    settings |= {"forecast": {"window": 20}, "lm": {"window": 50}, "classify": {"embedding_size": 6}}[task]
    return make_recipe(task, **{**settings, **changes})


def ignore(*_: object) -> None:
    """A progress callback."""
