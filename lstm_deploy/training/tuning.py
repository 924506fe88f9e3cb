"""A Bayesian search of the hyper-parameters of a recipe, with Optuna."""

import json
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import torch
from msgspec import Struct
from msgspec.structs import asdict, replace
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from lstm_deploy.errors import InputError, LstmDeployError
from lstm_deploy.training.loop import fit
from lstm_deploy.training.pipeline import make_problem
from lstm_deploy.training.recipe import Range, Recipe, TaskName, check
from lstm_deploy.training.training_data import Material

STORAGE = "search.log"
"""File of a training's folder: every trial, so that a search can go on."""
STUDY, MEANING = "search", "meaning"
UNPRUNED = 5
"""Trials that run to their end before any is compared with them."""
OnTrial = Callable[[int, int, str], None]


class Tried(Struct, frozen=True, kw_only=True):
    """One trial."""

    trial: int
    loss: float | None
    """The best validation loss; of the epochs that were run, where it was stopped early. None where it failed."""
    epochs: int
    state: str
    """`complete`, `pruned` or `failed`."""
    chosen: dict[str, Any]


class Found(Struct, frozen=True, kw_only=True):
    """The recipe of the best trial, and all trials, the best first."""

    recipe: Recipe
    tried: tuple[Tried, ...]


def search(
    material: Material,
    task: TaskName,
    recipe: Recipe,
    trials: int,
    ranges: Mapping[str, Range],
    epochs: int,
    folder: Path,
    on_trial: OnTrial,
    *,
    resume: bool = False,
) -> Found:
    """Try so many recipes, each for so many epochs at most, by the best validation loss.

    What to try next is drawn by a tree-structured Parzen estimator (Bergstra et al., 2011), and a trial that is worse
    than the median of the others at the same epoch is stopped. `resume` goes on with what `folder` holds. Raises
    `InputError` for another search in the folder, and `LstmDeployError` if no trial gave a finite loss.
    """
    folder.mkdir(parents=True, exist_ok=True)
    storage = folder / STORAGE
    if not resume:
        storage.unlink(missing_ok=True)
    elif storage.exists():
        content = storage.read_bytes()
        storage.write_bytes(content[: content.rfind(b"\n") + 1])  # without a line that a kill has cut
    study = _study(storage, material, recipe, epochs, ranges)

    def objective(trial: Trial) -> float:
        chosen = {name: _suggest(trial, name, span) for name, span in ranges.items()}
        changed = replace(recipe, **chosen, epochs=epochs, patience=0)
        best, before = math.inf, len(_finished(study))

        def on_epoch(epoch: int, loss: float) -> None:
            nonlocal best
            best = min(best, loss)
            trial.report(best, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        def on_progress(done: int, steps: int, text: str) -> None:
            on_trial(before * steps + done, trials * steps, f"trial {before + 1} of {trials}, {text}")

        try:
            check(task, changed)
            torch.manual_seed(changed.seed)
            fitted = fit(make_problem(material, changed).lesson, changed, on_progress, on_epoch=on_epoch)
        except LstmDeployError as error:  # a loss that is not finite, or values that do not go together
            trial.set_user_attr("failed", str(error))
            raise optuna.TrialPruned from error
        if fitted.interrupted:
            raise KeyboardInterrupt
        return best

    study.optimize(objective, n_trials=max(0, trials - len(_finished(study))))
    tried = sorted(map(_told, _finished(study)), key=lambda trial: (trial.state != "complete", trial.loss or math.inf))
    if not tried or tried[0].state != "complete":
        reason = next((trial.user_attrs["failed"] for trial in study.trials if "failed" in trial.user_attrs), "")
        raise LstmDeployError(f"No trial of the search came to its end ({reason}); narrow the --range of its values.")
    return Found(recipe=replace(recipe, **tried[0].chosen), tried=tuple(tried))


def _study(path: Path, material: Material, recipe: Recipe, epochs: int, ranges: Mapping[str, Range]) -> optuna.Study:
    """The study in a file, made if it is not there; raises `InputError` if it is another one."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # of trials that fail, which are told in a table
    meaning = json.dumps(
        [
            asdict(recipe),
            epochs,
            {name: asdict(span) for name, span in ranges.items()},
            make_problem(material, recipe).lesson.data,
        ]
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(
            storage=storage,
            study_name=STUDY,
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED, n_warmup_steps=1),
        )
    except Exception as error:  # Optuna on garbage raises anything
        raise InputError(f"{path} is not a search that can go on; leave out --resume.") from error
    if study.user_attrs.setdefault(MEANING, meaning) != meaning:
        raise InputError(f"{path} is a search with other options, ranges or data; repeat them to resume it.")
    study.set_user_attr(MEANING, meaning)
    # Each time another seed, or a search that goes on would draw again what it has drawn.
    study.sampler = optuna.samplers.TPESampler(seed=recipe.seed + len(study.trials))
    return study


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    """All trials but those that Ctrl-C ended."""
    return [trial for trial in study.trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]


def _suggest(trial: Trial, name: str, span: Range) -> Any:
    if span.choices:
        return trial.suggest_categorical(name, span.choices)
    if span.whole:
        return trial.suggest_int(name, int(span.low), int(span.high), log=span.log)
    return trial.suggest_float(name, span.low, span.high, log=span.log)


def _told(trial: FrozenTrial) -> Tried:
    losses = trial.intermediate_values
    failed = "failed" in trial.user_attrs
    return Tried(
        trial=trial.number + 1,
        loss=None if failed or not losses else min(losses.values()),
        epochs=len(losses),
        state="failed" if failed else trial.state.name.lower(),
        chosen=trial.params,
    )
