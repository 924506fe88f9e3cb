"""One training on Lightning: the loop, what is written while it runs, and how it goes on where it was stopped."""

import logging
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from msgspec import Struct
from msgspec.structs import asdict
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, LinearLR, ReduceLROnPlateau
from torch.utils.data import DataLoader

from lstm_deploy.artifacts import atomic_write
from lstm_deploy.errors import InputError, LstmDeployError, one_line
from lstm_deploy.training.batches import Batch, Place
from lstm_deploy.training.fit_log import LAST, LOG, Epoch, write_log
from lstm_deploy.training.learning_task import Lesson
from lstm_deploy.training.network import State
from lstm_deploy.training.recipe import Recipe, option_of

OnProgress = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and the latest loss in words."""
Weights = dict[str, Tensor]
VALIDATION_LOSS = "validation_loss"
PARTS = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks"}
"""Entries of `LAST` without which a training cannot go on as if it had never stopped."""
OURS = "lstm_deploy"
"""Entry of `LAST` for what Lightning does not know of."""
STANDS_STILL = 3
"""Epochs without improvement after which a plateau halves the learning rate; if there is a patience, a third of it."""
SAVE_S = 2.0
"""Seconds between two writings of the folder at least: epochs of small networks take less than writing does."""
INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
SHOW_S = 0.1
"""Seconds between two reports of progress at least."""


class Fitted(Struct, frozen=True, kw_only=True):
    """How a training went; the network has the weights of its best epoch."""

    history: tuple[Epoch, ...]
    best_epoch: int
    interrupted: bool = False


def fit(
    lesson: Lesson,
    recipe: Recipe,
    on_progress: OnProgress,
    *,
    folder: Path | None = None,
    resume: bool = False,
    on_best: Callable[[Weights, int], None] | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Fitted:
    """Train the network of a lesson, and leave the weights of its best epoch in it.

    `folder` gets the log and the last state, at most every `SAVE_S` seconds; with `resume` training goes on from there,
    as if it had never stopped: bit for bit on a CPU. `on_best` gets the weights of each epoch that is the best so far;
    `on_epoch` each epoch's number and its validation loss, and may raise to stop. Ctrl-C keeps the best so far; if
    there is none yet it raises `KeyboardInterrupt`. Raises `InputError` for a folder that holds another training, and
    `LstmDeployError` if the loss is no longer finite.
    """
    last = _last_state(folder, lesson, recipe) if resume else None
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)  # hints about hardware and itself
    on_interrupt = signal.getsignal(signal.SIGINT)
    learner = _Learner(lesson, recipe, on_progress)
    keeper = _Keeper(folder, on_best, on_epoch)
    interrupted = False
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")  # advice on workers for loading: ours need none
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)  # Lightning's own
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*optimizer.step.*")  # 16-mixed skips steps
        trainer = _trainer(recipe, [keeper])
        try:
            trainer.fit(learner, ckpt_path=last, weights_only=True)
        except SystemExit as error:  # what Lightning turns Ctrl-C into, with further ones ignored
            signal.signal(signal.SIGINT, on_interrupt)
            if not keeper.weights:
                raise KeyboardInterrupt from error
            interrupted = True
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            if last is None or keeper.started:
                raise
            raise _no_state(last) from error
    if trainer.global_rank:
        raise SystemExit(0)  # one of several processes is enough to go on
    network = lesson.network
    if keeper.weights:
        network.load_state_dict(keeper.weights)
    network.cpu().eval()
    return Fitted(history=tuple(learner.history), best_epoch=keeper.best_epoch, interrupted=interrupted)


def mean_loss(lesson: Lesson, batches: "DataLoader[Batch]") -> float:
    """The loss over some batches, each entry counting alike."""
    total, count, state = 0.0, 0, None
    lesson.network.eval()
    with torch.no_grad():
        for batch in batches:
            loss, state = _loss(lesson, batch, state)
            total += float(loss) * batch.wanted.numel()
            count += batch.wanted.numel()
    return total / count


def _loss(lesson: Lesson, batch: Batch, state: State | None) -> tuple[Tensor, State | None]:
    output, (h, c) = lesson.network(*batch.inputs, state=state)
    return lesson.loss(output, batch.wanted), (h.detach(), c.detach()) if lesson.carry else None


class _Learner(pl.LightningModule):  # type: ignore[misc] # Lightning publishes no types
    def __init__(self, lesson: Lesson, recipe: Recipe, on_progress: OnProgress) -> None:
        super().__init__()
        self.network = lesson.network
        self.lesson, self.recipe, self.on_progress = lesson, recipe, on_progress
        self.history: list[Epoch] = []
        self.state: State | None = None
        self.began = 0.0
        self.sums = [0.0, 0.0]
        """Of losses and what they are means of, in this epoch."""
        self.trained = self.sums
        """Those of training, while those of validation are made."""
        self.validation_loss: float | None = None
        self.shown = 0.0

    @property
    def place(self) -> Place:
        return Place(self.trainer.global_rank, self.trainer.world_size)

    def train_dataloader(self) -> "DataLoader[Batch]":
        return self.lesson.train(self.place)

    def val_dataloader(self) -> "DataLoader[Batch] | list[Any]":
        return self.lesson.validate(self.place) if self.lesson.validate else []  # Lightning asks in any case

    def on_train_epoch_start(self) -> None:
        self.state, self.began = None, time.perf_counter()
        self.sums = [0.0, 0.0]

    def training_step(self, batch: Batch, number: int) -> Tensor:
        if number == 0:
            # What is drawn in an epoch depends on nothing before it, so a resumed training draws the same. Not earlier
            # than here: loaders draw, too, when they begin.
            place = (self.recipe.seed * 1_000_003 + self.current_epoch) * 1_009 + self.global_rank
            torch.manual_seed(place % 2**63)
        loss, self.state = _loss(self.lesson, batch, self.state)
        value = self._finite(loss.item(), "loss")
        self._add(value, batch.weight)
        return loss * batch.weight

    def on_train_batch_end(self, outputs: Any, *_: Any) -> None:
        """Tell the progress: here, since a callback of its own would cost small networks a few percent."""
        now = time.monotonic()
        if now - self.shown >= SHOW_S and not self.trainer.is_last_batch:
            self.shown = now
            self._tell(float(outputs["loss"]), None)

    def _tell(self, loss: float, validation: float | None) -> None:
        text = f"epoch {self.current_epoch + 1}/{self.trainer.max_epochs}, loss {loss:.4f}"
        if validation is not None:
            text += f", validation {validation:.4f}"
        self.on_progress(self.global_step, int(self.trainer.estimated_stepping_batches), text)

    def on_validation_epoch_start(self) -> None:
        self.trained, self.sums = self.sums, [0.0, 0.0]
        self.state = None

    def validation_step(self, batch: Batch, _: int) -> None:
        loss, self.state = _loss(self.lesson, batch, self.state)
        count = batch.wanted.numel() if batch.weight else 0
        self._add(float(loss), count)

    def on_validation_epoch_end(self) -> None:
        self.validation_loss = self._finite(self._over_all_processes(self.sums), "validation loss")
        self.sums = self.trained
        self.log(VALIDATION_LOSS, self.validation_loss)

    def on_train_epoch_end(self) -> None:
        found = Epoch(
            epoch=self.current_epoch + 1,
            step=self.global_step,
            train_loss=self._over_all_processes(self.sums),
            validation_loss=self.validation_loss,
            learning_rate=self.trainer.optimizers[0].param_groups[0]["lr"],
            seconds=time.perf_counter() - self.began,
        )
        self.history.append(found)
        self._tell(found.train_loss, found.validation_loss)

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        fused = recipe.precision == "32"  # one call for all weights, on a CPU too; Lightning cannot clip it when mixed
        settings: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": fused}
        match recipe.optimizer:
            case "adam":
                optimizer: torch.optim.Optimizer = torch.optim.Adam(weights, **settings)
            case "adamw":
                optimizer = torch.optim.AdamW(weights, **settings)
            case "sgd":
                optimizer = torch.optim.SGD(weights, momentum=0.9, **settings)
        return [optimizer], self._schedulers(optimizer)

    def _schedulers(self, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
        recipe, warmup = self.recipe, self.recipe.warmup
        if recipe.schedule == "cosine":
            total = max(1, int(self.trainer.estimated_stepping_batches))

            def part(step: int) -> float:
                return min(1.0, (step + 1) / (warmup + 1)) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))

            return [{"scheduler": LambdaLR(optimizer, part), "interval": "step"}]
        schedulers: list[dict[str, Any]] = []
        if warmup:
            rise = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
            schedulers.append({"scheduler": rise, "interval": "step"})
        if recipe.schedule == "plateau":
            fall = ReduceLROnPlateau(optimizer, factor=0.5, patience=max(1, recipe.patience // 3 or STANDS_STILL))
            # At the last step of an epoch: Lightning's own "epoch" comes after the last state has been written.
            batches = len(self.lesson.train(self.place))
            schedulers.append({"scheduler": fall, "interval": "step", "frequency": batches, "monitor": VALIDATION_LOSS})
        return schedulers

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        history = [asdict(epoch) for epoch in self.history]
        checkpoint[OURS] = {"recipe": asdict(self.recipe), "data": self.lesson.data, "history": history}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = [Epoch(**epoch) for epoch in checkpoint[OURS]["history"]]

    def _finite(self, loss: float, what: str) -> float:
        if math.isfinite(loss):
            return loss
        raise LstmDeployError(
            f"The {what} became {loss} at step {self.global_step} (epoch {self.current_epoch + 1}); try a smaller "
            "--learning-rate, a --warmup, or a smaller --clip."
        )

    def _add(self, loss: float, weight: float) -> None:
        self.sums[0] += loss * weight
        self.sums[1] += weight

    def _over_all_processes(self, sums: list[float]) -> float:
        here = torch.tensor(sums, dtype=torch.float64, device=self.device)
        total, count = self.trainer.strategy.reduce(here, reduce_op="sum").tolist()
        return float(total / count)


class _Keeper(Checkpoint):  # type: ignore[misc]
    """Keeps the weights of the best epoch, and writes the folder. Lightning runs it after all other callbacks."""

    def __init__(
        self,
        folder: Path | None,
        on_best: Callable[[Weights, int], None] | None,
        on_epoch: Callable[[int, float], None] | None,
    ) -> None:
        self.folder, self.on_best, self.on_epoch = folder, on_best, on_epoch
        self.loss, self.best_epoch, self.told_epoch = math.inf, 0, 0
        self.weights: Weights = {}
        self.written = -math.inf
        self.ended_early = self.started = False

    def on_train_start(self, trainer: Any, _: Any) -> None:
        trainer.should_stop, self.started = self.ended_early, True

    def on_train_epoch_end(self, trainer: Any, learner: _Learner) -> None:
        epoch = learner.history[-1]
        # Without a part to validate on, the latest is the best.
        loss = -float(epoch.epoch) if epoch.validation_loss is None else epoch.validation_loss
        if loss < self.loss:
            self.loss, self.best_epoch = loss, epoch.epoch
            self.weights = {name: value.detach().clone() for name, value in learner.network.state_dict().items()}
        self.ended_early = trainer.should_stop
        if self.folder is not None:
            self._write(trainer, learner, self.folder)
        if self.on_epoch and epoch.validation_loss is not None:
            self.on_epoch(epoch.epoch, epoch.validation_loss)

    def _write(self, trainer: Any, learner: _Learner, folder: Path) -> None:
        at_end = trainer.should_stop or trainer.current_epoch + 1 >= trainer.max_epochs
        due = at_end or time.monotonic() - self.written >= SAVE_S
        if not trainer.strategy.broadcast(due):  # as the first process has it: all of them take part in saving
            return
        with _uninterrupted():
            # Lightning moves what it writes from the folder of temporary files, which is no rename on another disk.
            whole = atomic_write(folder / LAST) if trainer.is_global_zero else nullcontext(folder / LAST)
            with whole as path:
                trainer.save_checkpoint(path)
            if trainer.is_global_zero:
                write_log(folder / LOG, learner.history)
                if self.on_best and self.told_epoch != self.best_epoch:
                    self.on_best(self.weights, self.best_epoch)
                    self.told_epoch = self.best_epoch
        self.written = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        kept = {"loss": self.loss, "best_epoch": self.best_epoch, "weights": self.weights}
        return kept | {"ended_early": self.ended_early}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loss, self.best_epoch, self.weights = state["loss"], state["best_epoch"], state["weights"]
        self.ended_early = state["ended_early"]


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C and a request to end wait, so that files that belong together are all of the same epoch."""
    if threading.current_thread() is not threading.main_thread():  # signals are none of its business
        yield
        return
    caught: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: caught.append(number)) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if caught:
            signal.raise_signal(caught[0])


