import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lstm_deploy.cli import arguments
from lstm_deploy.errors import InputError
from lstm_deploy.training.recipe import Recipe, make_recipe
from lstm_deploy.training.search_space import DEFAULT_SPACE, SEARCHABLE, make_search_space


def space_of(*texts, fixed=()):
    return make_search_space(arguments.pairs("range", list(texts)), make_recipe("forecast"), fixed)


def test_ranges_are_read_by_the_names_of_options():
    space = space_of(
        "learning-rate=1e-4..1e-1:log",
        "layers=1..3",
        "hidden_size=8, 16",
        "optimizer=adam,sgd",
        "dropout=0..0.5",
        "cell=lstm,gru",
    )
    assert space == {
        "learning_rate": FloatDistribution(1e-4, 0.1, log=True),
        "num_layers": IntDistribution(1, 3),
        "hidden_size": CategoricalDistribution((8, 16)),
        "optimizer": CategoricalDistribution(("adam", "sgd")),
        "dropout": FloatDistribution(0.0, 0.5),
        "cell": CategoricalDistribution(("lstm", "gru")),
    }
    assert space_of() == DEFAULT_SPACE
    assert set(DEFAULT_SPACE) <= set(SEARCHABLE)
    assert set(SEARCHABLE) <= set(Recipe.__struct_fields__)


def test_options_that_are_given_are_not_searched_by_default():
    assert set(space_of(fixed=["dropout", "num_layers", "window"])) == {"learning_rate", "hidden_size"}
    with pytest.raises(InputError, match="name others with --range"):
        space_of(fixed=DEFAULT_SPACE)
    assert set(space_of("dropout=0..0.5", fixed=DEFAULT_SPACE)) == {"dropout"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs=1..3", "not an option to search"),
        ("learning-rate", "NAME=VALUE"),
        ("learning-rate=a..b", "is not a range"),
        ("learning-rate=0..1:log", "is not a range"),
        ("learning-rate=2..1", "is not a range"),
        ("learning-rate=1..inf", "is not a range"),
        ("hidden-size=8..16..32", "is not a range"),
        ("hidden-size=1.5,2", "is not a range"),
        ("optimizer=adam..sgd", "is not a range"),
        ("cell=lstm..rnn", "is not a range"),
        ("cell=lstm,conv", "--cell cannot be 'conv'; choose from gru, lstm, rnn"),
    ],
)
def test_malformed_ranges_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        space_of(text)
