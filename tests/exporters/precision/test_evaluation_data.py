import modules
import numpy as np
import pytest
import torch
from feeding import feeders
from msgspec.structs import replace
from torch import nn

import lstm_deploy
from lstm_deploy.artifacts.files import sha256
from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.contract.tasks import LanguageModel
from lstm_deploy.errors import InputError
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.exporters.precision import evaluation_data as module, metrics
from lstm_deploy.exporters.precision.evaluation_data import evaluation_data
from lstm_deploy.lifting import sources
from lstm_deploy.lifting.lifting import lift
from lstm_deploy.runtimes.opening import open_runtime
from lstm_deploy.runtimes.torchrt import EagerRuntime
from lstm_deploy.training import checkpoint


def training_of(path, data):
    """What the checkpoint at `path` reports, as if it had been trained by the command line on `data`."""
    return {**checkpoint.read_spec(path).training, "data": {"path": str(data), "sha256": sha256(data)}}


def test_a_forecaster_scores_on_the_held_out_rows_as_it_did_after_training(forecast_bundle, forecaster, prices):
    training = training_of(forecaster, prices)
    runtime = open_runtime(forecast_bundle / "model.onnx")
    data = evaluation_data(runtime.signature, None, training)
    assert data.description == "the held-out part of goog.csv"
    assert metrics.measure(runtime, data).metric == pytest.approx(training["metrics"]["rmse"], rel=1e-4)


def test_a_language_model_scores_on_the_held_out_text_as_it_did_after_training(lm_bundle, language_model, text):
    training = training_of(language_model, text)
    runtime = open_runtime(lm_bundle / "model.onnx")
    data = evaluation_data(runtime.signature, None, training)
    assert metrics.measure(runtime, data).metric == pytest.approx(training["metrics"]["bits_per_character"], rel=1e-4)


def test_another_file_is_measured_whole_and_the_training_file_only_at_its_end(forecast_bundle, forecaster, prices):
    contract = open_runtime(forecast_bundle / "model.onnx").signature
    held_out = evaluation_data(contract, prices, training_of(forecaster, prices))
    whole = evaluation_data(contract, prices)
    rows = sum(map(len, whole.truth)) + contract.task.window
    assert sum(map(len, held_out.truth)) == round(0.2 * rows)
    assert (held_out.description, whole.description) == ("the held-out part of goog.csv", "goog.csv")


def test_without_data_inputs_are_drawn_and_there_is_no_metric(forecast_bundle):
    runtime = open_runtime(forecast_bundle / "model.onnx")
    data = evaluation_data(runtime.signature, None, {"data": {"path": "gone.csv", "sha256": "0"}})
    assert (data.metric, data.truth) == ("", ())
    measured = metrics.measure(runtime, data)
    assert measured.metric is None
    assert measured.outputs["y"].shape == (module.DRAWN_ROWS * module.DRAWN_CALLS * module.DRAWN_STEPS, 4)


