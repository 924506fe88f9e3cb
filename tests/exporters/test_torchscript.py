"""TorchScript files: the weights of an LSTM in one piece, and code that runs on whatever device its inputs are on."""

import json
import warnings
import zipfile

import modules
import pytest
import torch
from lift_modules import lift_module
from torch import nn

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import InputError
from lstm_deploy.exporters.torchscript import export_torchscript
from lstm_deploy.lifting.flat_weights import FLAT, LAYOUTS_FILE
from lstm_deploy.lifting.lifting import lift
from lstm_deploy.lifting.weight_files import open_weights

PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
FORMS = {
    "plain": {},
    "two layers": {"num_layers": 2},
    "bidirectional": {"num_layers": 2, "bidirectional": True},
    "without biases": {"num_layers": 2, "bias": False},
}


class Net(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True, **options)

    def forward(self, x):
        return self.lstm(x)[0]


class MakesTensors(Net):
    """Makes tensors in every way that a tracer writes down with a device, or as a constant."""

    def __init__(self):
        super().__init__()
        self.scale = torch.tensor([1.0, 2.0, 3.0, 4.0])  # no buffer

    def forward(self, x):
        y, _ = self.lstm(x, (x.new_zeros(1, x.shape[0], 4), torch.zeros(1, x.shape[0], 4)))
        place = torch.arange(x.shape[1], device=x.device).float()[None, :, None] + torch.ones(1)
        mask = torch.full((x.shape[0], 1, 1), 2.0, device=x.device).to(x.device)
        return y * self.scale + place * mask + torch.tensor([0.5, 0.25, 0.0, 1.0], device=x.device) + torch.tensor(2.0)


class Inner(nn.Module):
    """Its own code has a constant and a device, too."""

    def __init__(self):
        super().__init__()
        self.net = MakesTensors()

    def forward(self, x):
        return self.net(x) + torch.linspace(0, 1, 4)


def exported(lifted, folder):
    path = folder / "model.torchscript"
    export_torchscript(lifted, path)
    return path


