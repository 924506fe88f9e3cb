"""Lightning's trainer for a recipe, once it is clear that this machine can run it."""

import os
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lstm_deploy.errors import InputError, one_line
from lstm_deploy.training.optimization import VALIDATION_LOSS
from lstm_deploy.training.recipe import Recipe


def make_trainer(recipe: Recipe, callback: pl.Callback) -> Any:
    """A trainer; raises `InputError` for devices, a strategy or a precision that this machine does not have."""
    gpu = torch.cuda.is_available()
    _check_machine(recipe, gpu)
    callbacks = [callback]
    if recipe.patience:
        callbacks.append(EarlyStopping(VALIDATION_LOSS, patience=recipe.patience, check_on_train_epoch_end=False))
    try:
        return pl.Trainer(
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
            callbacks=callbacks,
        )
    except (MisconfigurationException, ValueError) as error:
        raise InputError(
            f"Lightning cannot train like this ({one_line(error)}); check --devices, --nodes, --strategy and "
            "--precision."
        ) from error


def _check_machine(recipe: Recipe, gpu: bool) -> None:
    available = torch.cuda.device_count() if gpu else os.cpu_count() or 1
    if recipe.devices > available:
        kind = "GPUs" if gpu else "cores"
        raise InputError(f"There are {available} {kind} here, not {recipe.devices}; give --devices.")
    if recipe.precision == "16-mixed" and not gpu:
        raise InputError("16-mixed needs a GPU, and there is none; give --precision bf16-mixed or 32.")
    if recipe.precision == "bf16-mixed" and not gpu and not _computes_bfloat16():
        limited = " (ONEDNN_MAX_CPU_ISA is set)" if "ONEDNN_MAX_CPU_ISA" in os.environ else ""
        raise InputError(
            f"bf16-mixed needs a CPU with bfloat16 (AVX-512), which oneDNN does not find{limited}; give --precision 32."
        )


def _computes_bfloat16() -> bool:
    """Whether oneDNN has bfloat16 kernels for LSTMs here, found out by one step of the smallest LSTM."""
    with torch.random.fork_rng(devices=[]):  # leaves the random numbers of the training alone
        lstm = torch.nn.LSTM(1, 1, 2, batch_first=True)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            lstm(torch.zeros(1, 1, 1))[0].sum().backward()
    except RuntimeError:
        return False
    return True
