import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import modules
import numpy as np
import pytest
import torch
from c_programs import NEEDS_CC
from feeding import PAIR, feeders
from hypothesis import given, settings, strategies as st

import lstm_deploy
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes.stepping import Stepper


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


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("batch", [1, 2])
def test_what_is_no_number_is_refused_and_the_state_stays(model, value, batch):
    """onnxruntime would make numbers of it, and the state would never recover."""
    stream = model.stream(batch=batch)
    stream.step(np.full((batch, 4), 150.0, np.float32))
    before = stream.state
    row = np.full((batch, 4), 150.0, np.float32)
    row[-1, 2] = value
    with pytest.raises(InputError, match="would spoil the state"):
        stream.step(row)
    with pytest.raises(InputError, match="would spoil the state"):
        stream.feed(np.repeat(row[:, None], 3, axis=1))
    assert all(np.array_equal(stream.state[name], value) for name, value in before.items())
    model.stream(batch=batch, allow_nan=True).step(row)


def test_huge_numbers_are_numbers(model):
    assert np.isfinite(model.stream(batch=2).step(np.full((2, 4), 1e30, np.float32))).all()


def test_a_result_can_be_written_to_an_array_of_the_callers(model, x):
    one, other = model.stream(batch=2), model.stream(batch=2)
    out = np.empty((2, 4), np.float32)
    for step in range(3):
        assert one.step(x[:, step], out=out) is out
        np.testing.assert_array_equal(out, other.step(x[:, step]))
    with pytest.raises(InputError, match=r"out has shape \[4\]"):
        one.step(x[:, 0], out=np.empty(4, np.float32))
    with pytest.raises(InputError, match="out has shape"):
        one.step(x[:1, 0], rows=[0], out=np.empty(4, np.float32))


def test_a_step_keeps_no_memory(model, x):
    """Steps that are given `out` allocate no array: what is there at the end was there at the start."""
    stream, out, row = model.stream(batch=2), np.empty((2, 4), np.float32), x[:, 0].copy()
    tracemalloc.start()
    try:
        for _ in range(2000):  # onnxruntime's bindings keep some hundred bytes of the first ones
            stream.step(row, out=out)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(1000):
            stream.step(row, out=out)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 500
    assert peak - before < 2000


@pytest.mark.parametrize("rows", [1, [1], slice(1, 2), np.array([False, True, False])], ids=str)
def test_some_rows_are_reset_and_the_others_go_on(model, rows):
    stream = model.stream(batch=3)
    row = np.full((3, 4), 150.0, np.float32)
    stream.step(row)
    before = stream.state
    stream.reset(rows)
    for name, value in stream.state.items():
        np.testing.assert_array_equal(value[:, [0, 2]], before[name][:, [0, 2]])
        assert (value[:, 1] == 0).all()


@pytest.mark.parametrize("rows", [3, [0, 7], -4, [0.5], "a", True, [True], [[0]]], ids=str)
def test_rows_that_are_not_there_are_refused(model, rows):
    stream = model.stream(batch=3)
    with pytest.raises(InputError, match="rows"):
        stream.reset(rows)


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_rows_that_step_alone_are_as_streams_of_their_own(model, data):
    """Whatever the order, each row of a batch is what a stream of one row would be."""
    together, alone = model.stream(batch=3), [model.stream() for _ in range(3)]
    for _ in range(data.draw(st.integers(1, 6))):
        rows = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True))
        x = np.random.default_rng(data.draw(st.integers(0, 99))).uniform(100, 300, (len(rows), 4)).astype(np.float32)
        y = together.step(x, rows=rows)
        for number, row in enumerate(rows):
            np.testing.assert_allclose(y[number], alone[row].step(x[[number]])[0], rtol=1e-5)
        if data.draw(st.booleans()):
            together.reset(rows[0])
            alone[rows[0]].reset()


def test_rows_move_from_one_stream_to_another(model, x):
    one, other = model.stream(batch=2), model.stream(batch=5)
    one.feed(x)
    other.set_rows([3, 1], one.get_rows([0, 1]))
    y = other.step(x[:, 0], rows=[3, 1])
    np.testing.assert_allclose(y, one.step(x[:, 0]), rtol=1e-5)
    with pytest.raises(InputError, match=r"h_in of the state is \[2, 2, 8\], not \[2, 1, 8\]"):
        other.set_rows(0, one.get_rows([0, 1]))
    with pytest.raises(InputError, match="c_in of the state is missing"):
        other.set_rows(0, {"h_in": np.zeros((2, 1, 8))})


def test_one_input_for_each_of_the_rows(model):
    stream = model.stream(batch=3)
    with pytest.raises(InputError, match="one row for each of the 2"):
        stream.step(np.zeros((3, 4)), rows=[0, 1])
    with pytest.raises(InputError, match="at least one row"):
        stream.step(np.zeros((0, 4)), rows=[])


