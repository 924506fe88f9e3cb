"""The state of a training run: saved after epochs, and checked before the run is resumed."""

import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import torch
from lightning.pytorch.callbacks import Checkpoint
from msgspec.structs import asdict
from torch import Tensor

from lstm_deploy.artifacts import atomic_write
from lstm_deploy.errors import InputError
from lstm_deploy.training.recipe import Recipe, option_name
from lstm_deploy.training.run_folder import LAST_STATE, LOG, Epoch, write_log

Weights = dict[str, Tensor]
OnBest = Callable[[Weights, int], None]
"""Called with the weights and the number of the best epoch so far, after its state is saved."""
OnEpoch = Callable[[int, float], None]
"""Called with the number and the validation loss of each epoch; may raise to stop the training."""
REQUIRED = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks"}
"""Lightning's entries of `LAST_STATE`, all of which a run needs to continue as if it had never stopped."""
RUN_ENTRY = "lstm_deploy"
"""Our own entry of `LAST_STATE`: recipe, data and history."""
SAVE_S = 2.0
"""Minimum seconds between two saves: an epoch of a small network takes less time than a save."""
DEFERRED = (signal.SIGINT, signal.SIGTERM)
"""Signals that wait until a save is complete."""


class RunSaver(Checkpoint):  # type: ignore[misc] # Lightning publishes no types
    """Keeps the weights of the best epoch, and saves the run to its folder. Lightning calls it after other callbacks.

    It reads `history` and `network` of the module that is trained.
    """

    folder: Path | None
    on_best: OnBest | None
    on_epoch: Callable[[int, float], None] | None
    started: bool
    loss: float
    best_epoch: int
    ended_early: bool
    reported_epoch: int
    saved: float

    def __init__(self, folder: Path | None, on_best: OnBest | None, on_epoch: OnEpoch | None) -> None:
        self.folder, self.on_best, self.on_epoch = folder, on_best, on_epoch
        self.loss, self.best_epoch, self.reported_epoch = math.inf, 0, 0
        self.weights: Weights = {}
        self.saved = -math.inf
        self.ended_early = self.started = False

    def on_train_start(self, trainer: Any, _: Any) -> None:
        trainer.should_stop, self.started = self.ended_early, True

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        epoch = module.history[-1]
        # Without a part to validate on, the latest epoch is the best one.
        loss = -float(epoch.epoch) if epoch.validation_loss is None else epoch.validation_loss
        if loss < self.loss:
            self.loss, self.best_epoch = loss, epoch.epoch
            self.weights = {name: value.detach().clone() for name, value in module.network.state_dict().items()}
        self.ended_early = trainer.should_stop
        if self.folder is not None:
            self._save(trainer, module.history, self.folder)
        if self.on_epoch and epoch.validation_loss is not None:
            self.on_epoch(epoch.epoch, epoch.validation_loss)

    def _save(self, trainer: Any, history: Sequence[Epoch], folder: Path) -> None:
        at_end = trainer.should_stop or trainer.current_epoch + 1 >= trainer.max_epochs
        due = at_end or time.monotonic() - self.saved >= SAVE_S
        if not trainer.strategy.broadcast(due):  # decided by the first process: all of them take part in saving
            return
        with _signals_deferred():
            # Lightning moves its file from the temporary folder, which is not atomic if that is on another disk.
            atomic = atomic_write(folder / LAST_STATE) if trainer.is_global_zero else nullcontext(folder / LAST_STATE)
            with atomic as path:
                trainer.save_checkpoint(path)
            if trainer.is_global_zero:
                write_log(folder / LOG, history)
                if self.on_best and self.reported_epoch != self.best_epoch:
                    self.on_best(self.weights, self.best_epoch)
                    self.reported_epoch = self.best_epoch
        self.saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("loss", "best_epoch", "weights", "ended_early")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in self.state_dict():
            setattr(self, name, state[name])


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """Delay `DEFERRED`, so that files which belong together are all from the same epoch."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        yield
        return
    caught: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: caught.append(number)) for number in DEFERRED}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if caught:
            signal.raise_signal(caught[0])


def state_to_resume(folder: Path | None, data_digest: str, recipe: Recipe) -> Path:
    """The file to resume from; raises `InputError` if there is none, or if it belongs to another run."""
    path = (folder or Path()) / LAST_STATE
    if not path.is_file():
        raise InputError(f"There is no {path} to resume from; leave out --resume.")
    before, data = _recipe_and_data(path)
    if recipe.schedule != "cosine":  # whose course depends on the number of epochs
        before["epochs"] = recipe.epochs
    for name, value in asdict(recipe).items():
        if (old := before.get(name)) != value:
            raise InputError(
                f"The run in {path.parent} had --{option_name(name)} {old}, not {value}; repeat its options."
            )
    if data != data_digest:
        raise InputError(f"The run in {path.parent} had other data; resume it with the same data.")
    return path


def belongs_to(folder: Path, recipe: Recipe) -> bool:
    """Whether a folder holds the state of a run with exactly this recipe."""
    try:
        return _recipe_and_data(folder / LAST_STATE)[0] == asdict(recipe)
    except InputError:
        return False


def _recipe_and_data(path: Path) -> tuple[dict[str, Any], str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of old protocols
            state = torch.load(path, map_location="cpu", weights_only=True)
        if missing := REQUIRED - set(state):
            raise KeyError(*missing)
        recipe = msgspec.convert(state[RUN_ENTRY]["recipe"], Recipe)  # of an older version, without some fields
        return asdict(recipe), state[RUN_ENTRY]["data"]
    except Exception as error:  # torch.load raises anything on garbage
        raise incomplete_state(path) from error


def incomplete_state(path: Path) -> InputError:
    """The error for a file that does not hold the whole state of a run."""
    return InputError(f"{path} is not the complete state of a training run; leave out --resume.")