def _trainer(recipe: Recipe, callbacks: list[pl.Callback]) -> Any:
    gpu = torch.cuda.is_available()
    there = torch.cuda.device_count() if gpu else os.cpu_count() or 1
    if recipe.devices > there:
        raise InputError(f"There are {there} {'GPUs' if gpu else 'cores'} here, not {recipe.devices}; give --devices.")
    if recipe.precision == "16-mixed" and not gpu:
        raise InputError("16-mixed needs a GPU, and there is none; give --precision bf16-mixed or 32.")
    if recipe.precision == "bf16-mixed" and not gpu and not _computes_bfloat16():
        held = " (ONEDNN_MAX_CPU_ISA is set)" if "ONEDNN_MAX_CPU_ISA" in os.environ else ""
        raise InputError(
            f"bf16-mixed needs a CPU with bfloat16 (AVX-512), which oneDNN does not find{held}; give --precision 32."
        )
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
            deterministic="warn" if gpu else None,  # CPUs are; asking for it there costs time
            use_distributed_sampler=False,  # ours know their place
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=1.0 if recipe.validation else 0,
            callbacks=callbacks,
        )
    except (MisconfigurationException, ValueError) as error:
        raise InputError(
            f"Lightning cannot train so ({one_line(error)}); check --devices, --nodes, --strategy and --precision."
        ) from error


