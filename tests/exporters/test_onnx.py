import warnings
from collections import Counter

import modules
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import state_forms
import torch
from hypothesis import HealthCheck, example, given, settings, strategies as st
from kinds import layer
from properties import examples
from torch import nn

from lstm_deploy.contract.cells import CELLS
from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import LiftingError
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.exporters.torchscript import export_torchscript
from lstm_deploy.lifting.lifting import lift
from lstm_deploy.lifting.probing import example_inputs

SHAPES = [(1, 1), (3, 7), (2, 100)]


def onnx_of(module, path, layout="batch,seq"):
    lifted = lift(module.eval(), [TensorSpec.parse(f"x:float32[{layout},3]")])
    export_onnx(lifted, path)
    return lifted, onnx.load(path)


def assert_equal_on_all_shapes(lifted, path):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch, seq in SHAPES:
        tensors = example_inputs(lifted.signature, batch, seq, seed=batch)
        states = [torch.randn_like(state) for state in tensors[1:]]
        feeds = dict(zip(lifted.signature.input_names, [tensors[0].numpy(), *(s.numpy() for s in states)], strict=True))
        got = session.run(lifted.signature.output_names, feeds)
        with torch.no_grad():
            expected = lifted(tensors[0], *states)
        for name, a, b in zip(lifted.signature.output_names, got, expected, strict=True):
            np.testing.assert_allclose(a, b.numpy(), atol=1e-5, rtol=1e-5, err_msg=f"{name} at {batch}, {seq}")


@settings(max_examples=examples(4), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    bias=st.booleans(),
    kind=st.sampled_from([*CELLS]),
    proj_size=st.sampled_from([0, 0, 2, 7]),
)
@example(num_layers=3, bidirectional=True, batch_first=False, bias=False, kind="LSTM", proj_size=2)
@example(num_layers=1, bidirectional=False, batch_first=True, bias=True, kind="GRU", proj_size=0)
def test_every_form_of_every_kind_is_one_node_per_layer_and_equal(tmp_path, kind, proj_size, **form):
    """The stock exporter lacks this property; it holds for the twentieth export in one process too."""
    module = layer(kind, 3, 8, **form, **({"proj_size": proj_size} if kind == "LSTM" else {}))
    layout = "batch,seq" if form["batch_first"] else "seq,batch"
    lifted, model = onnx_of(module, tmp_path / "m.onnx", layout)
    count = Counter(node.op_type for node in model.graph.node)
    assert count[CELLS[kind].onnx_operator] == form["num_layers"]
    assert not {"Loop", "If", "Scan"} & set(count)
    assert_equal_on_all_shapes(lifted, tmp_path / "m.onnx")


@pytest.mark.parametrize("make", [modules.HidesState, modules.ReturnsState, modules.Attention, modules.TwoLSTMs])
def test_third_party_modules_are_equal_in_onnx(tmp_path, make):
    lifted, _ = onnx_of(make(), tmp_path / "m.onnx")
    assert_equal_on_all_shapes(lifted, tmp_path / "m.onnx")


def test_a_size_that_is_asserted_after_layers_with_strides_stays_right(tmp_path):
    lifted = lift(modules.ReadsLines().eval(), [TensorSpec.parse("x:float32[batch,seq,8]")])
    export_onnx(lifted, tmp_path / "m.onnx")
    assert_equal_on_all_shapes(lifted, tmp_path / "m.onnx")


class Cuts(nn.Module):
    """Looks at some of the steps of long calls only, before or after a layer with a stride."""

    def __init__(self, cut, after_layer=False):
        super().__init__()
        self.cut, self.after_layer = cut, after_layer
        self.conv = nn.Conv1d(3, 4, 4, stride=2)
        self.gru, self.head = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x):
        x = x if self.after_layer else self.cut(x)
        y = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return self.head(self.gru(self.cut(y) if self.after_layer else y)[0][:, -1])


