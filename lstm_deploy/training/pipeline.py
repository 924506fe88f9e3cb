"""From data and a recipe to a trained network with its checkpoint metadata and metrics."""

from pathlib import Path
from typing import Any

import torch
from msgspec import Struct
from msgspec.structs import asdict

from lstm_deploy.contract import Array
from lstm_deploy.progress import OnProgress
from lstm_deploy.training import checkpoint
from lstm_deploy.training.checkpoint import CheckpointSpec
from lstm_deploy.training.classification import TextClassification
from lstm_deploy.training.data.labelled_texts import LabelledTexts
from lstm_deploy.training.data.series import Series
from lstm_deploy.training.evaluation import Evaluation
from lstm_deploy.training.forecasting import Forecasting
from lstm_deploy.training.language_modelling import LanguageModelling
from lstm_deploy.training.learning_task import LearningTask
from lstm_deploy.training.loop import fit
from lstm_deploy.training.network import Network
from lstm_deploy.training.recipe import Recipe
from lstm_deploy.training.run_folder import BEST, Epoch
from lstm_deploy.training.run_state import Weights
from lstm_deploy.training.training_data import TrainingData


class Trained(Struct, frozen=True, kw_only=True):
    """A trained network with its checkpoint metadata, history and metrics."""

    network: Network
    spec: CheckpointSpec
    history: tuple[Epoch, ...]
    evaluation: Evaluation
    remarks: tuple[str, ...] = ()
    interrupted: bool = False
    """Whether Ctrl-C ended the training, so that the network is from the best epoch before it."""

    @property
    def tensors(self) -> dict[str, Array]:
        return {name: value.numpy() for name, value in self.network.state_dict().items()}


def train(
    data: TrainingData, recipe: Recipe, on_progress: OnProgress, *, folder: Path | None = None, resume: bool = False
) -> Trained:
    """Train a network and evaluate it on the held-out part of the data.

    `folder` is created after the first epoch; it gets the best checkpoint so far, and what `loop.fit` writes. Resuming,
    interrupting and errors are as in `loop.fit`.
    """
    torch.manual_seed(recipe.seed)  # of the weights
    task = make_learning_task(data, recipe)

    def spec(epoch: int, metrics: dict[str, Any]) -> CheckpointSpec:
        return CheckpointSpec(
            network=task.network.config,
            task=task.task,
            state_policy=task.state_policy,
            training={"options": asdict(recipe), "best_epoch": epoch, "metrics": metrics, "data": data.origin},
            low=task.low,
            high=task.high,
        )

    def save_best(weights: Weights, epoch: int) -> None:
        assert folder is not None
        checkpoint.save(folder / BEST, {name: value.cpu().numpy() for name, value in weights.items()}, spec(epoch, {}))

    fitted = fit(task, recipe, on_progress, folder=folder, resume=resume, on_best=save_best if folder else None)
    with torch.no_grad():
        evaluation = task.evaluate()
    return Trained(
        network=task.network,
        spec=spec(fitted.best_epoch, evaluation.metrics),
        history=fitted.history,
        evaluation=evaluation,
        remarks=task.remarks,
        interrupted=fitted.interrupted,
    )


def make_learning_task(data: TrainingData, recipe: Recipe) -> LearningTask:
    """The task that the data is for, with an untrained network."""
    match data.content:
        case Series() as series:
            return Forecasting(series, data.targets, recipe)
        case LabelledTexts() as texts:
            return TextClassification(texts, data.vectors, recipe)
        case text:
            return LanguageModelling(text, recipe)
