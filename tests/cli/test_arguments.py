from pathlib import Path

import pytest

from lstm_deploy.cli import arguments
from lstm_deploy.cli.options import SourceOptions, TaskOptions
from lstm_deploy.contract.tasks import Classify, Forecast, LanguageModel
from lstm_deploy.errors import InputError


def task(kind, **given):
    return arguments.task_of(TaskOptions(task=kind, **given))


def test_nothing_said_is_no_task():
    assert task(None) is None


def test_a_forecast_predicts_all_its_columns_unless_told():
    assert task("forecast", features=["a, b"], window=3) == Forecast(features=("a", "b"), targets=("a", "b"), window=3)
    assert task("forecast", features=["a", "b"], target=["b"], window=3).targets == ("b",)


def test_text_has_a_vocabulary(tmp_path):
    Path(tmp_path / "t.txt").write_text("banana")
    assert task("lm", vocabulary=tmp_path / "t.txt") == LanguageModel(vocabulary=("a", "b", "n"))
    Path(tmp_path / "w.json").write_text('["<unk>", "good"]')
    assert task("classify", vocabulary=tmp_path / "w.json", labels=["no,yes"]) == Classify(
        labels=("no", "yes"), vocabulary=("<unk>", "good"), unknown=0
    )


@pytest.mark.parametrize(("text", "part"), [("1%", 0.01), ("0.05", 0.05), (" 100 % ", 1.0), (None, None)])
def test_parts_are_percentages_or_fractions(text, part):
    assert arguments.part("max-metric-loss", text) == part


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000], ids=["cut", "list", "deep"])
def test_arguments_of_a_class_that_are_no_json_object_are_refused(text):
    with pytest.raises(InputError, match=r"--init is not .*write it as"):
        arguments.origin(Path("m.pt"), SourceOptions(init=text))


@pytest.mark.parametrize("text", ["1", "2", "-1%", "x", "nan", "101%"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(InputError, match="write it as 1% or 0.01"):
        arguments.part("max-metric-loss", text)


def test_numbers_are_for_all_outputs_or_for_one():
    assert arguments.numbers("atol", ["1e-4", "y=2"]) == {"": 1e-4, "y": 2.0}
    for wrong in ("x", "y=", "=1e-4x"):
        with pytest.raises(InputError, match="--atol"):
            arguments.numbers("atol", [wrong])


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (None, ()),
        ([], ()),
        (["a,b"], ("a", "b")),
        (["a", "b"], ("a", "b")),
        ([" a , b", "c,"], ("a", "b", "c")),
        (["x:float32[batch,seq,40],n:int64[batch]"], ("x:float32[batch,seq,40]", "n:int64[batch]")),
    ],
)
def test_several_values_are_between_commas_or_the_option_is_repeated(texts, values):
    assert arguments.listed(texts) == values


def test_sizes_and_pairs():
    assert arguments.sizes("batch", ["1, 32", "1"]) == (1, 32)
    assert arguments.choices("scope", ["resident,resident"]) == ("resident",)
    assert arguments.pairs("map", ["h_in=a", "c_in=b"]) == {"h_in": "a", "c_in": "b"}
    for call in (lambda: arguments.sizes("batch", ["0"]), lambda: arguments.pairs("map", ["h_in"])):
        with pytest.raises(InputError):
            call()
