"""The training loop, driven by Lightning."""

import logging
import math
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from msgspec import Struct
from msgspec.structs import asdict
from torch import Tensor

from lstm_deploy.errors import LstmDeployError
from lstm_deploy.progress import OnProgress
from lstm_deploy.training.batches import Batch, Batches, Shard
from lstm_deploy.training.learning_task import LearningTask, WeightedMean
from lstm_deploy.training.network import State
from lstm_deploy.training.recipe import Recipe
from lstm_deploy.training.run_folder import Epoch
from lstm_deploy.training.run_state import RUN_ENTRY, OnBest, OnEpoch, RunSaver, incomplete_state, state_to_resume
from lstm_deploy.training.several_machines import Meeting
from lstm_deploy.training.trainer import VALIDATION_LOSS, make_optimizer, make_schedulers, make_trainer

"""Called with the steps done, the total, and the latest loss as text."""
PROGRESS_S = 0.1
"""Minimum seconds between two reports of progress."""


class FitResult(Struct, frozen=True, kw_only=True):
    """How a training went; its network has the weights of the best epoch."""

    history: tuple[Epoch, ...]
    best_epoch: int
    interrupted: bool = False


def fit(
    task: LearningTask,
    recipe: Recipe,
    on_progress: OnProgress,
    *,
    folder: Path | None = None,
    resume: bool = False,
    on_best: OnBest | None = None,
    on_epoch: OnEpoch | None = None,
) -> FitResult:
    """Train the network of a task, and leave the weights of the best epoch in it.

    The log and the last state are written to `folder`, at most every `run_state.SAVE_S` seconds; `resume` continues
    from there as if the run had never stopped, bit for bit on a CPU.

    Ctrl-C keeps the best epoch so far, or raises `KeyboardInterrupt` if there is none yet. Raises `InputError` for a
    folder that holds another run, and `LstmDeployError` if the loss becomes infinite or NaN.
    """
    last_state = state_to_resume(folder, task.data_digest, recipe) if resume else None
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)  # hints about hardware and Lightning's products
    on_interrupt = signal.getsignal(signal.SIGINT)
    meeting = Meeting(recipe.nodes)
    module = _TrainingModule(task, recipe, on_progress, meeting)
    saver = RunSaver(folder, on_best, on_epoch)
    interrupted = False
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")  # advice on data-loading workers, which are not needed
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)  # Lightning's own
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*optimizer.step.*")  # 16-mixed skips steps
        trainer = make_trainer(recipe, saver)
        try:
            with meeting.waiting():
                trainer.fit(module, ckpt_path=last_state, weights_only=True)
        except SystemExit as error:  # Lightning turns Ctrl-C into this, and ignores any further ones
            signal.signal(signal.SIGINT, on_interrupt)
            if not saver.weights:
                raise KeyboardInterrupt from error
            interrupted = True
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            if last_state is None or saver.started:
                raise
            raise incomplete_state(last_state) from error
    if trainer.global_rank:
        raise SystemExit(0)  # only the first process continues
    if saver.weights:
        task.network.load_state_dict(saver.weights)
    task.network.cpu().eval()
    return FitResult(history=tuple(module.history), best_epoch=saver.best_epoch, interrupted=interrupted)


class _TrainingModule(pl.LightningModule):  # type: ignore[misc] # Lightning publishes no types
    def __init__(self, task: LearningTask, recipe: Recipe, on_progress: OnProgress, meeting: Meeting) -> None:
        super().__init__()
        self.meeting = meeting
        self.network = task.network
        self.task, self.recipe, self.on_progress = task, recipe, on_progress
        self.history: list[Epoch] = []
        self.state: State | None = None
        self.began = self.reported = 0.0
        self.last_validation_loss: float | None = None

    def setup(self, stage: str) -> None:  # noqa: ARG002 - Lightning's argument
        """Called when all machines are there."""
        self.meeting.over()

    @property
    def shard(self) -> Shard:
        return Shard(self.trainer.global_rank, self.trainer.world_size)

    def train_dataloader(self) -> Batches:
        return self.task.batches("fit", self.shard)

    def val_dataloader(self) -> Batches | list[Any]:  # Lightning asks in any case
        return self.task.batches("validation", self.shard) if self.recipe.validation else []

    def on_train_epoch_start(self) -> None:
        self.state, self.began = None, time.perf_counter()
        self.train_loss = WeightedMean()

    def training_step(self, batch: Batch, number: int) -> Tensor:
        if number == 0:
            # Random numbers of an epoch depend on nothing before it, so that a resumed run draws the same ones. Not
            # earlier than here: data loaders draw some when they start.
            seed = (self.recipe.seed * 1_000_003 + self.current_epoch) * 1_009 + self.global_rank
            torch.manual_seed(seed % 2**63)
        loss, self.state = self.task.run_batch(batch, self.state)
        self.train_loss.add(self._finite(loss.item(), "loss"), batch.weight)
        return loss * batch.weight

    def on_train_batch_end(self, outputs: Any, *_: Any) -> None:
        """Report progress; a callback for this would slow down small networks by a few percent."""
        now = time.monotonic()
        if now - self.reported >= PROGRESS_S and not self.trainer.is_last_batch:
            self.reported = now
            self._report(float(outputs["loss"]), None)

    def on_validation_epoch_start(self) -> None:
        self.state, self.validation_loss = None, WeightedMean()

    def validation_step(self, batch: Batch, _: int) -> None:
        loss, self.state = self.task.run_batch(batch, self.state)
        self.validation_loss.add(float(loss), batch.targets.numel() if batch.weight else 0)

    def on_validation_epoch_end(self) -> None:
        self.last_validation_loss = self._finite(self._over_all_processes(self.validation_loss), "validation loss")
        self.log(VALIDATION_LOSS, self.last_validation_loss)

    def on_train_epoch_end(self) -> None:
        epoch = Epoch(
            epoch=self.current_epoch + 1,
            step=self.global_step,
            train_loss=self._over_all_processes(self.train_loss),
            validation_loss=self.last_validation_loss,
            learning_rate=self.trainer.optimizers[0].param_groups[0]["lr"],
            seconds=time.perf_counter() - self.began,
        )
        self.history.append(epoch)
        self._report(epoch.train_loss, epoch.validation_loss)

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.recipe, self.network)
        return [optimizer], make_schedulers(self.recipe, optimizer, self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        history = [asdict(epoch) for epoch in self.history]
        checkpoint[RUN_ENTRY] = {"recipe": asdict(self.recipe), "data": self.task.data_digest, "history": history}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = [Epoch(**epoch) for epoch in checkpoint[RUN_ENTRY]["history"]]

    def _report(self, loss: float, validation: float | None) -> None:
        losses = f"loss {loss:.4f}" + ("" if validation is None else f", validation {validation:.4f}")
        text = f"epoch {self.current_epoch + 1}/{self.trainer.max_epochs}, {losses}"
        self.on_progress(self.global_step, int(self.trainer.estimated_stepping_batches), text)

    def _finite(self, loss: float, name: str) -> float:
        if math.isfinite(loss):
            return loss
        raise LstmDeployError(
            f"The {name} became {loss} at step {self.global_step} (epoch {self.current_epoch + 1}); try a smaller "
            "--learning-rate, a --warmup, or a smaller --clip."
        )

    def _over_all_processes(self, mean: WeightedMean) -> float:
        local = torch.tensor([mean.total, mean.weight], dtype=torch.float64, device=self.device)
        total, weight = self.trainer.strategy.reduce(local, reduce_op="sum").tolist()
        return float(total / weight)
