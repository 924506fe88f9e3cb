from typing import get_args

import pytest

from lstm_deploy.contract import CELLS_BY_NAME
from lstm_deploy.errors import InputError
from lstm_deploy.training.recipe import DEFAULTS, CellName, Recipe, make_recipe


@pytest.mark.parametrize("task", DEFAULTS)
def test_every_task_has_a_default_recipe(task):
    assert isinstance(make_recipe(task), Recipe)


def test_a_given_option_replaces_the_default_and_none_does_not():
    recipe = make_recipe("lm", hidden_size=7, epochs=None)
    assert (recipe.hidden_size, recipe.epochs) == (7, DEFAULTS["lm"]["epochs"])


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        ("lm", {"horizon": 2}, "--horizon 2 has no effect for --task lm"),
        ("forecast", {"unit": "word"}, "--unit word has no effect"),
        ("classify", {"loss_on": "last"}, "--loss-on last has no effect"),
        ("lm", {"bidirectional": True}, "sees the character"),
        ("lm", {"unit": "word"}, "character or byte"),
        ("classify", {"unit": "byte"}, "not bytes"),
        ("classify", {"pooling": "none"}, "one class for each text"),
        ("lm", {"pooling": "last"}, "--state reset"),
        ("lm", {"loss_on": "last"}, "--state reset"),
        ("lm", {"stride": 3}, "leave out --stride"),
        ("forecast", {"bidirectional": True, "pooling": "none"}, "give --pooling last"),
        ("forecast", {"window_norm": True, "loss_on": "every"}, "give --pooling last"),
        ("forecast", {"proj_size": 32}, "no smaller than --hidden-size"),
        ("forecast", {"cell": "gru", "proj_size": 4}, "PyTorch's GRU has no projection; leave out --proj-size"),
        ("forecast", {"cell": "conv"}, "--cell cannot be 'conv'; choose from gru, lstm, rnn"),
        ("forecast", {"test": 0.0}, "--test cannot be 0.0; it must be above 0"),
        ("forecast", {"test": 1.0}, "--test cannot be 1.0; it must be below 1"),
        ("forecast", {"validation": 1.0}, "--validation cannot be 1.0; it must be below 1"),
        ("forecast", {"num_layers": 0}, "--layers cannot be 0; it must be at least 1"),
        ("forecast", {"optimizer": "lion"}, "--optimizer cannot be 'lion'; choose from adam"),
        ("forecast", {"validation": 0.0, "patience": 3}, "--patience needs validation data"),
        ("forecast", {"validation": 0.0, "schedule": "plateau"}, "--schedule plateau needs"),
        ("forecast", {"learning_rate": 0.0}, "--learning-rate cannot be 0.0; it must be above 0"),
    ],
)
def test_options_that_conflict_are_refused(task, given, message):
    with pytest.raises(InputError, match=message):
        make_recipe(task, **given)


def test_networks_that_need_whole_windows_predict_at_the_last_step():
    assert make_recipe("forecast", bidirectional=True).pooling == "last"
    assert make_recipe("forecast", window_norm=True, pooling="attention").pooling == "attention"
    assert make_recipe("forecast").pooling == "none"


def test_an_unknown_task_or_option_is_told_with_those_there_are():
    with pytest.raises(InputError, match="'foo' is not a task; choose from forecast, lm, classify"):
        make_recipe("foo")
    with pytest.raises(InputError, match="no 'hidden'; did you mean 'hidden_size'"):
        make_recipe("lm", hidden=3)
    with pytest.raises(InputError, match="no 'hidden'"):
        make_recipe("lm", hidden=None)


def test_cells_have_the_names_of_their_records():
    assert set(get_args(CellName)) <= set(CELLS_BY_NAME)
