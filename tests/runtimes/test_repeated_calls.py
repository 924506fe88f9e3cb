"""Calls whose sizes repeat are recorded and replayed; tried on the CPU, whose runtime ignores the recording itself."""

import dataclasses
import logging

import numpy as np
import pytest
import torch
from msgspec.structs import replace

import lstm_deploy
from lstm_deploy.contract.sampling import sample_inputs
from lstm_deploy.errors import CaptureError, InputError
from lstm_deploy.runtimes import model as models, onnxrt, opening, providers, torchrt
from lstm_deploy.runtimes.onnxrt import DeviceRecurrence
from lstm_deploy.runtimes.opening import PERSISTENT, is_faster_in_torch, open_runtime
from lstm_deploy.runtimes.providers import Provider
from lstm_deploy.runtimes.repeated_calls import MOST_SIZES, RepeatedCalls


class Counting:
    """A runtime of the CPU that counts plain calls and recordings; `refuses` says why nothing can be recorded."""

    def __init__(self, runtime, refuses=""):
        self.runtime, self.signature, self.refuses = runtime, runtime.signature, refuses
        self.plain, self.recorded = 0, []

    def run(self, feeds):
        self.plain += 1
        return self.runtime.run(feeds)

    def recur(self, batch, seq):
        if self.refuses:
            raise CaptureError(self.refuses)
        self.recorded.append((batch, seq))
        return self.runtime.recur(batch, seq)


@pytest.fixture
def runtime(forecast_bundle):
    return open_runtime(forecast_bundle / "model.onnx")


def feeds_of(signature, batch, seq, rng):
    state = {name: rng.random(value.shape, np.float32) for name, value in signature.initial_state(batch).items()}
    return {**sample_inputs(signature.inputs, {"batch": batch, "seq": seq}, rng), **state}


