"""The optimizer and the learning-rate schedule of a recipe, as Lightning expects them."""

import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, ReduceLROnPlateau

from lstm_deploy.training.recipe import Recipe

VALIDATION_LOSS = "validation_loss"
"""The name under which Lightning knows it."""
PLATEAU_EPOCHS = 3
"""Epochs without improvement after which a plateau halves the learning rate; with a patience, a third of that."""


def make_optimizer(recipe: Recipe, network: nn.Module) -> Optimizer:
    """The optimizer of all weights that are trained."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    fused = recipe.precision == "32"  # one call for all weights, on a CPU too; Lightning cannot clip it when mixed
    settings: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": fused}
    match recipe.optimizer:
        case "adam":
            return Adam(weights, **settings)
        case "adamw":
            return AdamW(weights, **settings)
        case "sgd":
            return SGD(weights, momentum=0.9, **settings)


def make_schedulers(
    recipe: Recipe, optimizer: Optimizer, count_steps: Callable[[], int], count_batches: Callable[[], int]
) -> list[dict[str, Any]]:
    """The schedulers; the steps of the training and the batches of an epoch are counted only if they are needed."""
    warmup = recipe.warmup
    if recipe.schedule == "cosine":
        steps = max(1, count_steps())

        def factor(step: int) -> float:
            return min(1.0, (step + 1) / (warmup + 1)) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))

        return [{"scheduler": LambdaLR(optimizer, factor), "interval": "step"}]
    schedulers: list[dict[str, Any]] = []
    if warmup:
        rise = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
        schedulers.append({"scheduler": rise, "interval": "step"})
    if recipe.schedule == "plateau":
        fall = ReduceLROnPlateau(optimizer, factor=0.5, patience=max(1, recipe.patience // 3 or PLATEAU_EPOCHS))
        # At the last step of an epoch: Lightning's own "epoch" comes after the last state has been written.
        schedulers.append(
            {"scheduler": fall, "interval": "step", "frequency": count_batches(), "monitor": VALIDATION_LOSS}
        )
    return schedulers
