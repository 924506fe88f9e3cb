import tracemalloc
from itertools import pairwise

import modules
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from properties import examples

import lstm_deploy
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes.slots import Slots


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


def test_the_result_of_a_step_is_not_overwritten(model, x):
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


def test_floats_are_not_tokens(lm_bundle):
    with pytest.raises(InputError, match="int64"):
        lstm_deploy.open(lm_bundle).stream().step([1.5])


def test_an_empty_sequence_is_refused(model):
    with pytest.raises(InputError, match="feed"):
        model.stream().feed(np.zeros((1, 0, 4), np.float32))


def test_a_bidirectional_model_does_not_stream_but_runs(tmp_path, x):
    module = modules.HidesState(bidirectional=True)
    lstm_deploy.export(module, tmp_path / "b", inputs={"x": "float32[batch,seq,3]"}, formats=["onnx"])
    model = lstm_deploy.open(tmp_path / "b")
    with pytest.raises(InputError, match="bidirectional"):
        model.stream()
    assert model.run({"x": x[..., :3]})["y"].shape == (2, 2)


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
def test_nan_and_infinities_are_refused_and_the_state_stays(model, value, batch):
    """onnxruntime would make numbers of it, and the state would never recover."""
    stream = model.stream(batch=batch)
    stream.step(np.full((batch, 4), 150.0, np.float32))
    before = stream.state
    row = np.full((batch, 4), 150.0, np.float32)
    row[-1, 2] = value
    with pytest.raises(InputError, match="would spoil all results"):
        stream.step(row)
    with pytest.raises(InputError, match="would spoil all results"):
        stream.feed(np.repeat(row[:, None], 3, axis=1))
    assert all(np.array_equal(stream.state[name], value) for name, value in before.items())
    model.stream(batch=batch, allow_nan=True).step(row)


def test_huge_numbers_are_finite(model):
    assert np.isfinite(model.stream(batch=2).step(np.full((2, 4), 1e30, np.float32))).all()


def test_a_result_can_be_written_to_an_array_of_the_caller(model, x):
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
    with pytest.raises(InputError, match=r"h_in is float32\[2, 2, 8\]; feed h_in: float32\[2, batch, 8\] with batch 1"):
        other.set_rows(0, one.get_rows([0, 1]))
    with pytest.raises(InputError, match="The state has no 'c_in'"):
        other.set_rows(0, {"h_in": np.zeros((2, 1, 8))})


class FinalState(torch.nn.Module):
    """Returns the final state, whose rows are on its second axis."""

    def __init__(self, kind):
        super().__init__()
        self.layers = kind(3, 5, batch_first=True)

    def forward(self, x):
        final = self.layers(x)[1]
        return final if isinstance(final, torch.Tensor) else final[0]


@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.GRU])
def test_rows_of_an_output_that_has_them_on_its_second_axis_step_alone(kind, tmp_path):
    bundle = lstm_deploy.export(
        FinalState(kind), tmp_path / "b", inputs={"x": "float32[batch,seq,3]"}, formats=["onnx"]
    )
    model = lstm_deploy.open(bundle.path)
    x = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    expected = model.stream(batch=3).step(x)
    assert expected.shape == (1, 3, 5)
    out = np.empty((1, 2, 5), np.float32)
    np.testing.assert_array_equal(model.stream(batch=3).step(x[[2, 0]], rows=[2, 0], out=out), expected[:, [2, 0]])
    slots = Slots(model.stream(batch=3))
    opened = [slots.open() for _ in range(3)]
    found = slots.step({slot: x[slot] for slot in opened[:2]})
    for slot in opened[:2]:
        np.testing.assert_array_equal(found[slot], expected[:, slot])


def test_a_step_of_some_rows_takes_one_input_for_each(model):
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
        expected = model.run({"x": x[:, step - 4 : step + 1]})["y"][:, -1]
        np.testing.assert_allclose(ys[step], expected, rtol=1e-5)
    stream.reset()
    np.testing.assert_array_equal(stream.feed(x), np.stack(ys, axis=1))


def test_a_network_of_fixed_windows_streams(fixed):
    values = np.random.default_rng(0).standard_normal(14).astype(np.float32)
    stream = fixed.stream()
    ys = [float(stream.step([[value]])[0, 0]) for value in values]
    assert np.isnan(ys[:9]).all()
    for end in range(9, 14):
        expected = fixed.run({"x": values[None, end - 9 : end + 1]})["y"][0, 0]
        assert ys[end] == pytest.approx(float(expected), abs=1e-5)
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
def test_a_window_without_rows_is_refused(model, window):
    with pytest.raises(InputError, match="A window cannot have"):
        model.stream(window=window)


def test_only_forecasters_look_at_windows(lm_bundle):
    with pytest.raises(InputError, match="Only a forecaster"):
        lstm_deploy.open(lm_bundle).stream(window=3)


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
def test_a_state_that_is_not_finite_numbers_is_refused(model, window):
    stream = model.stream(window=window)
    for wrong in (None, 3, {name: value * np.nan for name, value in stream.state.items()}):
        with pytest.raises(InputError):
            stream.state = wrong
    assert all(np.isfinite(value).all() for value in stream.state.values())


ONE_STEP = {
    "cell": (modules.StepCell, "float32[batch,3]"),
    "cell, h and c apart": (modules.StepCellApart, "float32[batch,3]"),
    "cell without rows": (modules.StepCell, "float32[3]"),
    "two cells": (modules.StepCells, "float32[batch,3]"),
    "LSTM": (modules.StepLSTM, "float32[batch,3]"),
    "LSTM, batch first": (lambda: modules.StepLSTM(batch_first=True), "float32[batch,3]"),
    "LSTM with an axis of 1": (lambda: modules.PlainLSTM(batch_first=True), "float32[batch,1,3]"),
    "LSTM with an axis of 1 in front": (modules.PlainLSTM, "float32[1,batch,3]"),
    "tokens": (modules.StepTokens, "int64[batch]"),
    "frames": (modules.StepFrame, "float32[batch,64]"),
}
"""Networks whose call is one step."""