@pytest.mark.parametrize(
    ("module", "bound"),
    [
        (Cuts(lambda x: x[:, :5000]), "From seq 5000 on"),
        (Cuts(lambda x: x[:, -5000:]), "From seq 5000 on"),
        (Cuts(lambda x: x[:, :300], after_layer=True), "From seq 602 on"),
        (Cuts(lambda x: x[:70]), "From batch 70 on"),
    ],
    ids=["first", "latest", "after a layer", "rows"],
)
def test_a_cut_of_long_calls_is_refused_as_a_graph_would_leave_it_out(tmp_path, module, bound):
    lifted = lift(module.eval(), [TensorSpec.parse("x:float32[batch,seq,3]")])
    with pytest.raises(LiftingError, match=f"{bound}, forward does something else"):
        export_onnx(lifted, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_a_cut_stays_where_the_size_is_a_number(tmp_path):
    lifted = lift(Cuts(lambda x: x[:, :30]).eval(), [TensorSpec.parse("x:float32[batch,40,3]")])
    export_onnx(lifted, tmp_path / "m.onnx")
    session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    x = torch.randn(2, 40, 3)
    (got,) = session.run(["y"], {"x": x.numpy(), "h_in": np.zeros((1, 2, 5), np.float32)})
    np.testing.assert_allclose(got, lifted(x, torch.zeros(1, 2, 5))[0].detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride"), [(128, 64), (400, 160)])
def test_long_kernels_over_raw_samples_leave_the_length_open(tmp_path, kernel, stride):
    class Samples(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.gru = nn.Conv1d(1, 4, kernel, stride), nn.GRU(4, 5, batch_first=True)

        def forward(self, wav):
            return self.gru(self.conv(wav.unsqueeze(1)).transpose(1, 2))[0]

    lifted = lift(Samples().eval(), [TensorSpec.parse("wav:float32[batch,seq]")])
    assert (lifted.signature.fixed, lifted.signature.least_seq) == ((), kernel)
    export_onnx(lifted, tmp_path / "m.onnx")
    wav = torch.randn(2, 16_000)
    session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(["y"], {"wav": wav.numpy(), "h_in": np.zeros((1, 2, 5), np.float32)})
    np.testing.assert_allclose(got, lifted(wav, torch.zeros(1, 2, 5))[0].detach(), rtol=1e-4, atol=1e-5)


def test_names_and_axes_are_those_of_the_contract(tmp_path):
    _, model = onnx_of(modules.ReturnsState(), tmp_path / "m.onnx")
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "x": ["batch", "seq", 3],
        "h_in": [2, "batch", 8],
        "c_in": [2, "batch", 8],
        "y": ["batch", "seq", 2],
        "h_out": [2, "batch", 8],
        "c_out": [2, "batch", 8],
    }


@pytest.mark.parametrize("name", ["model.onnx", "rollout.onnx"])
def test_sizes_inside_have_no_names_of_their_own(lm_bundle, name):
    """Readers that unify the names of sizes, such as tract, refuse a file whose inner names are the tracer's."""
    graph = onnx.load(lm_bundle / name).graph
    inside, declared = (
        {dim.dim_param for value in values for dim in value.type.tensor_type.shape.dim if dim.dim_param}
        for values in (graph.value_info, (*graph.input, *graph.output))
    )
    assert inside <= declared


def test_weights_are_initializers_so_that_quantizers_find_them(tmp_path):
    _, model = onnx_of(modules.HidesState(num_layers=2), tmp_path / "m.onnx")
    constants = {tensor.name for tensor in model.graph.initializer}
    lstms = [node for node in model.graph.node if node.op_type == "LSTM"]
    assert all(set(node.input[1:4]) <= constants for node in lstms)


def test_the_graph_does_not_mention_the_code_it_was_traced_from(tmp_path):
    onnx_of(modules.HidesState(), tmp_path / "m.onnx")
    content = (tmp_path / "m.onnx").read_bytes()
    assert b"site-packages" not in content
    assert b".py" not in content


def test_the_file_is_what_protobuf_itself_would_write(tmp_path):
    """Its weights are written around protobuf, which would copy them."""
    lifted, model = onnx_of(modules.HidesState(num_layers=2, bidirectional=True), tmp_path / "m.onnx")
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)
    assert onnx.ModelProto.FromString(model.SerializeToString()) == model
    assert len(model.SerializeToString()) == (tmp_path / "m.onnx").stat().st_size
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name.endswith("fc.weight")]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(weight), lifted.module.fc.weight.numpy())


def test_a_projection_without_full_rank_is_refused(tmp_path):
    module = nn.LSTM(3, 8, proj_size=2)
    with torch.no_grad():
        module.weight_hr_l0[1] = 2 * module.weight_hr_l0[0]
    with pytest.raises(LiftingError, match="linearly dependent"):
        onnx_of(module, tmp_path / "m.onnx", "seq,batch")


@pytest.mark.parametrize(
    "make",
    [
        state_forms.ResetsRows,
        state_forms.ProjectsGiven,
        state_forms.TwoNamedPairs,
        state_forms.CellsInOneTensor,
        state_forms.CalledFromTwoStates,
        state_forms.KeepsInBuffers,
        state_forms.KeepsForRows,
        state_forms.KeepsOnceReady,
        state_forms.KeepsOfTwoCells,
    ],
)
def test_states_of_any_form_are_carried_by_plain_onnxruntime_and_torchscript(tmp_path, make):
    torch.manual_seed(0)
    lifted = lift(make().eval(), [TensorSpec.parse(text, name) for name, text in make.inputs.items()])
    signature = lifted.signature
    export_onnx(lifted, tmp_path / "model.onnx")
    export_torchscript(lifted, tmp_path / "model.torchscript")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all of torch.jit warns that it is deprecated
        script = torch.jit.load(str(tmp_path / "model.torchscript"))
    states = [torch.randn(spec.sized({"batch": 3})) for spec in signature.state_inputs]
    for seq in (1, 4, 2):
        shapes = [spec.sized({"batch": 3, "seq": seq}) for spec in signature.inputs]
        inputs = [torch.randint(0, 2, shape).float() if len(shape) == 1 else torch.randn(shape) for shape in shapes]
        tensors = [*inputs, *states]
        with torch.no_grad():
            expected = lifted.author(*tensors)
            scripted = script(*tensors)
        feeds = dict(zip(signature.input_names, (x.numpy() for x in tensors), strict=True))
        for value, a, b in zip(expected, session.run(None, feeds), scripted, strict=True):
            np.testing.assert_allclose(a, value.numpy(), atol=1e-5, rtol=1e-5)
            np.testing.assert_allclose(b.numpy(), value.numpy(), atol=1e-5, rtol=1e-5)
        states = expected[len(signature.outputs) :]
