"""From a problem and a recipe to a checkpoint, with what it is worth."""

from pathlib import Path
from typing import Any

import torch
from msgspec import Struct
from msgspec.structs import asdict

from lstm_deploy.contract import Array
from lstm_deploy.training import checkpoint, classification, forecasting, language_modelling
from lstm_deploy.training.checkpoint import Spec
from lstm_deploy.training.data.labelled_texts import Labelled
from lstm_deploy.training.data.series import Series
from lstm_deploy.training.evaluation import Evaluation
from lstm_deploy.training.fit_log import Epoch
from lstm_deploy.training.learning_task import Problem
from lstm_deploy.training.loop import OnProgress, Weights, fit
from lstm_deploy.training.network import Network
from lstm_deploy.training.recipe import Recipe
from lstm_deploy.training.training_data import Material

BEST = "best.safetensors"
"""File of a training's folder: the best checkpoint so far, without metrics."""


class Trained(Struct, frozen=True, kw_only=True):
    """A network with its spec, and how it came to be."""

    network: Network
    spec: Spec
    history: tuple[Epoch, ...]
    evaluation: Evaluation
    remarks: tuple[str, ...] = ()
    interrupted: bool = False
    """Whether it is the best of the epochs before Ctrl-C."""

    @property
    def tensors(self) -> dict[str, Array]:
        return {name: value.numpy() for name, value in self.network.state_dict().items()}


def train(
    material: Material,
    recipe: Recipe,
    on_progress: OnProgress,
    *,
    folder: Path | None = None,
    resume: bool = False,
) -> Trained:
    """Train a network and judge it on data that it never saw.

    `folder` is created with the first epoch, and gets what `fitting.fit` writes and the best checkpoint so far. The
    rest is as in `fitting.fit`.
    """
    torch.manual_seed(recipe.seed)  # of the weights
    problem = make_problem(material, recipe)

    def keep_best(weights: Weights, epoch: int) -> None:
        assert folder is not None
        tensors = {name: value.cpu().numpy() for name, value in weights.items()}
        checkpoint.save(folder / BEST, tensors, _spec(problem, _record(recipe, material, epoch, {})))

    lesson = problem.lesson
    fitted = fit(lesson, recipe, on_progress, folder=folder, resume=resume, on_best=keep_best if folder else None)
    evaluation = problem.evaluate()
    return Trained(
        network=lesson.network,
        spec=_spec(problem, _record(recipe, material, fitted.best_epoch, evaluation.metrics)),
        history=fitted.history,
        evaluation=evaluation,
        remarks=problem.remarks,
        interrupted=fitted.interrupted,
    )


def _spec(problem: Problem, training: dict[str, Any]) -> Spec:
    return Spec(
        network=problem.lesson.network.config,
        task=problem.task,
        state_policy=problem.state_policy,
        training=training,
        low=problem.low,
        high=problem.high,
    )


def _record(recipe: Recipe, material: Material, epoch: int, metrics: dict[str, Any]) -> dict[str, Any]:
    return {"options": asdict(recipe), "best_epoch": epoch, "metrics": metrics, "data": material.origin}


def make_problem(material: Material, recipe: Recipe) -> Problem:
    """What is to be learned, with a fresh network for it."""
    match material.content:
        case Series() as series:
            return forecasting.make_problem(series, material.targets, recipe)
        case Labelled() as labelled:
            return classification.make_problem(labelled, material.vectors, recipe)
        case text:
            return language_modelling.make_problem(text, recipe)