def test_tokens_of_some_rows(lm_bundle):
    stream, alone = (lstm_deploy.open(lm_bundle).stream(batch=batch) for batch in (3, 1))
    y = stream.step([5], rows=[2])
    np.testing.assert_allclose(y, alone.step([5]), rtol=1e-5)


def test_a_window_sees_the_latest_rows_from_the_initial_state(model, x):
    stream = model.stream(batch=2, window=5)
    ys = [stream.step(x[:, step]) for step in range(12)]
    assert all(np.isnan(y).all() for y in ys[:4])
    for step in range(4, 12):
        wanted = model.run({"x": x[:, step - 4 : step + 1]})["y"][:, -1]
        np.testing.assert_allclose(ys[step], wanted, rtol=1e-5)
    stream.reset()
    np.testing.assert_array_equal(stream.feed(x), np.stack(ys, axis=1))


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    """A network whose window is fixed, so that it can be streamed in no other way."""
    feeder = feeders()["fixed window"]
    path = tmp_path_factory.mktemp("fixed") / "b"
    lstm_deploy.export(feeder.module.eval(), path, inputs=feeder.inputs, task=feeder.task, formats=["onnx"])
    return lstm_deploy.open(path)


def test_a_network_of_fixed_windows_streams(fixed):
    values = np.random.default_rng(0).standard_normal(14).astype(np.float32)
    stream = fixed.stream()
    ys = [float(stream.step([[value]])[0, 0]) for value in values]
    assert np.isnan(ys[:9]).all()
    for end in range(9, 14):
        wanted = fixed.run({"x": values[None, end - 9 : end + 1]})["y"][0, 0]
        assert ys[end] == pytest.approx(float(wanted), abs=1e-5)
    with pytest.raises(InputError, match="takes 10 steps, not 4"):
        fixed.stream(window=4)


def test_the_rows_of_a_window_are_its_state(fixed):
    one, other = fixed.stream(batch=2), fixed.stream(batch=2)
    rng = np.random.default_rng(1)
    for _ in range(10):
        one.step(rng.standard_normal((2, 1)))
    other.state = one.state
    x = rng.standard_normal((2, 1))
    np.testing.assert_array_equal(one.step(x), other.step(x))
    one.reset(rows=0)
    y = one.step(x)
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1]).all()
    with pytest.raises(InputError, match="'seen'"):
        one.state = {"rows": one.state["rows"]}
    with pytest.raises(InputError, match="would spoil"):
        one.step([[np.nan], [0.0]])


@pytest.mark.parametrize("window", [0, -1, 1.5, True])
def test_a_window_has_rows(model, window):
    with pytest.raises(InputError, match="A window cannot have"):
        model.stream(window=window)


def test_only_forecasters_look_at_windows(lm_bundle):
    with pytest.raises(InputError, match="Only a forecaster"):
        lstm_deploy.open(lm_bundle).stream(window=3)


def test_a_rollout_is_one_call_and_by_single_steps_where_the_file_is_alone(model, forecast_bundle, x):
    feeds = {"x": np.repeat(x, 2, axis=1), "steps": 7}
    wanted = model.rollout(feeds)["y"]
    alone = lstm_deploy.open(forecast_bundle / "model.onnx")
    np.testing.assert_allclose(alone.rollout(feeds)["y"], wanted, rtol=1e-5)
    itself = lstm_deploy.open(forecast_bundle / "rollout.onnx")
    np.testing.assert_array_equal(itself.rollout(feeds)["y"], wanted)
    np.testing.assert_allclose(model.rollout(feeds, runtime="torchscript")["y"], wanted, rtol=1e-4)
    assert wanted.shape == (2, 7, 4)
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
    wanted = model.stream(batch=2).feed(x)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: _by_steps(model.stream(batch=2), x), range(8)))
    for got in made:
        np.testing.assert_allclose(got, wanted, rtol=1e-5)


def _by_steps(stream, x):
    return np.stack([stream.step(x[:, step]) for step in range(x.shape[1])], axis=1)


def test_a_stream_runs_on_torchscript_too(model, x):
    wanted = model.run({"x": x})["y"]
    np.testing.assert_allclose(_by_steps(model.stream(batch=2, runtime="torchscript"), x), wanted, rtol=1e-5)


@pytest.fixture(scope="module")
def native_bundles(forecaster, language_model, tmp_path_factory):
    """C alone, of the forecaster and of the language model."""
    folder = tmp_path_factory.mktemp("native")
    checkpoints = {"forecast": forecaster, "lm": language_model}
    return {name: lstm_deploy.export(path, folder / name, formats=["c"]).path for name, path in checkpoints.items()}


