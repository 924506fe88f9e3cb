import math

import pytest
from small_models import ignore, small

from lstm_deploy.errors import InputError
from lstm_deploy.training import pipeline
from lstm_deploy.training.language_modelling import LanguageModelling
from lstm_deploy.training.training_data import TrainingData


def train(text, **changes):
    return pipeline.train(TrainingData(content=text), small("lm", **changes), ignore)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"state": "reset"},
        {"state": "reset", "loss_on": "last", "stride": 3, "epochs": 6, "batch_size": 16},
        {"state": "reset", "pooling": "last", "stride": 3, "epochs": 6, "batch_size": 16},
        {"embedding_size": 4},
        {"unit": "byte", "epochs": 14, "hidden_size": 32},
    ],
)
def test_a_repeated_text_is_learned_in_every_form(form):
    settings = {"hidden_size": 16, "epochs": 8, "learning_rate": 0.03, "window": 20, "batch_size": 2, **form}
    metrics = train("abcdefgh" * 200, **settings).evaluation.metrics
    unit = form.get("unit", "character")
    assert metrics[f"nats_per_{unit}"] < 0.5  # of 2.08 and 5.5 for guesses
    assert metrics[f"bits_per_{unit}"] == pytest.approx(metrics[f"nats_per_{unit}"] / math.log(2))
    assert metrics[f"{unit}s"] == 160


def test_the_vocabulary_is_the_sorted_characters_or_all_bytes():
    assert LanguageModelling("hello world " * 30, small("lm")).task.vocabulary == tuple(" dehlorw")
    task = LanguageModelling("Größe ✿ " * 60, small("lm", unit="byte")).task
    assert len(task.vocabulary) == 256
    assert task.decode(task.encode("Größe ✿ 漢")) == "Größe ✿ 漢"


def test_the_state_policy_is_that_of_the_training():
    assert train("abcdefgh" * 100).spec.state_policy == "carry"
    assert train("abcdefgh" * 100, state="reset").spec.state_policy == "reset"


def test_texts_that_are_too_short_are_refused():
    with pytest.raises(InputError, match="smaller --window"):
        train("abc" * 20, window=100)
    with pytest.raises(InputError, match="smaller --window"):
        train("a", window=1)
