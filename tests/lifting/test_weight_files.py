import pickle
import struct
import zipfile

import pytest
import torch
from fuzzing import KINDS, fuzz
from safetensors.torch import save_file
from torch import nn

from lstm_deploy.errors import InputError
from lstm_deploy.lifting.weight_choice import read_weights


@pytest.fixture
def state():
    torch.manual_seed(0)
    return nn.LSTM(3, 4).state_dict()


def saved(path, content):
    torch.save(content, path)
    return path


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin"])
@pytest.mark.parametrize("key", [None, "state_dict", "model_state", "model", "model_state_dict"])
def test_weights_are_found_where_scripts_put_them(tmp_path, state, suffix, key):
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    content = state if key is None else {key: state, "optimizer": optimizer, "epoch": 3}
    weights = read_weights(saved(tmp_path / f"m{suffix}", content))
    assert set(weights) == set(state)
    assert all(weights[name].equal(state[name]) for name in state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "model.module."])
def test_prefixes_of_wrappers_are_taken_off(tmp_path, state, prefix):
    wrapped = {prefix + name: value for name, value in state.items()}
    assert set(read_weights(saved(tmp_path / "m.pt", wrapped))) == set(state)


def test_an_entry_can_be_named(tmp_path, state):
    path = saved(tmp_path / "m.pt", {"ema": {"shadow": state}, "other": {"a": torch.zeros(1)}})
    assert set(read_weights(path, "ema.shadow")) == set(state)
    with pytest.raises(InputError, match="no entry 'emma'; there is ema, other"):
        read_weights(path, "emma")
    with pytest.raises(InputError, match="--weights-key"):
        read_weights(path)


def test_safetensors_lists_and_torchscript_are_read(tmp_path, state):
    save_file(state, tmp_path / "m.safetensors")
    assert set(read_weights(tmp_path / "m.safetensors")) == set(state)
    assert set(read_weights(saved(tmp_path / "l.pt", list(state.values())))) == {"0", "1", "2", "3"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_become_float32(tmp_path, state, dtype):
    weights = read_weights(saved(tmp_path / "m.pt", {name: value.to(dtype) for name, value in state.items()}))
    assert all(value.dtype == torch.float32 for value in weights.values())


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_hostile_pickle_never_runs(tmp_path, state, save):
    save({"state_dict": state, "extra": Hostile(tmp_path / "owned")}, tmp_path / "m.pt")
    with pytest.raises(InputError, match="--trust-pickle|not a file of PyTorch weights"):
        read_weights(tmp_path / "m.pt")
    assert not (tmp_path / "owned").exists()


def test_entries_that_are_not_read_are_reported(tmp_path, state):
    content = {
        "state_dict": state,
        "x_mean": torch.ones(3),
        "head": {"w": torch.ones(2)},
        "optimizer": {"a": torch.ones(1)},
    }
    unused = []
    read_weights(saved(tmp_path / "m.pt", content), unused=unused)
    assert unused == ["x_mean", "head"]


@pytest.mark.parametrize("value", [torch.eye(3).to_sparse(), torch.zeros(3, device="meta"), torch.zeros(3).cfloat()])
def test_tensors_that_are_not_plain_numbers_are_refused(tmp_path, state, value):
    with pytest.raises(InputError):
        read_weights(saved(tmp_path / "m.pt", {**state, "x": value}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, state, value):
    state["weight_hh_l0"][1, 2] = value
    with pytest.raises(InputError, match="weight_hh_l0"):
        read_weights(saved(tmp_path / "m.pt", state))


@pytest.mark.parametrize("content", [3, "text", {}, [], {"a": 1}, {"state_dict": {}}, [1, 2]], ids=repr)
def test_files_without_weights_are_refused(tmp_path, content):
    with pytest.raises(InputError):
        read_weights(saved(tmp_path / "m.pt", content))


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"garbage" * 99, b"PK\x03\x04" + bytes(99), b"\x80\x02}q\x00.", struct.pack("<Q", 2**62) + b"{}"],
    ids=["empty", "nul", "noise", "zip magic", "empty pickle", "huge header"],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_malformed_files_are_refused(tmp_path, content, suffix):
    (tmp_path / f"m{suffix}").write_bytes(content)
    with pytest.raises(InputError):
        read_weights(tmp_path / f"m{suffix}")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", bytes(50_000_000))
    with pytest.raises(InputError, match="times its size"):
        read_weights(tmp_path / "m.pt")


@pytest.mark.filterwarnings("ignore")  # what damaged files make of warnings is no matter here
@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_are_read_or_refused_but_never_crash(tmp_path, state, kind):
    """100 mutations of each kind here; benchmarks/fuzz_readers.py makes thousands."""
    fuzz(tmp_path, kind, 100, seed=1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "seed"), [("zip", 7)])  # an archive that claims to span several disks
def test_mutations_that_once_found_something(tmp_path, kind, seed):
    fuzz(tmp_path, kind, 50, seed)


def test_an_onnx_file_is_refused_with_a_remedy(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"anything")
    with pytest.raises(
        InputError, match="m.onnx is an ONNX file, not PyTorch weights; give the weights that it was made"
    ):
        read_weights(tmp_path / "m.onnx")


def test_other_names_of_a_tensor_that_is_used_are_no_other_weights(tmp_path, state):
    """As TorchScript has them in `_flat_weights`, and tied weights have."""
    unused = []
    content = {"model": state, "again": list(state.values()), "view": state["weight_hh_l0"][:2], "copy": torch.ones(3)}
    read_weights(saved(tmp_path / "m.pt", content), unused=unused)
    assert unused == ["view", "copy"]


def test_a_file_of_one_tensor_is_read(tmp_path):
    """As the vector of all parameters, which has no name."""
    assert list(read_weights(saved(tmp_path / "m.pt", torch.ones(3)), unused=[])) == [""]
