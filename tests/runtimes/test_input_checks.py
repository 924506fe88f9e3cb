import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import lstm_deploy
from lstm_deploy.contract import TensorSpec
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes.input_checks import as_array, checked
from lstm_deploy.runtimes.slots import Slots

X = TensorSpec(name="x", dtype="float32", shape=("batch", 3))
MASKED = np.ma.masked_array([[1.0, 2, 3]], [[False, True, False]])


@pytest.fixture(autouse=True)
def no_warnings_and_no_errors_of_numpy():
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        yield


class Broken:
    def __array__(self, *_, **__):
        raise KeyError("no array today")


REFUSED = {
    "masked": MASKED,
    "masked, in a list": [MASKED[0]],
    "masked, in a nested list": [[1.0, np.ma.masked, 3.0]],
    "objects": np.array([[1, None, 3]], object),
    "ragged": [[1, 2, 3], [4]],
    "text": [["1", "2", "3"]],
    "bytes": np.array([[b"1", b"2", b"3"]]),
    "complex": np.ones((1, 3), complex),
    "complex of zero imaginary part": [[1 + 0j, 2, 3]],
    "dates": np.array([["2020-01-01"] * 3], "datetime64[D]"),
    "records": np.zeros((1, 3), [("a", "f4")]),
    "missing of pandas": pd.DataFrame({"a": [1.0], "b": [pd.NA], "c": [3.0]}),
    "a graph": torch.ones(1, 3, requires_grad=True),
    "bfloat16": torch.ones(1, 3, dtype=torch.bfloat16),
    "a broken object": Broken(),
    "nothing": None,
    "a number": 3.0,
    "no axes": np.array(3.0, np.float32),
    "no rows": np.zeros((0, 3), np.float32),
    "a mapping": {"x": 1},
    "a set": {1, 2, 3},
    "beyond float32": [[1e300, 0, 0]],
    "beyond float64": [[10**400, 0, 0]],
    "infinite": [[np.inf, 0, 0]],
    "nan in half": np.array([[np.nan, 0, 0]], np.float16),
}
TAKEN = {
    "lists": [[1, 2, 3]],
    "tuples": ((1, 2, 3),),
    "whole numbers": np.array([[1, 2, 3]]),
    "unsigned": np.array([[1, 2, 3]], np.uint64),
    "truth values": np.array([[True, False, True]]),
    "half, big-endian": np.array([[1, 2, 3]], ">f2"),
    "double, big-endian": np.array([[1, 2, 3]], ">f8"),
    "long double": np.array([[1, 2, 3]], np.longdouble),
    "too small for float32": [[1e-300, 1e-45, 0]],
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "backwards": np.arange(3, dtype=np.float32)[None, ::-1],
    "every second": np.arange(6, dtype=np.float32)[None, ::2],
    "broadcast": np.broadcast_to(np.float32(1), (2, 3)),
    "not masked": np.ma.masked_array([[1.0, 2, 3]]),
    "a table": pd.DataFrame({"a": [1.0], "b": [2.0], "c": [3.0]}),
    "a matrix": np.arange(3.0).view()[None].copy(),
    "a tensor": torch.ones(1, 3),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_array_of_finite_numbers_is_refused_in_our_words(name):
    with pytest.raises(InputError, match=r"; (feed|put|leave)"):
        checked(REFUSED[name], X, allow_nan=False)


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_an_array_of_numbers_is_taken(name):
    array = checked(TAKEN[name], X, allow_nan=False)
    assert array.dtype == np.float32
    assert array.dtype.isnative
    with np.errstate(under="ignore"):
        expected = np.asarray(TAKEN[name]).astype(np.float32)
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("value", [2**40, -(2**31) - 1, np.uint64(2**63)])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_whole_numbers_are_not_wrapped(dtype, value):
    spec = TensorSpec(name="lengths", dtype=dtype, shape=("batch",))
    if np.iinfo(dtype).min <= int(value) <= np.iinfo(dtype).max:
        assert checked([value], spec).tolist() == [value]
        return
    with pytest.raises(InputError, match=f"lengths holds {value}, which is no {dtype}"):
        checked([value], spec)


def test_memory_is_not_a_matter_of_the_input():
    class Large:
        def __array__(self, *_, **__):
            raise MemoryError

    with pytest.raises(MemoryError):
        as_array(Large())


@pytest.fixture(scope="module", params=["onnx", "torchscript"])
def run(request, model):
    return lambda feeds, **more: model.run(feeds, runtime=request.param, **more)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("name", ["x", "h_in"])
def test_a_call_takes_nan_only_where_it_is_allowed(model, run, x, value, name):
    state = {"h_in": np.zeros((2, 2, 8)), "c_in": np.zeros((2, 2, 8))}
    feeds = {"x": x.astype(np.float64), **state}
    feeds[name].flat[3] = value
    with pytest.raises(InputError, match=f"{name} holds .*, which would spoil"):
        run(feeds)
    run(feeds, allow_nan=True)
    if name == "x":
        with pytest.raises(InputError, match="x holds"):
            model.rollout({"x": np.full((1, 20, 4), value), "steps": 2})
        model.rollout({"x": np.full((1, 20, 4), value), "steps": 2}, allow_nan=True)


def test_arrays_of_any_layout_give_the_same(run, x):
    expected = run({"x": x})["y"]
    read_only = x.copy()
    read_only.flags.writeable = False
    for alike in (
        read_only,
        np.asfortranarray(x),
        x[::-1].copy()[::-1],
        np.repeat(x, 2, axis=1)[:, ::2],
        x.astype(">f8"),
    ):
        np.testing.assert_array_equal(run({"x": alike})["y"], expected)


@pytest.mark.parametrize("feeds", [{1: 0}, {None: 0, 1: 0}, {"x": MASKED}, {"x": Broken()}, [1], "x"])
def test_feeds_that_are_none_are_refused(run, x, feeds):
    with pytest.raises(InputError):
        run({"x": x, **feeds} if isinstance(feeds, dict) and "x" not in feeds else feeds)


@pytest.mark.parametrize("value", [MASKED, Broken(), 1j, "a", None, 1e300, np.nan])
def test_streams_refuse_it_too_and_keep_their_state(model, value):
    stream = model.stream(batch=2)
    stream.step(np.full((2, 4), 100.0))
    before = stream.state
    wrong = {name: np.full(part.shape, value) if np.isscalar(value) else value for name, part in before.items()}
    rows = np.full((2, 4), value) if np.isscalar(value) else value
    for use in (
        lambda: stream.step(rows),
        lambda: stream.feed(rows),
        lambda: stream.step(rows, rows=[0, 1]),
        lambda: stream.set_rows([0, 1], wrong),
        lambda: stream.set_rows([0, 1], None),
        lambda: setattr(stream, "state", wrong),
        lambda: stream.step(np.zeros((2, 4)), rows=[[1], [1, 2]]),
        lambda: stream.step(np.zeros((2, 4)), rows="all"),
    ):
        with pytest.raises(InputError):
            use()
    for name, part in stream.state.items():
        np.testing.assert_array_equal(part, before[name])


def test_slots_refuse_masked_rows(model):
    slots = Slots(model.stream(batch=2))
    slot = slots.open()
    with pytest.raises(InputError, match="masked"):
        slots.step({slot: np.ma.masked_array([1.0, 2, 3, 4], [True, False, False, False])})


def test_nan_that_is_allowed_streams(model):
    y = lstm_deploy.open(model.path).stream(allow_nan=True).step([[np.nan] * 4])
    assert y.shape == (1, 4)
