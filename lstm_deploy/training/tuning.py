"""A Bayesian search for the hyper-parameters of a recipe, with Optuna."""

import json
import math
import warnings
from pathlib import Path
from typing import Any, Literal

import optuna
import torch
from msgspec import Struct
from msgspec.structs import asdict, replace
from optuna.distributions import distribution_to_json
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from lstm_deploy.errors import InputError, LstmDeployError
from lstm_deploy.progress import OnProgress
from lstm_deploy.training.loop import fit
from lstm_deploy.training.pipeline import make_learning_task
from lstm_deploy.training.recipe import Recipe, TaskName, check_recipe
from lstm_deploy.training.run_folder import SEARCH_LOG
from lstm_deploy.training.search_space import SearchSpace
from lstm_deploy.training.training_data import TrainingData

STUDY, MEANING = "search", "meaning"
UNPRUNED_TRIALS = 5
"""Trials that run all their epochs before others are compared with them."""


class TrialSummary(Struct, frozen=True, kw_only=True):
    """One trial of a search."""

    trial: int
    loss: float | None
    """The best validation loss of the epochs that were run; None if the trial failed."""
    epochs: int
    state: Literal["complete", "pruned", "failed"]
    chosen: dict[str, Any]


class SearchResult(Struct, frozen=True, kw_only=True):
    """The recipe of the best trial, and all trials, the best first."""

    recipe: Recipe
    trials: tuple[TrialSummary, ...]


def search(
    data: TrainingData,
    task: TaskName,
    recipe: Recipe,
    trials: int,
    space: SearchSpace,
    epochs: int,
    folder: Path,
    on_progress: OnProgress,
    *,
    resume: bool = False,
) -> SearchResult:
    """Run `trials` trainings of at most `epochs` each, and compare their best validation losses.

    A tree-structured Parzen estimator (Bergstra et al., 2011) chooses the values; a trial that is worse than the median
    of the others at the same epoch is pruned. `resume` continues the search in `folder`. Raises `InputError` for
    another search in the folder, and `LstmDeployError` if no trial completed.
    """
    ranges = {name: distribution_to_json(values) for name, values in space.items()}
    meaning = json.dumps([asdict(recipe), epochs, ranges, make_learning_task(data, recipe).data_digest])
    study = _open_study(folder / SEARCH_LOG, meaning, recipe.seed, resume)

    def run(trial: Trial, number: int) -> None:
        changed = replace(recipe, **trial.params, epochs=epochs, patience=0)
        best = math.inf

        def on_epoch(epoch: int, loss: float) -> None:
            nonlocal best
            best = min(best, loss)
            trial.report(best, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        def on_step(done: int, steps: int, text: str) -> None:
            on_progress(number * steps + done, trials * steps, f"trial {number + 1} of {trials}, {text}")

        try:
            check_recipe(task, changed)
            torch.manual_seed(changed.seed)
            if fit(make_learning_task(data, changed), changed, on_step, on_epoch=on_epoch).interrupted:
                raise KeyboardInterrupt
            study.tell(trial, best)
        except (LstmDeployError, optuna.TrialPruned) as error:
            if isinstance(error, LstmDeployError):  # an infinite or NaN loss, or values that conflict
                trial.set_user_attr("failed", str(error))
            study.tell(trial, state=TrialState.PRUNED)

    for number in range(len(_finished(study)), trials):
        run(study.ask(dict(space)), number)
    summaries = sorted(
        map(_summary, _finished(study)), key=lambda s: (s.state != "complete", math.inf if s.loss is None else s.loss)
    )
    if not summaries or summaries[0].state != "complete":
        reason = next((trial.user_attrs["failed"] for trial in study.trials if "failed" in trial.user_attrs), "")
        raise LstmDeployError(f"No trial of the search completed ({reason}); narrow the --range of its values.")
    return SearchResult(recipe=replace(recipe, **summaries[0].chosen), trials=tuple(summaries))


def _open_study(path: Path, meaning: str, seed: int, resume: bool) -> optuna.Study:
    """A new study in a file, or the one there; raises `InputError` if that has another `meaning`."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # failed trials are part of the result
    path.parent.mkdir(parents=True, exist_ok=True)
    if not resume:
        path.unlink(missing_ok=True)
    elif path.exists():
        content = path.read_bytes()
        path.write_bytes(content[: content.rfind(b"\n") + 1])  # without a last line that was cut short
    pruner = optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS, n_warmup_steps=1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(storage=storage, study_name=STUDY, load_if_exists=True, pruner=pruner)
    except Exception as error:  # Optuna raises anything on garbage
        raise InputError(f"{path} is not a search that can be resumed; leave out --resume.") from error
    if study.user_attrs.setdefault(MEANING, meaning) != meaning:
        raise InputError(f"{path} is a search with other options, ranges or data; repeat them to resume it.")
    study.set_user_attr(MEANING, meaning)
    # The seed depends on the trials so far, or a resumed search would draw the same values again.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    return study


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    """All trials except those that Ctrl-C ended."""
    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def _summary(trial: FrozenTrial) -> TrialSummary:
    losses = trial.intermediate_values
    failed = "failed" in trial.user_attrs
    return TrialSummary(
        trial=trial.number + 1,
        loss=None if failed or not losses else min(losses.values()),
        epochs=len(losses),
        state="failed" if failed else "complete" if trial.state == TrialState.COMPLETE else "pruned",
        chosen=trial.params,
    )
