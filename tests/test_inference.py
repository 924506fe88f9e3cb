import numpy as np
import pytest

import lstm_deploy
from lstm_deploy.data import read_series
from lstm_deploy.errors import InputError
from lstm_deploy.inference import forecast, generate


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
    text = "".join(generate(language, task, prompt, 12))
    tokens = [task.vocabulary.index(character) for character in prompt]
    for character in text:
        logits = language.run({"x": np.array([tokens])})["y"][0, -1]
        assert task.vocabulary[int(logits.argmax())] == character
        tokens.append(int(logits.argmax()))
    assert len(text) == 12


def test_sampling_repeats_with_its_seed(language):
    task = language.signature.task
    first, again, other = ("".join(generate(language, task, "a", 40, temperature=1.0, seed=s)) for s in (1, 1, 2))
    assert first == again != other


def test_sampling_follows_the_softmax(language):
    """20,000 draws of one character: each frequency within 5 standard errors of its probability."""
    task = language.signature.task
    logits = language.run({"x": np.array([[3]])})["y"][0, -1].astype(np.float64) / 0.7
    wanted = np.exp(logits - logits.max())
    wanted /= wanted.sum()
    from lstm_deploy.inference import _sampler

    draw = _sampler(0.7, 0)
    raw = language.run({"x": np.array([[3]])})["y"][0, -1]
    counts = np.bincount([draw(raw) for _ in range(20_000)], minlength=len(task.vocabulary)) / 20_000
    assert (np.abs(counts - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / 20_000) + 1e-9).all()


def test_a_prompt_it_cannot_spell_is_refused(language):
    task = language.signature.task
    with pytest.raises(InputError, match="never seen '☃'"):
        generate(language, task, "a☃", 3)
    with pytest.raises(InputError, match="empty"):
        generate(language, task, "", 3)
