import modules
import numpy as np
import pytest
import torch

import lstm_deploy
from lstm_deploy.errors import InputError


@pytest.fixture(scope="module")
def model(forecast_bundle):
    return lstm_deploy.open(forecast_bundle)


@pytest.fixture
def x():
    return np.random.default_rng(0).uniform(100, 300, (2, 12, 4)).astype(np.float32)


def test_steps_chunks_and_the_whole_agree(model, x):
    whole = model.run({"x": x})["y"]
    stream = model.stream(batch=2)
    steps = np.stack([stream.step(x[:, index]).copy() for index in range(12)], axis=1)
    stream.reset()
    chunks = np.concatenate([stream.feed(x[:, :5]), stream.feed(x[:, 5:6]).copy(), stream.feed(x[:, 6:])], axis=1)
    np.testing.assert_allclose(steps, whole, rtol=1e-5)
    np.testing.assert_allclose(chunks, whole, rtol=1e-5)


def test_a_stream_starts_from_the_initial_state_and_comes_back_to_it(model, x):
    stream = model.stream(batch=2)
    first = stream.step(x[:, 0]).copy()
    assert not np.array_equal(stream.step(x[:, 0]), first)
    stream.reset()
    np.testing.assert_array_equal(stream.step(x[:, 0]), first)


def test_a_saved_state_continues_in_another_stream(model, x):
    one, other = model.stream(batch=2), model.stream(batch=2)
    one.feed(x)
    other.state = one.state
    np.testing.assert_array_equal(one.step(x[:, 0]), other.step(x[:, 0]))


def test_lists_and_other_float_types_are_taken(model, x):
    stream = model.stream(batch=1)
    first = stream.step(x[:1, 0].tolist()).copy()
    stream.reset()
    np.testing.assert_array_equal(stream.step(x[:1, 0].astype(np.float64)), first)


def test_tokens_stream(lm_bundle):
    stream = lstm_deploy.open(lm_bundle).stream(batch=3)
    y = stream.step([1, 2, 3])
    assert y.shape == (3, len(stream.signature.task.vocabulary))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 4)),
        np.zeros((2, 3)),
        np.zeros(4),
        np.zeros((2, 1, 4)),
        np.zeros((2, 4), complex),
        3.0,
        "abcd",
        [[1, 2], [3]],
    ],
    ids=["batch", "features", "flat", "deep", "complex", "scalar", "text", "ragged"],
)
def test_a_wrong_step_is_refused_before_the_runtime_sees_it(model, wrong):
    with pytest.raises(InputError, match="feed"):
        model.stream(batch=2).step(wrong)


@pytest.mark.parametrize("token", [-1, 9999])
def test_tokens_outside_the_vocabulary_are_refused(lm_bundle, token):
    """onnxruntime would take -1 for the last entry."""
    with pytest.raises(InputError, match=f"token {token} is not in the vocabulary"):
        lstm_deploy.open(lm_bundle).stream().step([token])


@pytest.mark.parametrize("batch", [0, -1, 1.5, "1", True])
def test_a_stream_without_rows_is_refused(model, batch):
    with pytest.raises(InputError, match="1 or more"):
        model.stream(batch=batch)


def test_what_a_step_returned_stays_as_it_is(model, x):
    stream = model.stream(batch=2)
    first = stream.step(x[:, 0])
    kept = first.copy()
    stream.step(x[:, 1])
    np.testing.assert_array_equal(first, kept)


def test_a_state_is_taken_in_any_number_type_and_checked(model):
    one, other = model.stream(), model.stream()
    one.step([[100.0] * 4])
    other.state = {name: value.astype(np.float64).tolist() for name, value in one.state.items()}
    for name, value in one.state.items():
        np.testing.assert_array_equal(other.state[name], value)
    before = other.state
    for wrong in ({}, {**before, "c_in": np.zeros((2, 3, 8))}, {**before, "h_in": np.zeros(3)}):
        with pytest.raises(InputError):
            other.state = wrong
    assert all(np.array_equal(other.state[name], before[name]) for name in before)


@pytest.mark.parametrize("feeds", [{"x": [[1.0]]}, {"x": np.zeros((1, 3, 9))}, {"x": np.zeros((1, 2, 4)), "z": 1}])
def test_a_wrong_call_is_refused_before_the_runtime_sees_it(model, feeds):
    with pytest.raises(InputError, match="feed"):
        model.run(feeds)


def test_values_are_no_tokens(lm_bundle):
    with pytest.raises(InputError, match="int64"):
        lstm_deploy.open(lm_bundle).stream().step([1.5])


def test_an_empty_sequence_is_refused(model):
    with pytest.raises(InputError, match="feed"):
        model.stream().feed(np.zeros((1, 0, 4), np.float32))


def test_a_missing_input_is_named(model):
    with pytest.raises(InputError, match="'x' is missing"):
        model.run({"y": np.zeros(3)})


def test_run_takes_a_given_state(model, x):
    start = {"h_in": np.ones((2, 2, 8), np.float32)}
    assert not np.array_equal(model.run({"x": x, **start})["y"], model.run({"x": x})["y"])


def test_a_bidirectional_model_does_not_stream_but_runs(tmp_path, x):
    module = modules.HidesState(bidirectional=True)
    lstm_deploy.export(module, tmp_path / "b", inputs={"x": "float32[batch,seq,3]"}, formats=["onnx"])
    model = lstm_deploy.open(tmp_path / "b")
    with pytest.raises(InputError, match="bidirectional"):
        model.stream()
    assert model.run({"x": x[..., :3]})["y"].shape == (2, 2)


def test_an_artifact_alone_can_be_opened(forecast_bundle, x):
    alone, bundle = lstm_deploy.open(forecast_bundle / "model.onnx"), lstm_deploy.open(forecast_bundle)
    np.testing.assert_array_equal(alone.run({"x": x})["y"], bundle.run({"x": x})["y"])


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a bundle"):
        lstm_deploy.open(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        lstm_deploy.open(tmp_path / "none.onnx")


def test_a_precision_that_is_not_there_is_refused_with_those_that_are(model):
    with pytest.raises(InputError, match="no onnx artifact in int8; it has onnx float32"):
        model.stream(precision="int8")


def test_a_loop_of_cells_streams_one_step_a_call(tmp_path):
    torch.manual_seed(0)
    module = modules.Cells().eval()
    lstm_deploy.export(module, tmp_path / "b", inputs={"x": "float32[batch,seq,3]"}, formats=["onnx"])
    stream = lstm_deploy.open(tmp_path / "b").stream(batch=2)
    x = torch.randn(2, 4, 3)
    steps = [stream.step(x[:, step]) for step in range(4)]
    assert steps[0].shape == (2, 5)
    with torch.no_grad():
        np.testing.assert_allclose(np.stack(steps, 1), module(x), atol=1e-6)