@NEEDS_CC
def test_a_stream_and_a_rollout_run_as_c_too(model, native_bundles, x):
    native = lstm_deploy.open(native_bundles["forecast"])
    wanted = model.run({"x": x})["y"]
    for runtime in ("native", None):  # None: the first that the bundle has
        np.testing.assert_allclose(_by_steps(native.stream(batch=2, runtime=runtime), x), wanted, rtol=1e-5)
    feeds = {"x": np.repeat(x, 3, axis=1), "steps": 7}
    np.testing.assert_allclose(native.rollout(feeds)["y"], model.rollout(feeds)["y"], rtol=1e-4)
    with pytest.raises(InputError, match="no onnx artifact"):
        native.stream(runtime="onnx")
    with pytest.raises(InputError, match="'tvm' is not a runtime; use onnx, native, torchscript"):
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
    wanted = lstm_deploy.open(lm_bundle).rollout(feeds)
    got = lstm_deploy.open(native_bundles["lm"]).rollout(feeds)
    np.testing.assert_array_equal(got["y"], wanted["y"])
    np.testing.assert_allclose(got["c_out"], wanted["c_out"], atol=1e-5)


def test_a_stepper_takes_rows_in_one_layout(fixed):
    rows = np.random.default_rng(2).standard_normal((3, 10, 1)).astype(np.float32)
    y, _ = Stepper(fixed.runtime())(rows, fixed.signature.initial_state(3))
    np.testing.assert_array_equal(y, fixed.run({"x": rows[..., 0]})["y"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lengths": [0, 2]}, "lengths holds .0, 2., and x has 3 steps"),
        ({"lengths": [1, 4]}, "give 1 to 3"),
        ({"lengths": [1]}, "lengths 1 and noise 2; make them equal"),
        ({"noise": np.zeros((1, 4))}, "lengths 2 and noise 1"),
        ({"noise": np.full((2, 4), 1.5)}, "not from 0 to 1"),
        ({"noise": np.full((2, 4), np.nan)}, "not from 0 to 1"),
        ({"noise": np.zeros((2, 0))}, "feed noise"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": np.nan}, "temperature is nan"),
        ({"x": np.full((2, 3), 9999)}, "token 9999 is not in the vocabulary"),
        ({"x": np.zeros((2, 0), int)}, "feed x"),
        ({"stop": 1.5}, "feed stop"),
    ],
    ids=str,
)
def test_inputs_of_a_text_that_mean_nothing_are_refused(lm_bundle, changes, reason):
    feeds = {"x": np.zeros((2, 3), int), "lengths": [2, 3], "noise": np.zeros((2, 4)), "temperature": 1.0}
    feeds |= {"top_k": 0, "stop": -1}
    model = lstm_deploy.open(lm_bundle)
    assert model.rollout(feeds)["y"].shape == (2, 4)
    with pytest.raises(InputError, match=reason):
        model.rollout({**feeds, **changes})


@pytest.mark.parametrize(
    ("rows", "steps", "reason"), [(19, 2, "looks at 20"), (20, 0, "0 steps"), (20, -3, "-3 steps")]
)
def test_inputs_of_a_forecast_that_mean_nothing_are_refused(model, rows, steps, reason):
    with pytest.raises(InputError, match=reason):
        model.rollout({"x": np.zeros((1, rows, 4)), "steps": steps})


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("rows", [None, [0]])
@pytest.mark.parametrize(
    "out",
    [np.empty((3, 4), np.float32), np.empty((2, 4), np.int64), [[0.0] * 4] * 2, np.broadcast_to(np.float32(0), (2, 4))],
    ids=["shape", "type", "list", "read-only"],
)
def test_an_array_that_cannot_take_the_result_is_refused_before_anything_changes(model, x, window, rows, out):
    stream = model.stream(batch=2, window=window)
    stream.step(x[:, 0])
    before = stream.state
    with pytest.raises(InputError, match="give a writable array"):
        stream.step(x[:, 1] if rows is None else x[:1, 1], rows=rows, out=out)
    for name, value in stream.state.items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("window", [None, 3])
def test_a_state_of_no_numbers_is_refused(model, window):
    stream = model.stream(window=window)
    for wrong in (None, 3, {name: value * np.nan for name, value in stream.state.items()}):
        with pytest.raises(InputError):
            stream.state = wrong
    assert all(np.isfinite(value).all() for value in stream.state.values())


@pytest.mark.parametrize(("name", "value", "reason"), [("top_k", -1, "top_k is -1"), ("stop", 9999, "stop is 9999")])
def test_tokens_and_limits_that_are_not_there_are_refused(lm_bundle, name, value, reason):
    feeds = {"x": [[1]], "lengths": [1], "noise": [[0.5]], "temperature": 1.0, "top_k": 0, "stop": -1}
    with pytest.raises(InputError, match=reason):
        lstm_deploy.open(lm_bundle).rollout({**feeds, name: value})
    with pytest.raises(InputError, match="a mapping"):
        lstm_deploy.open(lm_bundle).rollout(np.zeros(3))