def test_arrays_give_rmse_or_accuracy(lm_bundle, tmp_path):
    runtime = open_runtime(lm_bundle / "model.onnx")
    contract = replace(runtime.signature, task=None)
    x = np.arange(12).reshape(4, 3) % 5
    y = runtime.run({"x": x, **contract.initial_state(4)})["y"]
    np.savez(tmp_path / "classes.npz", x=x, y=y.argmax(-1))
    np.savez(tmp_path / "values.npz", x=x, y=y + 2)
    classes = metrics.measure(runtime, evaluation_data(contract, tmp_path / "classes.npz"))
    values = metrics.measure(runtime, evaluation_data(contract, tmp_path / "values.npz"))
    assert classes.metric == 1.0
    assert values.metric == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 3), np.int64)}, "no array 'y'"),
        ({"y": np.zeros(2)}, "no array 'x'"),
        ({"x": np.zeros(3, np.int64), "y": np.zeros(3)}, r"x in .* is int64\[3\]; give int64\[batch, seq\]"),
        (
            {"x": np.zeros((2, 3), np.int64), "y": np.zeros(5)},
            r"y in .* is float64\[5\]; give float64\[2, 3, \d+\], or",
        ),
        ({"x": np.zeros((2, 3), np.int64), "y": np.zeros((2, 1), np.int64)}, r"y in .* give int64\[2, 3\], or classes"),
        ({"x": np.zeros((2, 3), np.int64), "y": np.array([["a", "b"]])}, "y in"),
        ({"x": np.zeros((2, 3), np.int64), "y": np.array(1.0)}, "y in"),
        ({"x": np.zeros((2, 3), np.int64), "y": np.full((2, 3), 999)}, "classes from 999 to 999; the model knows 0 to"),
        ({"x": np.full((2, 3), 0.7), "y": np.zeros((2, 3), np.int64)}, r"x in .* is float64"),
        ({"x": np.array([["a", "b"]]), "y": np.zeros((1, 2), np.int64)}, "x in"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(lm_bundle, tmp_path, arrays, message):
    contract = replace(lstm_deploy.open(lm_bundle).signature, task=None)
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(InputError, match=message):
        evaluation_data(contract, tmp_path / "data.npz")


def test_data_of_another_kind_is_refused(lm_bundle, forecast_bundle, tmp_path, prices):
    contract = lstm_deploy.open(lm_bundle).signature
    (tmp_path / "text.txt").write_text("une forêt ✿")
    with pytest.raises(InputError, match="never seen"):
        evaluation_data(contract, tmp_path / "text.txt")
    (tmp_path / "short.csv").write_text("open,high,low,close\n1,2,3,4\n2,3,4,5\n")
    with pytest.raises(InputError, match="too few for windows of 20"):
        evaluation_data(lstm_deploy.open(forecast_bundle).signature, tmp_path / "short.csv")
    with pytest.raises(InputError, match=r"give one with the arrays x and y"):
        evaluation_data(replace(contract, task=None), prices)


@pytest.fixture(scope="module")
def time_major(tmp_path_factory):
    """A time-major model of one output, as a runtime."""
    path = tmp_path_factory.mktemp("major") / "m.onnx"

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.fc = nn.LSTM(3, 4), nn.Linear(4, 1)

        def forward(self, x):
            return self.fc(self.lstm(x)[0])

    export_onnx(lift(Net().eval(), [TensorSpec.parse("x:float32[seq,batch,3]")]), path)
    return open_runtime(path)


def test_rows_are_cut_along_the_batch_of_a_time_major_model(time_major, tmp_path):
    x = np.random.default_rng(0).standard_normal((300, 300, 3)).astype(np.float32)
    y = time_major.run({"x": x, **time_major.signature.initial_state(300)})["y"]
    np.savez(tmp_path / "data.npz", x=x, y=y)
    data = evaluation_data(time_major.signature, tmp_path / "data.npz")
    assert [call["x"].shape for call in data.calls] == [(300, 256, 3), (300, 44, 3)]
    assert metrics.measure(time_major, data).metric < 1e-6


def test_expected_integers_of_a_model_of_one_column_are_values_not_classes(time_major, tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros((5, 2, 3)), y=np.arange(10).reshape(5, 2))
    data = evaluation_data(time_major.signature, tmp_path / "data.npz")
    assert data.metric == "rmse"
    assert metrics.measure(time_major, data).metric > 1


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_refused(time_major, tmp_path, wrong):
    x, y = np.zeros((5, 2, 3)), np.zeros((5, 2, 1))
    x[0, 0, 0] = wrong
    np.savez(tmp_path / "data.npz", x=x, y=y)
    with pytest.raises(InputError, match="x in .* NaN, infinite or beyond float32"):
        evaluation_data(time_major.signature, tmp_path / "data.npz")


@pytest.mark.parametrize(
    "name",
    [
        *("fixed window", "carried, last step", "time-major", "classes first", "window"),
        *("one step, text", "one step, carried", "one step, window"),
    ],
)
def test_data_is_measured_whatever_the_layout(tmp_path, name):
    feeder = feeders()[name]
    lifted = sources.load_module(
        feeder.module.eval(),
        [TensorSpec.parse(text, key) for key, text in feeder.inputs.items()],
        "layers-first",
        feeder.task,
        feeder.state_policy,
    ).lifted
    path = tmp_path / "data.txt"
    if isinstance(feeder.task, LanguageModel):
        path.write_text("abcefg" * 60)
    else:
        path = tmp_path / "data.csv"
        path.write_text("a,b\n" + "".join(f"{number % 7},{number % 5}\n" for number in range(60)))
    measured = metrics.measure(EagerRuntime(lifted), evaluation_data(lifted.signature, path))
    assert measured.metric is not None
    assert 0 < measured.metric < 100


def test_a_text_does_not_measure_a_model_that_predicts_the_last_character_only(tmp_path):
    feeder = feeders()["one-hot"]
    specs = [TensorSpec.parse(text, key) for key, text in feeder.inputs.items()]
    lifted = sources.load_module(feeder.module.eval(), specs, "layers-first", feeder.task).lifted
    (tmp_path / "t.txt").write_text("abc" * 50)
    with pytest.raises(InputError, match="leave out --data"):
        evaluation_data(lifted.signature, tmp_path / "t.txt")


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (modules.StepCell, "float32[batch,3]"),
        (lambda: modules.PlainLSTM(batch_first=True), "float32[batch,1,3]"),
    ],
)
def test_arrays_of_several_steps_measure_a_model_of_one_step_with_its_state_carried(make, shape, tmp_path):
    network = make().eval()
    spec = TensorSpec.parse(shape, "x")
    lifted = sources.load_module(network, [spec], "layers-first").lifted
    x, state, y = np.random.default_rng(0).standard_normal((4, 7, 3), np.float32), [], []
    with torch.no_grad():
        for step in torch.from_numpy(x).unbind(1):
            said, *state = network(step.reshape(spec.sized({"batch": 4})), *state)
            y.append(said.reshape(4, 2).numpy())
    np.savez(tmp_path / "data.npz", x=x, y=np.stack(y, 1))
    data = evaluation_data(lifted.signature, tmp_path / "data.npz")
    assert len(data.calls) == 7
    assert metrics.measure(EagerRuntime(lifted), data).metric < 1e-5
