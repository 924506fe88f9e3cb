"""Using bundles in a Python that has no PyTorch: the packages of this one but for PyTorch and what is made for it."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from feeding import feeders

import lstm_deploy

WITHOUT = ("torch", "functorch", "lightning", "pytorch_lightning", "onnxscript", "triton", "safetensors", "nvidia")
"""Beginnings of names of packages that such a Python lacks."""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Runs a Python without PyTorch; its arguments and standard input → standard output."""
    packages = tmp_path_factory.mktemp("packages")
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not entry.name.startswith(WITHOUT) and not entry.name.endswith(".pth"):
            (packages / entry.name).symlink_to(entry)
    home = Path(lstm_deploy.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(packages), str(home)])}

    def call(*arguments, given=b"", code=0):
        result = subprocess.run(
            [sys.executable, "-S", *map(str, arguments)],
            input=given,
            capture_output=True,
            env=environment,
            cwd=packages,
            check=False,
        )
        assert result.returncode == code, result.stderr.decode()
        return result.stdout if code == 0 else result.stderr

    assert b"No module named 'torch'" in call("-c", "import torch", code=1)
    return call


@pytest.fixture(scope="module")
def window_bundle(tmp_path_factory):
    feeder = feeders()["fixed window"]
    path = tmp_path_factory.mktemp("window") / "b"
    lstm_deploy.export(feeder.module.eval(), path, inputs=feeder.inputs, task=feeder.task)
    return path


def command(python, *words, **more):
    return python("-m", "lstm_deploy", *words, **more).decode()


def test_clients_are_written(python, forecast_bundle, tmp_path):
    assert "client.py" in command(python, "embed", forecast_bundle, "--lang", "python", "-o", tmp_path / "c")
    assert "13 calls replayed" in python(tmp_path / "c" / "client.py", "replay").decode()


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


def test_what_needs_pytorch_says_so(python, forecast_bundle, prices):
    error = python(
        "-m", "lstm_deploy", "run", forecast_bundle, "--input", prices, "--runtime", "torchscript", code=2
    ).decode()
    assert "needs PyTorch, which is not installed" in error
    assert "Traceback" not in error
