import argparse
import json
import zipfile

import modules
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torch import nn

from lstm_deploy.cli.file_descriptions import contract_of, describe
from lstm_deploy.errors import InputError
from lstm_deploy.exporters.precision.int8_onnx import Settings, quantize_onnx


@pytest.mark.parametrize("name", ["", "model.onnx", "model.torchscript"])
def test_bundles_and_artifacts_tell_the_same_contract(forecast_bundle, name):
    contract = contract_of(describe(forecast_bundle / name))
    assert contract.input_names == ["x", "h_in", "c_in"]
    assert contract == contract_of(describe(forecast_bundle))


def test_a_bundle_tells_whether_it_is_intact(bundle_copy):
    found = describe(bundle_copy)
    assert (found["kind"], found["validated"], found["changed_files"]) == ("bundle", True, [])
    (bundle_copy / "model.torchscript").write_bytes(b"x")
    assert describe(bundle_copy)["changed_files"] == ["model.torchscript"]


def test_a_checkpoint_tells_its_network(forecaster):
    found = describe(forecaster)
    assert found["network"]["hidden_size"] == 8
    assert found["tensors"]["lstm.weight_ih_l0"] == "float32[32, 4]"
    assert contract_of(found) is None


def test_an_onnx_file_of_others_is_described_and_linted(tmp_path):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    found = describe(tmp_path / "m.onnx")
    assert found["inputs"] == {"x": "float32[n, 3]"}
    assert found["operators"] == {"Relu": 1}
    assert found["contract"] is None
    assert "no LSTM" in found["lint"][0]


def test_values_that_are_no_tensors_are_named(tmp_path):
    """As of classifiers of other libraries, which return a sequence of mappings."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    y = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("SequenceConstruct", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    assert describe(tmp_path / "m.onnx")["outputs"] == {"y": "sequence"}


@pytest.mark.parametrize("name", ["m.pt", "m.safetensors"])
def test_weights_of_others_are_listed_with_what_they_tell(tmp_path, name):
    state = {f"rnn.{key}": value for key, value in nn.LSTM(3, 4).state_dict().items()}
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    found = describe(tmp_path / name)
    assert found["kind"] == "weights"
    assert found["tensors"]["rnn.weight_ih_l0"] == "float32[16, 3]"
    assert "rnn is an LSTM(3, 4)" in found["inferred"]


@pytest.mark.filterwarnings("ignore")  # PyTorch's own
@pytest.mark.parametrize("name", ["net.jit", "net.pt", "net.torchscript", "net"])
def test_torchscript_of_others_is_known_by_its_content(tmp_path, name):
    module = nn.Sequential(nn.LSTM(3, 4, batch_first=True)).eval()
    torch.jit.trace(module, torch.zeros(1, 2, 3)).save(tmp_path / name)
    found = describe(tmp_path / name)
    assert (found["kind"], found["contract"]) == ("torchscript", None)
    assert found["tensors"]["0.weight_ih_l0"] == "float32[16, 3]"


def test_the_state_of_an_onnx_file_is_told(forecast_bundle):
    assert describe(forecast_bundle / "model.onnx")["state"] == [
        "The state of node_lstm__2 and node_lstm_1__2 is carried: h starts from the input h_in and leaves in the "
        "output h_out; c starts from the input c_in and leaves in the output c_out."
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [False, True])
def test_a_hidden_state_of_pytorchs_own_exporters_is_a_defect(tmp_path, dynamo):
    module, x = modules.HidesState().eval(), torch.zeros(2, 5, 3)
    torch.onnx.export(module, (x,), tmp_path / "m.onnx", dynamo=dynamo, verbose=False)
    found = describe(tmp_path / "m.onnx")
    assert any("is hidden: h and c start from zeros on every call" in text for text in found["lint"])


@pytest.mark.parametrize("suffix", [".pt", ".pth.tar", ".cleanrl_model", ""])
def test_weights_that_are_not_recognized_are_told_what_to_type(tmp_path, suffix):
    """Which is another command: `inspect` has no option that would help."""
    torch.save({"actor": nn.LSTM(3, 4).state_dict(), "critic": nn.LSTM(5, 4).state_dict()}, tmp_path / f"m{suffix}")
    found = describe(tmp_path / f"m{suffix}")
    assert found["recurrent"] == {"actor": "LSTM(3, 4)", "critic": "LSTM(5, 4)"}
    assert f"lstm-deploy export {tmp_path / f'm{suffix}'} --weights-key actor" in found["unrecognized"]
    torch.save(
        nn.LSTM(3, 4).state_dict() | {"a.weight": torch.ones(7, 9), "cfg": argparse.Namespace(lr=1)}, tmp_path / "n.pt"
    )
    found = describe(tmp_path / "n.pt")
    assert found["left_out"] == {"cfg": "argparse.Namespace"}
    assert "a.weight [7, 9] matches no known layer" in found["unrecognized"]
    assert "tensors:" not in found["unrecognized"]


def test_everything_is_json(forecast_bundle, forecaster):
    for path in (forecast_bundle, forecaster, forecast_bundle / "model.onnx", forecast_bundle / "model.torchscript"):
        json.dumps(describe(path))


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.txt").touch()
    (tmp_path / "m.torchscript").write_bytes(b"PK\x03\x04")
    with zipfile.ZipFile(tmp_path / "z.torchscript", "w") as archive:
        archive.writestr("a", "b")
    for name in ("a.txt", "m.torchscript", "z.torchscript", "none.onnx", "."):
        with pytest.raises(InputError):
            describe(tmp_path / name)


def test_an_int8_file_says_where_it_is_right(forecast_bundle, tmp_path):
    found = {}
    for weights in ("paired", "full"):
        quantize_onnx(forecast_bundle / "model.onnx", tmp_path / "q.onnx", Settings(weights=weights))
        found[weights] = describe(tmp_path / "q.onnx")
    assert [found[weights]["precision"] for weights in found] == ["int8", "int8"]
    assert [found[weights]["lint"] for weights in found] == [[], []]
    assert found["paired"]["cpus"] == "all"
    assert found["full"]["cpus"].startswith("for CPUs with VNNI only")
    assert describe(forecast_bundle / "model.onnx")["cpus"] is None
