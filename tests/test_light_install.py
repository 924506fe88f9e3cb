"""What an installation without extras does, and what it says of the rest; and what each extra adds.

Each Python has the packages that such an installation has. `tests/install` installs them in fact.
"""

import json

import numpy as np
import pytest
from feeding import feeders
from installations import python_with

import lstm_deploy

EXTRAS = {
    package: f'pip install "lstm-deploy[{extra}]"'
    for package, extra in {
        "PyTorch": "torch",
        "Lightning": "train",
        "Optuna": "train",
        "matplotlib": "plot",
        "pyarrow": "parquet",
        "OpenVINO": "openvino",
    }.items()
}


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Runs a Python with the packages of a light installation."""
    call = python_with([], tmp_path_factory.mktemp("light"))
    for name in ("torch", "lightning", "onnxscript", "optuna", "matplotlib", "pyarrow"):
        assert f"No module named '{name}'".encode() in call("-c", f"import {name}", code=1).stderr
    return call


@pytest.fixture(scope="module")
def window_bundle(tmp_path_factory):
    feeder = feeders()["fixed window"]
    path = tmp_path_factory.mktemp("window") / "b"
    lstm_deploy.export(feeder.module.eval(), path, inputs=feeder.inputs, task=feeder.task)
    return path


def command(python, *words, **more):
    return python("-m", "lstm_deploy", *words, **more).stdout.decode()


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["train", "--help"], ["env", "--json"]])
def test_what_takes_no_file_works(python, words):
    assert command(python, *words)


@pytest.mark.parametrize("file", ["", "model.onnx", "model.torchscript", "../forecaster.safetensors"])
def test_files_of_ours_are_described(python, forecast_bundle, file):
    assert json.loads(command(python, "inspect", forecast_bundle / file, "--json"))["kind"]


@pytest.mark.parametrize("language", ["web", "node", "cpp"])
def test_clients_of_other_languages_are_written(python, forecast_bundle, tmp_path, language):
    command(python, "embed", forecast_bundle, "--lang", language, "-o", tmp_path / "c")
    assert (tmp_path / "c" / "README.md").is_file()


def test_clients_are_written(python, forecast_bundle, tmp_path):
    assert "client.py" in command(python, "embed", forecast_bundle, "--lang", "python", "-o", tmp_path / "c")
    assert "13 calls replayed" in python(tmp_path / "c" / "client.py", "replay").stdout.decode()


def test_a_forecaster_runs_rolls_out_and_streams(python, forecast_bundle, prices):
    out = command(python, "run", forecast_bundle, "--input", prices, "--steps", 20)
    assert len(out.splitlines()) == 21
    lines = command(python, "run", forecast_bundle, "--stream", given=prices.read_bytes()).splitlines()
    first = [float(cell) for cell in out.splitlines()[1].split(",")[1:]]
    last = [float(cell) for cell in lines[-1].split(",")]
    assert last == pytest.approx(first, rel=1e-5), "the latest window is what run sees"


def test_a_network_of_windows_runs_rolls_out_and_streams(python, window_bundle, tmp_path):
    values = np.random.default_rng(0).standard_normal(15)
    (tmp_path / "a.csv").write_text("a\n" + "".join(f"{value}\n" for value in values))
    out = command(python, "run", window_bundle, "--input", tmp_path / "a.csv", "--steps", 50)
    assert len(out.splitlines()) == 51
    lines = command(python, "run", window_bundle, "--stream", given=(tmp_path / "a.csv").read_bytes()).splitlines()
    assert lines[0] == "a"
    assert lines[1:10] == ["nan"] * 9
    assert float(lines[-1]) == pytest.approx(float(out.splitlines()[1].split(",")[1]), rel=1e-4)


def test_a_language_model_writes_and_streams(python, lm_bundle):
    out = command(python, "run", lm_bundle, "--prompt", "The ", "--steps", 30, "--json")
    assert len(json.loads(out)["text"]) == 30
    lines = command(python, "run", lm_bundle, "--stream", "--json", given=b"The \nIf a\n").splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == ["The ", "If a"]


@pytest.mark.parametrize("name", ["forecast_bundle", "lm_bundle", "window_bundle"])
def test_a_bundle_is_validated_by_its_golden_trace(python, name, request):
    report = json.loads(command(python, "validate", request.getfixturevalue(name), "--json"))
    assert report["passed"]
    assert {check["artifact"] for check in report["checks"]} == {"model.onnx", "rollout.onnx"}
    assert {"golden", "stream", "rollout"} <= {check["name"] for check in report["checks"]}


def test_python_streams_slots_and_rollouts(python, forecast_bundle):
    code = f"""