@pytest.fixture(scope="module")
def one_step(tmp_path_factory):
    """By name: a network of `ONE_STEP` as its author has it, and its bundle, exported once it is asked for."""
    made = {}

    def exported(name):
        if name not in made:
            make, x = ONE_STEP[name]
            torch.manual_seed(1)
            module, path = make().eval(), tmp_path_factory.mktemp("one_step") / "b"
            for parameter in module.parameters():
                parameter.data *= 3  # as drawn, it hardly depends on its state
            formats = ["onnx", "torchscript"] if name == "frames" else ["onnx", "torchscript", "c"]
            lstm_deploy.export(module, path, inputs={"x": x}, formats=formats)
            made[name] = module, lstm_deploy.open(path)
        return made[name]

    return exported


def of_the_author(module, calls):
    """What the author's own module gives when each call is given the state that the last one returned."""
    state, outputs = [], []
    with torch.no_grad():
        for x in calls:
            y, *state = module(torch.from_numpy(x), *state)
            outputs.append(y.numpy())
    return outputs


def calls_of(model, batch, steps, seed=0):
    """Inputs of some calls of a model."""
    (x,), rng = model.signature.inputs, np.random.default_rng(seed)
    shape = x.sized({"batch": batch})
    if x.dtype == "int64":
        return [rng.integers(0, 7, shape) for _ in range(steps)]
    return [rng.standard_normal(shape, np.float32) for _ in range(steps)]


@pytest.mark.parametrize("runtime", ["onnx", "torchscript", "native"])
@pytest.mark.parametrize("name", ONE_STEP)
def test_a_network_of_one_step_a_call_streams_as_its_author_calls_it(one_step, name, runtime):
    if (name, runtime) == ("frames", "native"):
        pytest.skip("convolutions have no counterpart in C")
    module, model = one_step(name)
    batch = 1 if name == "cell without rows" else 2
    calls = calls_of(model, batch, 9)
    stream = model.stream(batch=batch, runtime=runtime)
    for x, expected in zip(calls, of_the_author(module, calls), strict=True):
        y = stream.step(x.reshape(stream.row_shape))
        np.testing.assert_allclose(y, expected.reshape(y.shape), rtol=1e-4, atol=1e-5)


@given(
    name=st.sampled_from(sorted(ONE_STEP)),
    batch=st.integers(1, 3),
    parts=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    seed=st.integers(0, 9),
)
@settings(max_examples=examples(25), deadline=None)
def test_several_steps_are_the_steps_one_after_the_other(one_step, name, batch, parts, seed):
    module, model = one_step(name)
    signature, batch = model.signature, 1 if name == "cell without rows" else batch
    calls = calls_of(model, batch, sum(parts), seed)
    stream = model.stream(batch=batch)
    (time,) = (axis for axis, dim in enumerate(signature.over_time(signature.inputs[0]).shape) if dim == "seq")
    x = np.stack([call.reshape(stream.row_shape) for call in calls], axis=time)
    places = np.cumsum([0, *parts])
    fed = [stream.feed(x.take(range(*ends), axis=time)) for ends in pairwise(places)]
    y = signature.over_time(signature.outputs[0])
    assert all(part.ndim == len(y.shape) for part in fed)
    steps = np.moveaxis(np.concatenate(fed, axis=y.shape.index("seq")), y.shape.index("seq"), 0)
    for step, expected in zip(steps, of_the_author(module, calls), strict=True):
        np.testing.assert_allclose(step, expected.reshape(step.shape), rtol=1e-4, atol=1e-5)


def test_rows_of_one_step_come_and_go_alone(one_step):
    module, model = one_step("cell")
    calls = calls_of(model, 3, 6)
    stream = model.stream(batch=3)
    for x in calls[:3]:
        stream.step(x)
    saved = stream.state
    stream.reset(rows=[1])
    first = stream.step(calls[3][[1]], rows=[1])
    np.testing.assert_allclose(first, of_the_author(module, [calls[3][[1]]])[0], rtol=1e-4, atol=1e-5)
    stream.state = saved
    rest = [stream.step(x) for x in calls[3:]]
    for y, expected in zip(rest, of_the_author(module, calls)[3:], strict=True):
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [np.zeros(3), np.zeros((2, 1, 3)), np.zeros((2, 4)), [[np.nan] * 3] * 2])
def test_a_wrong_step_of_one_step_is_refused(one_step, wrong):
    stream = one_step("cell")[1].stream(batch=2)
    before = stream.state
    with pytest.raises(InputError):
        stream.step(wrong)
    with pytest.raises(InputError):
        stream.feed(np.full((2, 2, 3), np.inf))
    assert all(np.array_equal(value, before[name]) for name, value in stream.state.items())


def test_a_model_of_a_fixed_number_of_rows_streams_these(tmp_path):
    lstm_deploy.export(modules.StepCell().eval(), tmp_path / "b", inputs={"x": "float32[4,3]"})
    model = lstm_deploy.open(tmp_path / "b")
    assert model.stream().step(np.zeros((4, 3))).shape == (4, 2)
    assert model.stream().feed(np.zeros((6, 4, 3))).shape == (6, 4, 2)
    with pytest.raises(InputError, match="has 4 row"):
        model.stream(batch=3)
