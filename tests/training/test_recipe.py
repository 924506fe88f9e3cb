import pytest

from lstm_deploy.cli import arguments
from lstm_deploy.errors import InputError
from lstm_deploy.training.recipe import DEFAULTS, RANGES, SEARCHABLE, Range, Recipe, make_recipe


@pytest.mark.parametrize("task", DEFAULTS)
def test_every_task_has_a_recipe_without_any_option(task):
    assert isinstance(make_recipe(task), Recipe)


def test_what_is_given_replaces_the_default_and_none_does_not():
    recipe = make_recipe("lm", hidden_size=7, epochs=None)
    assert (recipe.hidden_size, recipe.epochs) == (7, DEFAULTS["lm"]["epochs"])


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        ("lm", {"horizon": 2}, "--horizon 2 means nothing for --task lm"),
        ("forecast", {"unit": "word"}, "--unit word means nothing"),
        ("classify", {"loss_on": "last"}, "--loss-on last means nothing"),
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
        ("forecast", {"test": 0.0}, "--test: Expected `float` > 0"),
        ("forecast", {"test": 1.0}, "--test: Expected `float` < 1"),
        ("forecast", {"validation": 1.0}, "--validation: Expected"),
        ("forecast", {"num_layers": 0}, "--layers: Expected `int` >= 1"),
        ("forecast", {"optimizer": "lion"}, "--optimizer: Invalid enum value 'lion'"),
        ("forecast", {"validation": 0.0, "patience": 3}, "--patience needs a part to validate on"),
        ("forecast", {"validation": 0.0, "schedule": "plateau"}, "--schedule plateau needs"),
        ("forecast", {"learning_rate": 0.0}, "--learning-rate: Expected `float` > 0"),
    ],
)
def test_options_that_contradict_each_other_are_refused(task, given, message):
    with pytest.raises(InputError, match=message):
        make_recipe(task, **given)


def test_networks_that_see_whole_windows_tell_of_their_last_step():
    assert make_recipe("forecast", bidirectional=True).pooling == "last"
    assert make_recipe("forecast", window_norm=True, pooling="attention").pooling == "attention"
    assert make_recipe("forecast").pooling == "none"


def test_ranges_are_read_by_the_names_of_options():
    found = arguments.ranges(
        ["learning-rate=1e-4..1e-1:log", "layers=1..3", "hidden_size=8, 16", "optimizer=adam,sgd", "dropout=0..0.5"]
    )
    assert found == {
        "learning_rate": Range(low=1e-4, high=0.1, log=True),
        "num_layers": Range(low=1, high=3, whole=True),
        "hidden_size": Range(choices=(8, 16)),
        "optimizer": Range(choices=("adam", "sgd")),
        "dropout": Range(low=0.0, high=0.5),
    }
    assert arguments.ranges(None) == RANGES
    assert set(RANGES) <= set(SEARCHABLE)
    assert set(SEARCHABLE) <= set(Recipe.__struct_fields__)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs=1..3", "nothing that a search can try"),
        ("learning-rate", "NAME=VALUE"),
        ("learning-rate=a..b", "is no range"),
        ("learning-rate=0..1:log", "is no range"),
        ("learning-rate=2..1", "is no range"),
        ("learning-rate=1..inf", "is no range"),
        ("hidden-size=8..16..32", "is no range"),
        ("hidden-size=1.5,2", "is no range"),
        ("optimizer=adam..sgd", "is no range"),
    ],
)
def test_what_is_no_range_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        arguments.ranges([text])
