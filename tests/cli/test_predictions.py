import numpy as np
import pytest
import torch

import lstm_deploy
from lstm_deploy.cli.predictions import classify, forecast, generate
from lstm_deploy.errors import InputError
from lstm_deploy.training.data.series import read_series


@pytest.fixture(scope="module")
def model(forecast_bundle):
    return lstm_deploy.open(forecast_bundle)


@pytest.fixture(scope="module")
def language(lm_bundle):
    return lstm_deploy.open(lm_bundle)


def test_the_next_value_is_the_last_output_of_the_last_window(model, prices):
    task = model.signature.task
    series = read_series(prices, task.features)
    x = series.values[None, -task.window :].astype(np.float32)
    np.testing.assert_allclose(forecast(model, task, series), model.run({"x": x})["y"][:, -1])


def test_further_values_slide_the_window_over_the_predictions(model, prices):
    task = model.signature.task
    series = read_series(prices, task.features)
    values = forecast(model, task, series, steps=3)
    rows = np.concatenate([series.values, values[:2]])[None, -task.window :].astype(np.float32)
    np.testing.assert_allclose(values[2], model.run({"x": rows})["y"][0, -1], rtol=1e-6)


def test_a_series_shorter_than_the_window_is_refused(model, tmp_path):
    (tmp_path / "short.csv").write_text("open,high,low,close\n" + "1,2,3,4\n" * 19)
    task = model.signature.task
    with pytest.raises(InputError, match="19 rows.*20"):
        forecast(model, task, read_series(tmp_path / "short.csv", task.features))


def test_greedy_text_is_what_argmax_over_the_whole_gives(language):
    task = language.signature.task
    prompt = "The "
    (text,) = generate(language, task, [prompt], 12)
    tokens = [task.vocabulary.index(character) for character in prompt]
    for character in text:
        logits = language.run({"x": np.array([tokens])})["y"][0, -1]
        assert task.vocabulary[int(logits.argmax())] == character
        tokens.append(int(logits.argmax()))
    assert len(text) == 12


def test_prompts_of_several_lengths_are_answered_as_each_alone(language):
    task = language.signature.task
    prompts = ["The ", "a", "help("]
    together = generate(language, task, prompts, 20)
    assert together == [generate(language, task, [prompt], 20)[0] for prompt in prompts]


def test_sampling_repeats_with_its_seed(language):
    task = language.signature.task
    first, again, other = (generate(language, task, ["a"], 40, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_a_text_ends_before_its_stop(language):
    task = language.signature.task
    (whole,) = generate(language, task, ["a"], 200, temperature=1.0)
    (ended,) = generate(language, task, ["a"], 200, temperature=1.0, stop="e")
    assert ended == whole.partition("e")[0] != whole


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_a_text_is_the_same_on_either_runtime(language, kind):
    task = language.signature.task
    assert generate(language, task, ["The "], 30, where={"runtime": kind}) == generate(language, task, ["The "], 30)


def test_a_prompt_it_cannot_spell_is_refused(language):
    task = language.signature.task
    with pytest.raises(InputError, match="never seen '☃'"):
        generate(language, task, ["a☃"], 3)
    with pytest.raises(InputError, match="empty"):
        generate(language, task, [""], 3)
    with pytest.raises(InputError, match="stop at '☃'"):
        generate(language, task, ["a"], 3, stop="☃")


class Texts(torch.nn.Module):
    """Tokens in, two logits out."""

    def __init__(self, size):
        super().__init__()
        self.embedding = torch.nn.Embedding(size, 4)
        self.lstm = torch.nn.LSTM(4, 6, batch_first=True, bidirectional=True)
        self.fc = torch.nn.Linear(12, 2)

    def forward(self, tokens):
        return self.fc(self.lstm(self.embedding(tokens))[0].max(dim=1).values)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    torch.manual_seed(0)
    task = lstm_deploy.Classify(labels=("bad", "good"), vocabulary=("<unk>", "fine", "dull", "film"), unknown=0)
    path = tmp_path_factory.mktemp("texts") / "b"
    module = Texts(4).eval()
    lstm_deploy.export(module, path, inputs={"tokens": "int64[batch,seq]"}, task=task)
    return lstm_deploy.open(path), module


def test_a_line_is_classified_as_pytorch_does(classifier):
    model, module = classifier
    for line, tokens in (("fine film", [1, 3]), ("  Dull unheard-of   film ", [2, 0, 3]), ("dull", [2])):
        found = classify(model, model.signature.task, line)
        with torch.no_grad():
            wanted = torch.softmax(module(torch.tensor([tokens])), -1)[0]
        assert found.label == ("bad", "good")[int(wanted.argmax())]
        assert found.probability == pytest.approx(float(wanted.max()), abs=1e-5)


def test_an_empty_line_is_refused(classifier):
    model, _ = classifier
    with pytest.raises(InputError, match="empty"):
        classify(model, model.signature.task, "   ")
    task = lstm_deploy.Classify(labels=("bad", "good"), vocabulary=("a", "fine", "dull", "film"))
    with pytest.raises(InputError, match="never seen 'new'"):
        classify(model, task, "fine new film")