import lstm_deploy, numpy as np, sys
model = lstm_deploy.open({str(forecast_bundle)!r})
stream = model.stream(batch=2)
saved = stream.state
stream.step(np.full((2, 4), 150.0))
stream.state = saved
slots = lstm_deploy.Slots(stream)
assert slots.step({{slots.open(): [150.0] * 4}})[0].shape == (4,)
assert model.rollout({{"x": np.full((1, 20, 4), 150.0), "steps": 5}})["y"].shape == (1, 5, 4)
assert not any(name.startswith("torch") for name in sys.modules)
"""
    python("-c", code)


def test_a_bundle_is_timed_and_its_report_keeps_the_figures(python, bundle_copy):
    """Its plots showed other ones, and cannot be drawn anew."""
    quick = ["--batch", 1, "--scenario", "stream", "--scope", "end_to_end", "--rounds", 9, "--no-roofline"]
    command(python, "bench", bundle_copy, *quick)
    report = (bundle_copy / "report.md").read_text(encoding="utf-8")
    assert "## How fast is it?" in report
    assert ".png" not in report
    assert "matplotlib is not installed" in report
    assert list((bundle_copy / "report").iterdir()) == []


def test_the_golden_trace_is_said_to_be_all_that_was_compared(python, bundle_copy):
    said = python("-m", "lstm_deploy", "validate", bundle_copy).stderr.decode()
    assert "only the golden trace was replayed: PyTorch is not installed" in said


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (["export", "{source}"], "PyTorch"),
        (["export", "{weights}", "--model", "net.py:Net"], "PyTorch"),
        (["inspect", "{weights}"], "PyTorch"),
        (["validate", "{bundle}", "--reference", "{source}"], "PyTorch"),
        (["validate", "{bundle}/model.torchscript"], "PyTorch"),
        (["bench", "{bundle}", "--reference", "{source}"], "PyTorch"),
        (["run", "{bundle}", "--input", "{prices}", "--runtime", "torchscript"], "PyTorch"),
        (["train", "{prices}", "--task", "forecast", "--target", "close"], "Lightning"),
        (["train", "--data", "sine", "--task", "forecast", "--search", "3"], "Optuna"),
        (["demo"], "Lightning"),
        (["run", "{bundle}", "--input", "{prices}", "--plot", "p.png"], "matplotlib"),
        (["bench", "{bundle}", "--plot", "p.png"], "matplotlib"),
        (["run", "{bundle}", "--input", "{parquet}"], "pyarrow"),
    ],
)
def test_a_missing_package_is_one_sentence_with_its_remedy(
    python, forecast_bundle, forecaster, prices, tmp_path, words, missing
):
    (tmp_path / "best.pt").write_bytes(b"weights")
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    files = {"weights": tmp_path / "best.pt", "parquet": tmp_path / "t.parquet", "source": forecaster}
    words = [word.format(bundle=forecast_bundle, prices=prices, **files) for word in words]
    said = python("-m", "lstm_deploy", *words, code=2).stderr.decode().splitlines()
    assert said[-1].startswith("error: ")
    assert f"{missing} is not installed; {EXTRAS[missing]}" in said[-1]
    assert not any("Traceback" in line for line in said)


def test_in_python_a_missing_package_is_an_error_of_ours_and_of_imports(python, forecast_bundle, forecaster):
    code = f"""
import lstm_deploy
try:
    from lstm_deploy import export
except lstm_deploy.MissingPackageError as error:
    assert isinstance(error, ImportError) and isinstance(error, lstm_deploy.InputError)
    print(error)
try:
    lstm_deploy.validate({str(forecast_bundle)!r}, reference={str(forecaster)!r})
except ImportError as error:
    print(error)
"""
    assert python("-c", code).stdout.decode() == f"PyTorch is not installed; {EXTRAS['PyTorch']}.\n" * 2


def test_the_version_is_that_of_the_package(python):
    said = python("-c", "import lstm_deploy; print(lstm_deploy.__version__)").stdout.decode()
    assert said == command(python, "--version")


def test_pytorch_exports_without_what_training_needs(prices, tmp_path):
    (tmp_path / "packages").mkdir()
    python = python_with(["torch"], tmp_path / "packages")
    python("-c", "import onnxscript, lstm_deploy; from lstm_deploy.exporters import export, parity_plots")
    train = ["train", prices, "--task", "forecast", "--target", "close", "-o", tmp_path / "t.safetensors"]
    said = python("-m", "lstm_deploy", *train, code=2).stderr.decode()
    assert f"Lightning is not installed; {EXTRAS['Lightning']}." in said
