import json
import struct

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from lstm_deploy.contract.tasks import Forecast
from lstm_deploy.errors import InputError
from lstm_deploy.training import checkpoint
from lstm_deploy.training.checkpoint import CheckpointSpec, NetworkConfig
from lstm_deploy.training.network import load_network

SPEC = CheckpointSpec(
    network=NetworkConfig(input="values", input_size=2, output_size=1, output_columns=(1,), hidden_size=3),
    task=Forecast(features=("a", "ü"), targets=("ü",), window=5),
    state_policy="reset",
    training={"metrics": {"rmse": 0.25}},
    low=(0.0, 1.0),
    high=(2.0, 3.0),
)


def test_spec_and_tensors_survive_the_file(tmp_path):
    tensors = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.array([1])}
    checkpoint.save(tmp_path / "m.safetensors", tensors, SPEC)
    assert checkpoint.read_spec(tmp_path / "m.safetensors") == SPEC
    read = checkpoint.read_tensors(tmp_path / "m.safetensors")
    assert {name: value.tolist() for name, value in read.items()} == {k: v.tolist() for k, v in tensors.items()}


def test_third_party_weights_are_refused_with_a_remedy(tmp_path):
    save_file({"weight": np.zeros(3)}, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="lstm_deploy.export"):
        checkpoint.read_spec(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "content",
    [b"", b"x" * 100, struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 2) + b"[]", b"PK\x03\x04" + b"\0" * 60],
    ids=["empty", "noise", "huge header", "wrong header", "zip"],
)
def test_malformed_files_are_refused(tmp_path, content):
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="not a safetensors file"):
        checkpoint.read_spec(tmp_path / "m.safetensors")


@pytest.mark.parametrize("spec", ["", "{}", json.dumps({"schema_version": 1, "network": {"kind": "transformer"}})])
def test_a_malformed_spec_is_refused(tmp_path, spec):
    save_file({"weight": np.zeros(3)}, tmp_path / "m.safetensors", {checkpoint.SPEC_KEY: spec})
    with pytest.raises(InputError, match="malformed"):
        checkpoint.read_spec(tmp_path / "m.safetensors")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        checkpoint.read_spec(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "tensors", [{}, {"lstm.weight_ih_l0": np.zeros((4, 4), np.float32)}], ids=["missing", "of another shape"]
)
def test_weights_that_contradict_the_spec_are_refused(tensors):
    with pytest.raises(InputError, match="contradict"):
        load_network(NetworkConfig(input="one-hot", input_size=3, output_size=3, hidden_size=4), tensors)


def test_a_network_without_a_cell_is_an_lstm():
    """As in checkpoints of a time when there were no others."""
    old = msgspec.to_builtins(SPEC.network)
    assert old.pop("cell") == "lstm"
    assert msgspec.convert(old, NetworkConfig) == SPEC.network