def loaded(path, device="cpu"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all of torch.jit warns that it is deprecated
        return torch.jit.load(str(path), map_location=device)


def tensors_of(lifted, device="cpu"):
    """Random inputs and states."""
    torch.manual_seed(3)
    specs = (*lifted.signature.inputs, *lifted.signature.state_inputs)
    shapes = [spec.sized({"batch": 2, "seq": 5}) for spec in specs]
    return [torch.randn(shape).to(device) for shape in shapes]


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
def test_all_weights_of_an_lstm_are_one_tensor_in_the_order_of_cudnn(options, tmp_path):
    lifted = lift_module(Net(**options))
    path = exported(lifted, tmp_path)
    lstm = lifted.module.lstm
    names = [name for name, _ in lstm.named_parameters()]
    suffixes = dict.fromkeys(name.removeprefix("weight_ih") for name in names if name.startswith("weight_ih"))
    order = [part + suffix for kind in (PARTS[:2], PARTS[2:]) for suffix in suffixes for part in kind]
    own = dict(lstm.named_parameters())
    biases = torch.zeros(2 * 4 * 4 * len(suffixes)) if not lstm.bias else torch.empty(0)  # cuDNN has room for them
    expected = torch.cat([*(own[name].flatten() for name in order if name in own), biases])
    stored = loaded(path).state_dict()
    assert list(stored) == [f"module.lstm.{FLAT}"]
    assert torch.equal(stored[f"module.lstm.{FLAT}"], expected)


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
def test_a_trace_computes_the_same_bits_as_the_module(options, tmp_path):
    lifted = lift_module(Net(**options))
    tensors = tensors_of(lifted)
    for ours, theirs in zip(loaded(exported(lifted, tmp_path))(*tensors), lifted(*tensors), strict=True):
        assert torch.equal(ours, theirs)


def test_an_lstm_with_a_projection_keeps_its_weights(tmp_path):
    lifted = lift_module(Net(proj_size=2))
    path = exported(lifted, tmp_path)
    names = {f"module.lstm.{name}" for name, _ in lifted.module.lstm.named_parameters()}
    assert set(loaded(path).state_dict()) == names


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
def test_weights_are_read_from_a_file_by_their_own_names(options, tmp_path):
    lifted = lift_module(Net(**options))
    file = open_weights(exported(lifted, tmp_path))
    own = {f"module.lstm.{name}": value for name, value in lifted.module.lstm.named_parameters()}
    assert set(file.tensors) == set(own)
    for name, value in file.load({name: name for name in own}).items():
        assert torch.equal(value, own[name])


@pytest.mark.parametrize(
    "layout",
    [
        "[",
        '{"module.lstm.flat_weights": [["weight_ih_l0", [4, -3]]]}',
        '{"module.lstm.flat_weights": 3}',
        '{"module.lstm.flat_weights": [["weight_hh_l0", [16, 4]], ["weight_ih_l0", [16, 3]]]}',
        '{"module.lstm.flat_weights": [["weight_ih_l0", [16, 4]], ["weight_hh_l0", [16, 3]]]}',
        '{"module.lstm.flat_weights": [["weight_ih_l0", [16, 3]], ["weight_hh_l0", [1000000000, 1000000000]]]}',
    ],
)
def test_a_layout_that_does_not_fit_is_reported(layout, tmp_path):
    path = exported(lift_module(Net()), tmp_path)
    damaged = tmp_path / "damaged.torchscript"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(damaged, "w") as target:
        for name in source.namelist():
            target.writestr(name, layout if name.endswith(LAYOUTS_FILE) else source.read(name))
    with pytest.raises(InputError, match="is damaged"):
        open_weights(damaged)


def test_a_forward_may_read_the_weights_that_lie_in_one_piece(tmp_path):
    class Reads(Net):
        def forward(self, x):
            self.lstm.flatten_parameters()
            return self.lstm(x)[0] * self.lstm.weight_hh_l0.abs().mean()

    lifted = lift_module(Reads())
    tensors = tensors_of(lifted)
    for ours, theirs in zip(loaded(exported(lifted, tmp_path))(*tensors), lifted(*tensors), strict=True):
        assert torch.equal(ours, theirs)


def test_an_archive_without_layouts_is_read_as_it_is(tmp_path):
    path = exported(lift_module(Net(proj_size=2)), tmp_path)
    with zipfile.ZipFile(path) as archive:
        assert not any(name.endswith(LAYOUTS_FILE) for name in archive.namelist())
    assert "module.lstm.weight_hr_l0" in open_weights(path).tensors


@pytest.mark.parametrize(
    "make",
    [Net, MakesTensors, Inner, modules.Attention, modules.LearnedStart, modules.TwoLSTMs, modules.Cells],
    ids=lambda make: make.__name__,
)
def test_code_runs_where_its_inputs_are(make, tmp_path):
    """On PyTorch's device `meta`, which refuses to mix with the CPU as CUDA does."""
    lifted = lift_module(make())
    path = exported(lifted, tmp_path)
    tensors = tensors_of(lifted)
    for ours, theirs in zip(loaded(path)(*tensors), lifted(*tensors), strict=True):
        torch.testing.assert_close(ours, theirs)
    results = loaded(path, "meta")(*tensors_of(lifted, "meta"))
    assert {result.device.type for result in results} == {"meta"}


def test_only_the_lengths_of_packed_rows_are_on_the_cpu(tmp_path):
    specs = [TensorSpec.parse("x:float32[batch,seq,3]"), TensorSpec.parse("lengths:int64[batch]")]
    lifted = lift(modules.PoolsPadding().eval(), specs)
    graph = loaded(exported(lifted, tmp_path)).inlined_graph
    named = [node for node in nodes(graph) if node.output().type().kind() == "DeviceObjType"]
    constants = [node for node in named if node.kind() == "prim::Constant"]
    assert [node.s("value") for node in constants] == ["cpu"]
    (use,) = constants[0].output().uses()
    lengths = use.user.output()
    packs = graph.findAllNodes("aten::_pack_padded_sequence")
    assert len(packs) == 1
    assert any(follows(node, lengths) for node in packs)


def nodes(graph):
    return [node for node in graph.nodes() if node.outputsSize() == 1]


def follows(node, value):
    """Whether the second input of a node follows from a value."""
    waiting = [node.inputsAt(1)]
    while waiting:
        found = waiting.pop()
        if found.debugName() == value.debugName():
            return True
        waiting += found.node().inputs()
    return False


def test_the_original_module_is_left_as_it_was(tmp_path):
    lifted = lift_module(MakesTensors())
    before = {name: value.clone() for name, value in lifted.state_dict().items()}
    exported(lifted, tmp_path)
    after = lifted.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_layout_in_an_archive_is_plain_json(tmp_path):
    with zipfile.ZipFile(exported(lift_module(Net()), tmp_path)) as archive:
        layouts = json.loads(archive.read(f"model/extra/{LAYOUTS_FILE}"))
    assert layouts == {
        "module.lstm.flat_weights": [
            ["weight_ih_l0", [16, 3]],
            ["weight_hh_l0", [16, 4]],
            ["bias_ih_l0", [16]],
            ["bias_hh_l0", [16]],
        ]
    }
