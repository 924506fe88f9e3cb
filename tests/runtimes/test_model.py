from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from c_programs import NEEDS_CC
from feeding import PAIR, feeders

import lstm_deploy
from lstm_deploy.errors import InputError


@pytest.mark.parametrize("feeds", [{"x": [[1.0]]}, {"x": np.zeros((1, 3, 9))}, {"x": np.zeros((1, 2, 4)), "z": 1}])
def test_a_wrong_call_is_refused_before_the_runtime_sees_it(model, feeds):
    with pytest.raises(InputError, match="feed"):
        model.run(feeds)


def test_a_missing_input_is_named(model):
    with pytest.raises(InputError, match="'x' is missing"):
        model.run({"y": np.zeros(3)})


def test_run_takes_a_given_state(model, x):
    start = {"h_in": np.ones((2, 2, 8), np.float32)}
    assert not np.array_equal(model.run({"x": x, **start})["y"], model.run({"x": x})["y"])


def test_an_artifact_alone_can_be_opened(forecast_bundle, x):
    alone, bundle = lstm_deploy.open(forecast_bundle / "model.onnx"), lstm_deploy.open(forecast_bundle)
    np.testing.assert_array_equal(alone.run({"x": x})["y"], bundle.run({"x": x})["y"])


def test_a_path_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a bundle"):
        lstm_deploy.open(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        lstm_deploy.open(tmp_path / "none.onnx")


def test_a_missing_precision_is_refused_with_those_there_are(model):
    with pytest.raises(InputError, match="no onnx artifact in int8; use one of those it has: onnx float32"):
        model.stream(precision="int8")


def test_a_rollout_is_one_call_or_single_steps_where_the_file_is_alone(model, forecast_bundle, x):
    feeds = {"x": np.repeat(x, 2, axis=1), "steps": 7}
    expected = model.rollout(feeds)["y"]
    alone = lstm_deploy.open(forecast_bundle / "model.onnx")
    np.testing.assert_allclose(alone.rollout(feeds)["y"], expected, rtol=1e-5)
    itself = lstm_deploy.open(forecast_bundle / "rollout.onnx")
    np.testing.assert_array_equal(itself.rollout(feeds)["y"], expected)
    np.testing.assert_allclose(model.rollout(feeds, runtime="torchscript")["y"], expected, rtol=1e-4)
    assert expected.shape == (2, 7, 4)
    with pytest.raises(InputError, match="all its steps in one call"):
        itself.stream()
    with pytest.raises(InputError, match="'steps' is missing"):
        model.rollout({"x": x})


def test_a_model_that_needs_more_than_it_predicts_cannot_be_rolled_out(tmp_path):
    module = feeders()["window"].module.eval()
    module.fc = torch.nn.Linear(6, 1)
    task = lstm_deploy.Forecast(features=PAIR.features, targets=("a",), window=5)
    bundle = lstm_deploy.export(module, tmp_path / "b", inputs={"x": "float32[batch,seq,2]"}, task=task)
    assert bundle.manifest.rollouts == ()
    model = lstm_deploy.open(tmp_path / "b")
    with pytest.raises(InputError, match="predicts a but needs a, b at each step"):
        model.rollout({"x": np.zeros((1, 5, 2)), "steps": 2})
    assert model.stream(window=5).feed(np.ones((1, 5, 2)))[0, -1].shape == (1,)


def test_threads_may_share_a_model_each_with_a_stream_of_its_own(model, x):
    expected = model.stream(batch=2).feed(x)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: _by_steps(model.stream(batch=2), x), range(8)))
    for got in made:
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def _by_steps(stream, x):
    return np.stack([stream.step(x[:, step]) for step in range(x.shape[1])], axis=1)


def test_a_stream_runs_on_torchscript_too(model, x):
    expected = model.run({"x": x})["y"]
    np.testing.assert_allclose(_by_steps(model.stream(batch=2, runtime="torchscript"), x), expected, rtol=1e-5)


@pytest.fixture(scope="module")
def native_bundles(forecaster, language_model, tmp_path_factory):
    """C alone, of the forecaster and of the language model."""
    folder = tmp_path_factory.mktemp("native")
    checkpoints = {"forecast": forecaster, "lm": language_model}
    return {name: lstm_deploy.export(path, folder / name, formats=["c"]).path for name, path in checkpoints.items()}


@NEEDS_CC
def test_a_stream_and_a_rollout_run_as_c_too(model, native_bundles, x):
    native = lstm_deploy.open(native_bundles["forecast"])
    expected = model.run({"x": x})["y"]
    for runtime in ("native", None):  # None: the first that the bundle has
        np.testing.assert_allclose(_by_steps(native.stream(batch=2, runtime=runtime), x), expected, rtol=1e-5)
    feeds = {"x": np.repeat(x, 3, axis=1), "steps": 7}
    np.testing.assert_allclose(native.rollout(feeds)["y"], model.rollout(feeds)["y"], rtol=1e-4)
    with pytest.raises(InputError, match="no onnx artifact"):
        native.stream(runtime="onnx")
    with pytest.raises(InputError, match="'tvm' is not a runtime; choose from onnx, native, torchscript"):
        native.stream(runtime="tvm")


