import os
import signal

import pytest
from msgspec.structs import replace
from small_models import ignore, small
from test_training import sine

from lstm_deploy.errors import InputError, LstmDeployError
from lstm_deploy.training.recipe import Range
from lstm_deploy.training.tuning import search

RANGES = {"learning_rate": Range(low=1e-5, high=0.1, log=True), "hidden_size": Range(choices=(2, 8))}
RECIPE = small("forecast", epochs=4)


def run(folder, trials, *, ranges=RANGES, recipe=RECIPE, material=None, epochs=2, on_trial=ignore, resume=False):
    given = material or sine(200)
    return search(given, "forecast", recipe, trials, ranges, epochs, folder, on_trial, resume=resume)


def test_the_best_of_all_trials_is_told_and_its_recipe_is_what_it_tried(tmp_path):
    found = run(tmp_path, 7)
    complete = [trial for trial in found.tried if trial.state == "complete"]
    assert [trial.loss for trial in complete] == sorted(trial.loss for trial in complete)
    assert found.recipe == replace(RECIPE, **complete[0].chosen)
    assert found.recipe.epochs == 4
    assert sorted(trial.trial for trial in found.tried) == list(range(1, 8))
    assert all(1e-5 <= trial.chosen["learning_rate"] <= 0.1 for trial in found.tried)
    assert len({trial.chosen["learning_rate"] for trial in found.tried}) == 7


def test_trials_that_are_worse_than_the_others_are_stopped_early(tmp_path):
    """So many poor ones among good ones that one of them must be met once it can be compared."""
    ranges = {"learning_rate": Range(choices=(1e-7, 0.01, 0.02, 0.03))}
    found = run(tmp_path, 12, ranges=ranges, epochs=3)
    pruned = [trial for trial in found.tried if trial.state == "pruned"]
    assert pruned
    assert all(trial.epochs < 3 for trial in pruned)


def test_a_search_goes_on_where_it_was_stopped(tmp_path):
    first = run(tmp_path, 3)
    more = run(tmp_path, 5, resume=True)
    before = {trial.trial: trial.chosen for trial in first.tried}
    after = {trial.trial: trial.chosen for trial in more.tried}
    assert before.items() <= after.items()
    assert len(after) == 5
    assert len({str(chosen) for chosen in after.values()}) == 5
    assert run(tmp_path, 5, resume=True) == more


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_ends_a_search_that_can_go_on(tmp_path):
    def interrupt(done, total, _):
        if done > 0.6 * total:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 4, on_trial=interrupt)
    tried = run(tmp_path, 4, resume=True).tried
    assert len(tried) == 4
    assert "failed" not in {trial.state for trial in tried}


@pytest.mark.parametrize(
    "change",
    [{"ranges": {"dropout": Range(low=0, high=0.5)}}, {"recipe": small("forecast", epochs=5)}, {"epochs": 1}],
)
def test_another_search_is_not_resumed(tmp_path, change):
    run(tmp_path, 1)
    with pytest.raises(InputError, match="repeat them to resume it"):
        run(tmp_path, 2, resume=True, **change)
    run(tmp_path, 1, **change)


@pytest.mark.parametrize("line", ["{]", "[1, 2]", "null", '{"op_code": 99}', '{"op_code": 0}', "\x00\x01"])
def test_what_is_no_search_is_not_resumed(tmp_path, line):
    (tmp_path / "search.log").write_text(f"{line}\n")
    with pytest.raises(InputError, match="leave out --resume"):
        run(tmp_path, 1, resume=True)


def test_a_search_whose_last_line_was_cut_goes_on(tmp_path):
    run(tmp_path, 3)
    log = tmp_path / "search.log"
    whole = log.read_bytes()
    for left in (len(whole) - 10, len(whole) * 3 // 4, len(whole) // 2):
        log.write_bytes(whole[:left])
        assert len(run(tmp_path, 3, resume=True).tried) == 3


def test_trials_that_fail_are_told_and_the_others_go_on(tmp_path):
    ranges = {"proj_size": Range(choices=(4, 8))}  # 8 is no smaller than the hidden size
    found = run(tmp_path, 8, ranges=ranges)
    assert {trial.state for trial in found.tried if trial.chosen["proj_size"] == 8} == {"failed"}
    assert found.recipe.proj_size == 4
    with pytest.raises(LstmDeployError, match="no smaller than --hidden-size"):
        run(tmp_path, 2, ranges={"proj_size": Range(choices=(8,))})
