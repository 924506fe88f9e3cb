import re

import pytest
from command_line import fails, run
from msgspec.structs import fields

from lstm_deploy.cli.recipe_options import OPTIONS
from lstm_deploy.training.recipe import DEFAULTS, Recipe


@pytest.fixture(scope="module")
def help_text():
    """The help of `train` in one line."""
    return " ".join(run("train", "--help")[0].split())


@pytest.mark.parametrize("field", [field.name for field in fields(Recipe)])
def test_every_field_of_a_recipe_is_an_option(help_text, field):
    assert re.search(rf" --(\[no-\])?{OPTIONS[field].replace('_', '-')} ", help_text)


def test_defaults_are_those_of_each_task(help_text):
    shown = [
        f"{DEFAULTS['forecast']['window']}",
        *(f"{task}: {DEFAULTS[task]['window']}" for task in ("lm", "classify")),
    ]
    assert f"[default: {'; '.join(shown)}]" in help_text
    assert "predict the change from the current value. [default: yes]" in help_text
    assert re.search(r"--head-size N [^[]*\[default: 0\]", help_text)


def test_an_option_of_one_task_is_marked_and_refused_elsewhere(help_text, text):
    assert re.search(r"--horizon N forecast: ", help_text)
    assert "--horizon 3 has no effect for --task lm" in fails("train", text, "--task", "lm", "--horizon", 3)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--hidden-size", 0), ("--layers", 65), ("--dropout", 1), ("--unit", "syllable"), ("--cell", "conv")],
)
def test_values_out_of_range_are_refused_with_the_option(text, option, value):
    _, err = run("train", text, "--task", "lm", option, value, code=2)
    assert f"error: {option} cannot be {str(value)!r}; " in err


@pytest.mark.parametrize(("option", "value"), [("--learning-rate", 0), ("--test", 1)])
def test_values_at_an_open_bound_are_refused_too(text, option, value):
    assert option in fails("train", text, "--task", "lm", option, value)