def test_a_call_of_sizes_seen_before_gives_what_a_plain_one_gives(runtime):
    counting, rng = Counting(runtime), np.random.default_rng(0)
    calls = RepeatedCalls(counting)
    for batch, seq in ((2, 3), (2, 3), (1, 5), (2, 3), (1, 5)):
        feeds = feeds_of(runtime.signature, batch, seq, rng)
        expected, results = runtime.run(feeds), calls.run(feeds)
        assert set(results) == set(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(results[name], value)
    assert counting.plain == 2, "the first of each size"
    assert counting.recorded == [(2, 3), (1, 5)]


def test_results_are_arrays_of_their_own(runtime):
    calls, rng = RepeatedCalls(Counting(runtime)), np.random.default_rng(0)
    feeds = [feeds_of(runtime.signature, 2, 3, rng) for _ in range(3)]
    _, first, _ = (calls.run(each) for each in feeds)
    expected = runtime.run(feeds[1])
    for name, value in expected.items():
        np.testing.assert_array_equal(first[name], value)


def test_only_the_latest_sizes_are_kept(runtime):
    counting, rng = Counting(runtime), np.random.default_rng(0)
    calls = RepeatedCalls(counting)
    for seq in (*range(1, MOST_SIZES + 2), 1, 1):
        calls.run(feeds_of(runtime.signature, 1, seq, rng))
    assert counting.recorded == [(1, 1)], "of which the first call was forgotten"


def test_a_model_that_cannot_be_recorded_is_tried_once_and_runs(runtime):
    counting, rng = Counting(runtime, "it copies to the CPU"), np.random.default_rng(0)
    calls = RepeatedCalls(counting)
    for _ in range(4):
        feeds = feeds_of(runtime.signature, 2, 3, rng)
        np.testing.assert_array_equal(calls.run(feeds)["y"], runtime.run(feeds)["y"])
    assert (counting.plain, calls.problem) == (4, "it copies to the CPU")


@pytest.mark.parametrize(("dim", "dtype"), [("text", "float32"), ("batch", "int64")])
def test_lengths_and_other_sizes_are_never_replayed(runtime, dim, dtype):
    """A replay would go on with the lengths of the call that was recorded."""
    (x,) = runtime.signature.inputs
    other = replace(x, name="lengths", shape=(dim,), dtype=dtype, is_lengths=dtype == "int64")
    counting = Counting(runtime)
    counting.signature = replace(runtime.signature, inputs=(x, other))
    assert RepeatedCalls(counting).problem


@pytest.fixture
def npu(monkeypatch):
    """A provider whose arrays lie apart, as CUDA's do, and for which streams and repeated calls are recorded."""

    class Recurrence(DeviceRecurrence):
        def __init__(self, runtime, batch, seq, *, device, graphs):
            assert device == "cuda"
            super().__init__(runtime, batch, seq, graphs=graphs)  # with buffers on the CPU

    monkeypatch.setattr(onnxrt, "DeviceRecurrence", Recurrence)
    monkeypatch.setattr(onnxrt, "_preload_cuda", lambda: None)
    record = Provider(
        name="npu", onnxruntime=("CPUExecutionProvider",), device="cuda", settings={"graph": ""}, for_repeats=("graph",)
    )
    monkeypatch.setattr(Provider, "options", lambda *_: {})
    monkeypatch.setitem(providers.PROVIDERS, "npu", record)
    format_ = dataclasses.replace(opening.SUFFIXES[".onnx"], providers=("cpu", "npu"))
    monkeypatch.setitem(opening.SUFFIXES, ".onnx", format_)
    return Recurrence


def test_a_model_records_streams_and_repeated_calls_where_its_provider_does(npu, forecast_bundle, monkeypatch):
    captured = []
    capture = npu.capture

    def counted(self):
        captured.append(self)
        capture(self)

    monkeypatch.setattr(npu, "capture", counted)
    model, rng = lstm_deploy.open(forecast_bundle / "model.onnx"), np.random.default_rng(0)
    plain = [sample_inputs(model.signature.inputs, {"batch": 2, "seq": 4}, rng) for _ in range(3)]
    for feeds in plain:
        np.testing.assert_array_equal(model.run(feeds, provider="npu")["y"], model.run(feeds)["y"])
    assert len(captured) == 1
    stream, expected = model.stream(2, provider="npu"), model.stream(2)
    assert len(captured) == 2
    for step in np.moveaxis(plain[0]["x"], 1, 0):
        np.testing.assert_array_equal(stream.step(step), expected.step(step))


def test_a_capture_leaves_the_initial_state(npu, forecast_bundle):
    runtime = open_runtime(forecast_bundle / "model.onnx", "npu", settings=("graph",))
    recurrence = runtime.recur(2, 1)
    initial = runtime.signature.initial_state(2)
    for name, value in recurrence.get_state().items():
        np.testing.assert_array_equal(value, initial[name])


def test_where_recording_fails_streams_run_without_and_the_log_says_so(npu, forecast_bundle, monkeypatch, caplog):
    def refuse(self):
        raise CaptureError("It cannot be recorded as a CUDA graph (a copy).")

    monkeypatch.setattr(npu, "capture", refuse)
    model = lstm_deploy.open(forecast_bundle / "model.onnx")
    x = sample_inputs(model.signature.inputs, {"batch": 1, "seq": 1}, np.random.default_rng(0))["x"][:, 0]
    with caplog.at_level(logging.WARNING, "lstm_deploy"):
        stream = model.stream(provider="npu")
    assert "cannot be recorded as a CUDA graph (a copy). Streams run without one" in caplog.text
    np.testing.assert_array_equal(stream.step(x), model.stream().step(x))


def test_a_session_that_allows_no_graph_is_opened_without(npu, forecast_bundle, monkeypatch, caplog):
    opened = []

    def refusing(path, provider, *, settings=(), **options):
        opened.append(settings)
        if settings:
            raise InputError("onnxruntime cannot load it with graphs.")
        return open_runtime(path, "cpu", **options)

    monkeypatch.setattr(models, "open_runtime", refusing)
    model = lstm_deploy.open(forecast_bundle / "model.onnx")
    feeds = sample_inputs(model.signature.inputs, {"batch": 2, "seq": 4}, np.random.default_rng(0))
    with caplog.at_level(logging.WARNING, "lstm_deploy"):
        for _ in range(3):
            np.testing.assert_array_equal(model.run(feeds, provider="npu")["y"], model.run(feeds)["y"])
    assert opened == [(), ("graph",), ()], "the first for the signature of a file alone"
    assert "model.onnx runs without a CUDA graph" in caplog.text


def test_small_networks_are_faster_in_torch_on_cuda_alone(runtime, monkeypatch):
    monkeypatch.setattr(torchrt, "has_cuda", lambda: True)
    (module,) = runtime.signature.recurrent
    large = replace(runtime.signature, recurrent=(replace(module, hidden_size=PERSISTENT + 1),))
    assert is_faster_in_torch(runtime.signature, "cuda")
    assert not is_faster_in_torch(large, "cuda")
    assert not is_faster_in_torch(runtime.signature, "cpu")
    monkeypatch.setattr(torchrt, "has_cuda", lambda: False)
    assert not is_faster_in_torch(runtime.signature, "cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and onnxruntime-gpu[cuda,cudnn]")
@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_repeated_calls_on_cuda_are_right(forecast_bundle, kind):
    model, rng = lstm_deploy.open(forecast_bundle), np.random.default_rng(0)
    for _ in range(5):
        feeds = feeds_of(model.signature, 3, 7, rng)
        expected = model.run(feeds)
        for name, value in model.run(feeds, provider="cuda", runtime=kind).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-4)
    (calls,) = model._repeated.values()
    assert calls.problem == ""
