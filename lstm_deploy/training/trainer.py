"""The Lightning trainer, the optimizer and the learning-rate schedule of a recipe."""

import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, ReduceLROnPlateau

from lstm_deploy.contract import CELLS_BY_NAME
from lstm_deploy.errors import InputError, one_line
from lstm_deploy.training.network import make_recurrent
from lstm_deploy.training.recipe import CellName, Recipe
from lstm_deploy.training.several_machines import check_place

VALIDATION_LOSS = "validation_loss"
"""Its name in Lightning."""
PLATEAU_EPOCHS = 3
"""Epochs without improvement after which a plateau halves the learning rate; with a patience, a third of that."""


def make_trainer(recipe: Recipe, callback: pl.Callback) -> Any:
    """A trainer; raises `InputError` for devices, a strategy or a precision that this machine does not have."""
    gpu = torch.cuda.is_available()
    _check_machine(recipe, gpu)
    early_stopping = EarlyStopping(VALIDATION_LOSS, patience=recipe.patience, check_on_train_epoch_end=False)
    try:
        trainer = pl.Trainer(
            max_epochs=recipe.epochs,
            gradient_clip_val=recipe.clip or None,
            accumulate_grad_batches=recipe.accumulate,
            accelerator="gpu" if gpu else "cpu",
            devices=recipe.devices,
            num_nodes=recipe.nodes,
            strategy=recipe.strategy,
            precision=recipe.precision,
            deterministic="warn" if gpu else None,  # CPUs always are, and asking for it costs time there
            use_distributed_sampler=False,  # the samplers know their shard
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=1.0 if recipe.validation else 0,
            callbacks=[callback, early_stopping] if recipe.patience else [callback],
        )
    except (MisconfigurationException, ValueError) as error:
        raise InputError(
            f"Lightning refuses this ({one_line(error)}); check --devices, --nodes, --strategy and --precision."
        ) from error
    check_place(trainer, recipe.nodes)
    return trainer


def make_optimizer(recipe: Recipe, network: torch.nn.Module) -> Optimizer:
    """The optimizer of all weights that are trained."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    fused = recipe.precision == "32"  # one call for all weights, on a CPU too; Lightning cannot clip it when mixed
    optimizers: dict[str, Callable[..., Optimizer]] = {"adam": Adam, "adamw": AdamW, "sgd": partial(SGD, momentum=0.9)}
    make = optimizers[recipe.optimizer]
    return make(weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=fused)


def make_schedulers(recipe: Recipe, optimizer: Optimizer, module: pl.LightningModule) -> list[dict[str, Any]]:
    """The schedulers; the module's steps and the batches of an epoch are counted only if they are needed."""
    warmup = recipe.warmup
    if recipe.schedule == "cosine":
        steps = max(1, module.trainer.estimated_stepping_batches)

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
        at_end = {"interval": "step", "frequency": len(module.train_dataloader()), "monitor": VALIDATION_LOSS}
        schedulers.append({"scheduler": fall, **at_end})
    return schedulers


def _check_machine(recipe: Recipe, gpu: bool) -> None:
    available, kind = (torch.cuda.device_count(), "GPUs") if gpu else (os.cpu_count() or 1, "cores")
    if recipe.devices > available:
        raise InputError(f"There are {available} {kind} here, not {recipe.devices}; give --devices.")
    if recipe.precision == "16-mixed" and not gpu:
        raise InputError("16-mixed needs a GPU, and there is none; give --precision bf16-mixed or 32.")
    if recipe.precision == "bf16-mixed" and not gpu and not _computes_bfloat16(recipe.cell):
        limited = " (ONEDNN_MAX_CPU_ISA is set)" if "ONEDNN_MAX_CPU_ISA" in os.environ else ""
        raise InputError(
            f"bf16-mixed needs a CPU with bfloat16 (AVX-512), which oneDNN does not find{limited}; give --precision 32."
        )


def _computes_bfloat16(cell: CellName) -> bool:
    """Whether PyTorch has bfloat16 kernels for a cell here, found out by one step of the smallest layers."""
    with torch.random.fork_rng(devices=[]):  # leaves the random numbers of the training alone
        recurrent = make_recurrent(CELLS_BY_NAME[cell], 1, 1, 2)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            recurrent(torch.zeros(1, 1, 1))[0].sum().backward()
    except RuntimeError:
        return False
    return True