def _computes_bfloat16() -> bool:
    """Whether oneDNN has kernels for LSTMs in bfloat16 here, seen by a step of the smallest one."""
    with torch.random.fork_rng(devices=[]):  # the weights are drawn from what the training draws from
        lstm = torch.nn.LSTM(1, 1, 2, batch_first=True)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            lstm(torch.zeros(1, 1, 1))[0].sum().backward()
    except RuntimeError:
        return False
    return True


def _last_state(folder: Path | None, lesson: Lesson, recipe: Recipe) -> Path:
    """The file to go on from; raises `InputError` if there is none, or if it is of another training."""
    path = (folder or Path()) / LAST
    if not path.is_file():
        raise InputError(f"There is no {path} to resume from; leave out --resume.")
    before, data = _told(path)
    now = asdict(recipe)
    if recipe.schedule != "cosine":  # whose course depends on the epochs
        before["epochs"] = now["epochs"]
    if changed := [name for name in now if before.get(name) != now[name]]:
        name = changed[0]
        raise InputError(
            f"The training in {path.parent} had --{option_of(name)} {before.get(name)}, not {now[name]}; repeat its "
            "options to resume it."
        )
    if data != lesson.data:
        raise InputError(f"The training in {path.parent} had other data; give the same to resume it.")
    return path


def belongs_to(folder: Path, recipe: Recipe) -> bool:
    """Whether a folder holds the state of a training with this very recipe."""
    try:
        return _told(folder / LAST)[0] == asdict(recipe)
    except InputError:
        return False


def _told(path: Path) -> tuple[dict[str, Any], str]:
    """The recipe and the data of a training, from its last state; raises `InputError` for what is no such file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles of old protocols
            state = torch.load(path, map_location="cpu", weights_only=True)
        if missing := PARTS - set(state):
            raise KeyError(*missing)
        return dict(state[OURS]["recipe"]), state[OURS]["data"]
    except Exception as error:  # torch.load on garbage raises anything
        raise _no_state(path) from error


def _no_state(path: Path) -> InputError:
    return InputError(f"{path} is not the whole state of a training of ours; leave out --resume.")
