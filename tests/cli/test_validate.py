import json
import os
import subprocess

import numpy as np
import pytest
import torch
from command_line import COMMAND, fails, run

from lstm_deploy.artifacts import Bundle
from lstm_deploy.cli import recording
from lstm_deploy.validation import pipeline


def test_failed_parity_is_exit_3_and_says_where(bundle_copy, forecaster):
    import onnx

    model = onnx.load(bundle_copy / "model.onnx")
    node = next(node for node in model.graph.node if node.op_type == "LSTM")
    node.input[5], node.input[6] = node.input[6], node.input[5]
    onnx.save(model, bundle_copy / "model.onnx")
    out, _ = run("validate", bundle_copy, code=3)
    (cause,) = (line for line in out.splitlines() if line.strip().startswith("likely cause"))
    assert "node_lstm" in cause
    assert "largest" in out
    assert out.count(cause) == 1, "a cause is told once, however many checks it makes fail"
    assert "rollout.onnx" in out
    assert out.splitlines()[-1].startswith("FAILED")
    assert len(run("validate", bundle_copy, "--verbose", code=3)[0].splitlines()) > len(out.splitlines()) + 10
    out, _ = run("validate", bundle_copy, "--json", code=3)
    assert json.loads(out)["passed"] is False


def test_an_artifact_that_overflows_is_exit_3_and_recorded(bundle_copy):
    import onnx

    model = onnx.load(bundle_copy / "model.onnx")
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "module.fc.bias")
    bias.raw_data = np.full(4, np.inf, np.float32).tobytes()
    onnx.save(model, bundle_copy / "model.onnx")
    run("validate", bundle_copy, code=3)
    assert "FAILED" in (bundle_copy / "report.md").read_text(encoding="utf-8")
    assert "model.onnx" in run("inspect", bundle_copy)[0]


def test_a_model_that_is_not_recognized_is_named_by_options_of_the_command_that_was_run(bundle_copy, tmp_path):
    weights = {f"gru.{name}": value for name, value in torch.nn.GRU(3, 4).state_dict().items()}
    torch.save({**weights, "conv.weight": torch.zeros(4, 3, 3)}, tmp_path / "net.pt")
    error = fails("validate", bundle_copy, "--reference", tmp_path / "net.pt")
    assert "name its class with --model FILE.py:Class, or take a part alone with --weights-key gru." in error
    assert "lstm-deploy export" not in error
    (told,) = (line for line in run("inspect", tmp_path / "net.pt")[0].splitlines() if "not recognized" in line)
    assert told.endswith(f"lstm-deploy export {tmp_path / 'net.pt'} --weights-key gru."), "inspect has no such options"


def test_a_missing_provider_is_exit_4(forecast_bundle):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert "--provider cpu" in fails("validate", forecast_bundle, "--provider", "cuda", code=4)
    assert "--provider cpu" in fails("bench", forecast_bundle, "--provider", "cuda", code=4)
    assert "--provider cpu" in fails("bench", forecast_bundle, "--provider", "tensorrt", code=4)


@pytest.mark.parametrize("option", ["--atol", "--rtol"])
def test_a_verdict_by_other_tolerances_is_not_recorded(bundle_copy, option):
    before = Bundle(bundle_copy).manifest
    _, err = run("validate", bundle_copy, option, "0", code=3)
    assert "not recorded: --atol and --rtol allow other differences" in err
    assert Bundle(bundle_copy).manifest == before


@pytest.mark.parametrize("command", [["validate"], ["bench", "--rounds", "9", "--baseline", "none", "--no-roofline"]])
def test_results_of_a_bundle_that_was_exported_anew_meanwhile_are_not_recorded(bundle_copy, monkeypatch, command):
    def meanwhile(bundle, fields):
        Bundle(bundle.path).update(rollouts=())
        recording.record_in(bundle, fields)

    monkeypatch.setattr(f"lstm_deploy.cli.{command[0]}.record_in", meanwhile)
    _, err = run(command[0], bundle_copy, *command[1:])
    assert "not recorded in" in err
    assert "exported again meanwhile" in err
    manifest = Bundle(bundle_copy).manifest
    assert (manifest.rollouts, manifest.measurements) == ((), None)


def test_a_bundle_that_is_exported_anew_while_it_is_validated_has_no_verdict(bundle_copy, monkeypatch):
    real = pipeline.judge

    def judge(*arguments, **more):
        results = real(*arguments, **more)
        Bundle(bundle_copy).update(rollouts=())
        return results

    monkeypatch.setattr(pipeline, "judge", judge)
    assert "was exported again during the validation; validate it again" in fails("validate", bundle_copy)


def test_several_validate_a_bundle_at_once(bundle_copy):
    processes = [
        subprocess.Popen([*COMMAND, "validate", str(bundle_copy)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in processes:
        _, err = process.communicate()
        assert process.returncode == 0, err.decode()
    assert Bundle(bundle_copy).manifest.parity.passed
    assert not [name for name in os.listdir(bundle_copy) if name.startswith(".")]
