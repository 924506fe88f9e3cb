import os
import signal

import pytest
from msgspec.structs import replace
from optuna.distributions import CategoricalDistribution, FloatDistribution
from small_models import ignore, sine, small

from lstm_deploy.errors import InputError, LstmDeployError
from lstm_deploy.training.tuning import search

SPACE = {"learning_rate": FloatDistribution(1e-5, 0.1, log=True), "hidden_size": CategoricalDistribution((2, 8))}
RECIPE = small("forecast", epochs=4)


def run(folder, trials, *, space=SPACE, recipe=RECIPE, epochs=2, on_progress=ignore, resume=False):
    return search(sine(200), "forecast", recipe, trials, space, epochs, folder, on_progress, resume=resume)


def test_the_best_trial_comes_first_and_gives_the_recipe(tmp_path):
    result = run(tmp_path, 7)
    complete = [trial for trial in result.trials if trial.state == "complete"]
    assert [trial.loss for trial in complete] == sorted(trial.loss for trial in complete)
    assert result.recipe == replace(RECIPE, **complete[0].chosen)
    assert result.recipe.epochs == 4
    assert sorted(trial.trial for trial in result.trials) == list(range(1, 8))
    assert all(1e-5 <= trial.chosen["learning_rate"] <= 0.1 for trial in result.trials)
    assert len({trial.chosen["learning_rate"] for trial in result.trials}) == 7


def test_trials_that_are_worse_than_the_others_are_pruned(tmp_path):
    """There are enough poor values that one is drawn once trials are compared."""
    space = {"learning_rate": CategoricalDistribution((1e-7, 0.01, 0.02, 0.03))}
    result = run(tmp_path, 12, space=space, epochs=3)
    pruned = [trial for trial in result.trials if trial.state == "pruned"]
    assert pruned
    assert all(trial.epochs < 3 for trial in pruned)


def test_a_search_is_resumed_where_it_was_stopped(tmp_path):
    first = run(tmp_path, 3)
    more = run(tmp_path, 5, resume=True)
    before = {trial.trial: trial.chosen for trial in first.trials}
    after = {trial.trial: trial.chosen for trial in more.trials}
    assert before.items() <= after.items()
    assert len(after) == 5
    assert len({str(chosen) for chosen in after.values()}) == 5
    assert run(tmp_path, 5, resume=True) == more


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_search_that_ctrl_c_ended_can_be_resumed(tmp_path):
    def interrupt(done, total, _):
        if done > 0.6 * total:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 4, on_progress=interrupt)
    trials = run(tmp_path, 4, resume=True).trials
    assert len(trials) == 4
    assert "failed" not in {trial.state for trial in trials}


@pytest.mark.parametrize(
    "change",
    [{"space": {"dropout": FloatDistribution(0, 0.5)}}, {"recipe": small("forecast", epochs=5)}, {"epochs": 1}],
)
def test_another_search_is_not_resumed(tmp_path, change):
    run(tmp_path, 1)
    with pytest.raises(InputError, match="repeat them to resume it"):
        run(tmp_path, 2, resume=True, **change)
    run(tmp_path, 1, **change)


@pytest.mark.parametrize("line", ["{]", "[1, 2]", "null", '{"op_code": 99}', '{"op_code": 0}', "\x00\x01"])
def test_a_file_that_is_no_search_is_not_resumed(tmp_path, line):
    (tmp_path / "search.log").write_text(f"{line}\n")
    with pytest.raises(InputError, match="leave out --resume"):
        run(tmp_path, 1, resume=True)


def test_a_search_whose_last_line_was_cut_short_is_resumed(tmp_path):
    run(tmp_path, 3)
    log = tmp_path / "search.log"
    whole = log.read_bytes()
    for left in (len(whole) - 10, len(whole) * 3 // 4, len(whole) // 2):
        log.write_bytes(whole[:left])
        assert len(run(tmp_path, 3, resume=True).trials) == 3


def test_failed_trials_are_reported_and_the_others_continue(tmp_path):
    space = {"proj_size": CategoricalDistribution((4, 8))}  # 8 is no smaller than the hidden size
    result = run(tmp_path, 8, space=space)
    assert {trial.state for trial in result.trials if trial.chosen["proj_size"] == 8} == {"failed"}
    assert result.recipe.proj_size == 4
    with pytest.raises(LstmDeployError, match="no smaller than --hidden-size"):
        run(tmp_path, 2, space={"proj_size": CategoricalDistribution((8,))})


def test_a_search_chooses_among_cells(tmp_path):
    result = run(tmp_path, 6, space={"cell": CategoricalDistribution(("lstm", "gru", "rnn"))})
    losses = {trial.chosen["cell"]: trial.loss for trial in result.trials}
    assert len(set(losses.values())) == len(losses) > 1
    assert result.recipe.cell == result.trials[0].chosen["cell"]
    with pytest.raises(LstmDeployError, match="leave out --proj-size"):
        run(tmp_path, 1, space={"cell": CategoricalDistribution(("gru",)), "proj_size": CategoricalDistribution((4,))})