@NEEDS_CC
@pytest.mark.parametrize(("temperature", "top_k", "stop"), [(0, 0, -1), (0.8, 5, -1), (1.5, 0, 3), (0.7, 1, -1)])
def test_a_text_is_the_same_in_c(lm_bundle, native_bundles, temperature, top_k, stop):
    rng = np.random.default_rng(0)
    feeds = {
        "x": rng.integers(0, 20, (3, 6)),
        "lengths": np.array([6, 1, 4]),
        "noise": rng.random((3, 30), np.float32),
        "temperature": np.float32(temperature),
        "top_k": top_k,
        "stop": stop,
    }
    expected = lstm_deploy.open(lm_bundle).rollout(feeds)
    got = lstm_deploy.open(native_bundles["lm"]).rollout(feeds)
    np.testing.assert_array_equal(got["y"], expected["y"])
    np.testing.assert_allclose(got["c_out"], expected["c_out"], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lengths": [0, 2]}, "lengths holds .0, 2., and x has 3 steps"),
        ({"lengths": [1, 4]}, "give 1 to 3"),
        ({"lengths": [1]}, "lengths 1 and noise 2; make them equal"),
        ({"noise": np.zeros((1, 4))}, "lengths 2 and noise 1"),
        ({"noise": np.full((2, 4), 1.5)}, "not from 0 to 1"),
        ({"noise": np.full((2, 4), np.nan)}, "noise holds numbers that are not from 0 to 1"),
        ({"noise": np.zeros((2, 0))}, "feed noise"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": np.nan}, "temperature is nan"),
        ({"x": np.full((2, 3), 9999)}, "token 9999 is not in the vocabulary"),
        ({"x": np.zeros((2, 0), int)}, "feed x"),
        ({"stop": 1.5}, "feed stop"),
    ],
    ids=str,
)
def test_meaningless_inputs_of_a_text_rollout_are_refused(lm_bundle, changes, reason):
    feeds = {"x": np.zeros((2, 3), int), "lengths": [2, 3], "noise": np.zeros((2, 4)), "temperature": 1.0}
    feeds |= {"top_k": 0, "stop": -1}
    model = lstm_deploy.open(lm_bundle)
    assert model.rollout(feeds)["y"].shape == (2, 4)
    with pytest.raises(InputError, match=reason):
        model.rollout({**feeds, **changes})


@pytest.mark.parametrize(
    ("rows", "steps", "reason"), [(19, 2, "looks at 20"), (20, 0, "0 steps"), (20, -3, "-3 steps")]
)
def test_meaningless_inputs_of_a_forecast_rollout_are_refused(model, rows, steps, reason):
    with pytest.raises(InputError, match=reason):
        model.rollout({"x": np.zeros((1, rows, 4)), "steps": steps})


@pytest.mark.parametrize(("name", "value", "reason"), [("top_k", -1, "top_k is -1"), ("stop", 9999, "stop is 9999")])
def test_tokens_and_limits_out_of_range_are_refused(lm_bundle, name, value, reason):
    feeds = {"x": [[1]], "lengths": [1], "noise": [[0.5]], "temperature": 1.0, "top_k": 0, "stop": -1}
    with pytest.raises(InputError, match=reason):
        lstm_deploy.open(lm_bundle).rollout({**feeds, name: value})
    with pytest.raises(InputError, match="a mapping"):
        lstm_deploy.open(lm_bundle).rollout(np.zeros(3))


def test_a_bundle_and_a_model_are_opened_as_their_paths_are(model, forecast_bundle):
    for given in (forecast_bundle, str(forecast_bundle), lstm_deploy.Bundle(forecast_bundle), model):
        assert lstm_deploy.open(given).path == forecast_bundle


def test_what_is_opened_says_what_it_is(model, forecast_bundle):
    said = repr(model)
    assert f"<Model {forecast_bundle} (onnx float32, torchscript float32): x: float32[batch, seq, 4] -> y: " in said
    assert "; state h_in: float32[2, batch, " in said
    assert repr(lstm_deploy.open(forecast_bundle / "model.onnx")) == f"<Model {forecast_bundle / 'model.onnx'}>"
    stream = model.stream(batch=2)
    assert repr(stream) == "<StateStream: a step takes float32[2, 4]>"
    slots = lstm_deploy.Slots(stream)
    slots.open()
    assert repr(slots) == "<Slots: 1 of 2 taken>"


@pytest.mark.parametrize("wrong", [{"precision": "int8"}, {"runtime": "torchscript"}])
def test_an_artifact_alone_has_nothing_to_choose_from(forecast_bundle, x, wrong):
    with pytest.raises(InputError, match="has no effect on .*, which is a single artifact"):
        lstm_deploy.open(forecast_bundle / "model.onnx").run({"x": x}, **wrong)


def test_slots_are_of_a_stream(model):
    with pytest.raises(InputError, match="not of an instance of Model"):
        lstm_deploy.Slots(model)
    with pytest.raises(InputError, match="a mapping of inputs by slot, not None"):
        lstm_deploy.Slots(model.stream()).step(None)
