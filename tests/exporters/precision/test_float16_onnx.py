import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings, strategies as st
from properties import examples
from torch import nn
from validation_cases import checks_of

from lstm_deploy.artifacts.onnx_weights import recurrent_layers
from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import InputError, ParityError
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.exporters.precision.float16_onnx import export_float16
from lstm_deploy.lifting import onnx_order, sources
from lstm_deploy.lifting.lifting import lift
from lstm_deploy.validation.case_inputs import Effort
from lstm_deploy.validation.judging import open_emulating
from lstm_deploy.validation.pytorch_reference import PyTorchReference
from lstm_deploy.validation.reference_cases import make_cases
from lstm_deploy.validation.weights import layer_problems

SMALL = Effort(100, ((1, 1), (3, 7), (2, 30)), 1, 1e9)
HALF = onnx.TensorProto.FLOAT16


class Net(nn.Module):
    def __init__(self, scale=1.0, **form):
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True, **form)
        self.fc = nn.Linear((form.get("proj_size") or 8) * (2 if form.get("bidirectional") else 1), 3)
        self.scale = scale

    def forward(self, x):
        return self.fc(self.lstm(x / self.scale)[0]) * self.scale


def exported(folder, module):
    torch.manual_seed(0)
    lifted = lift(module.eval(), [TensorSpec.parse("x:float32[batch,seq,6]")])
    export_onnx(lifted, folder / "m.onnx")
    return lifted, folder / "m.onnx"


@settings(max_examples=examples(3), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    proj_size=st.sampled_from([0, 0, 3]),
    state_dtype=st.sampled_from(["float16", "float32"]),
)
@example(num_layers=3, bidirectional=True, bias=False, proj_size=3, state_dtype="float32")
@example(num_layers=1, bidirectional=False, bias=True, proj_size=0, state_dtype="float16")
def test_every_form_of_lstm_computes_in_float16_and_is_proven(tmp_path, state_dtype, **form):
    lifted, path = exported(tmp_path, Net(**form))
    export_float16(path, tmp_path / "h.onnx", state_dtype)
    model = onnx.load(tmp_path / "h.onnx")
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert {types[name] for node in model.graph.node if node.op_type == "LSTM" for name in node.input[1:4]} == {HALF}
    assert layer_problems(recurrent_layers(model), onnx_order.layers(lifted)) == []
    contract = open_emulating(tmp_path / "h.onnx", "float16", "cpu").signature
    assert {spec.dtype for spec in contract.state_inputs} == {state_dtype}
    assert {spec.dtype for spec in (*contract.inputs, *contract.outputs)} == {"float32"}
    cases = make_cases(PyTorchReference(lifted), SMALL)
    checks = checks_of(tmp_path / "h.onnx", "float16", cases)
    assert [check for check in checks if not check.passed] == []


def test_a_right_artifact_passes_on_inputs_that_are_much_larger_than_usual(tmp_path):
    """Where a gate is about to tip over, a weight of 11 bits moves a cell by more than 1 % of its size."""

    class Characters(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(65, 128, 2, batch_first=True)
            self.fc = nn.Linear(128, 65)

        def forward(self, x):
            return self.fc(self.lstm(x)[0])

    torch.manual_seed(0)
    lifted = lift(Characters().eval(), [TensorSpec.parse("x:float32[batch,seq,65]")])
    export_onnx(lifted, tmp_path / "m.onnx")
    export_float16(tmp_path / "m.onnx", tmp_path / "h.onnx")
    cases = [case for case in make_cases(PyTorchReference(lifted), SMALL) if case.check == "values"]
    checks = checks_of(tmp_path / "h.onnx", "float16", cases)
    assert [check for check in checks if not check.passed] == []


def test_scaling_stays_in_float32_so_that_large_units_do_not_overflow(tmp_path):
    lifted, path = exported(tmp_path, Net(scale=1e8))
    export_float16(path, tmp_path / "h.onnx")
    runtime = open_emulating(tmp_path / "h.onnx", "float16", "cpu")
    x = np.random.default_rng(0).standard_normal((2, 5, 6)).astype(np.float32) * np.float32(1e8)
    y = runtime.run({"x": x, **runtime.signature.initial_state(2)})["y"]
    with torch.no_grad():
        expected = lifted(torch.from_numpy(x), torch.zeros(1, 2, 8), torch.zeros(1, 2, 8))[0].numpy()
    np.testing.assert_allclose(y, expected, atol=1e-3 * np.abs(expected).max())


def test_the_scaling_of_a_forecaster_is_not_cast(tmp_path, forecaster):
    lifted = sources.load(sources.Origin(path=forecaster)).lifted
    export_onnx(lifted, tmp_path / "m.onnx")
    export_float16(tmp_path / "m.onnx", tmp_path / "h.onnx")
    casts = [node for node in onnx.load(tmp_path / "h.onnx").graph.node if node.op_type == "Cast"]
    assert [onnx.helper.get_attribute_value(node.attribute[0]) for node in casts] == [HALF, onnx.TensorProto.FLOAT]


def test_a_weight_that_float16_cannot_hold_is_named(tmp_path):
    net = Net()
    with torch.no_grad():
        net.lstm.weight_ih_l0[3, 2] = 1e5
    _, path = exported(tmp_path, net)
    with pytest.raises(ParityError, match=r"W_l0 reaches 1e\+05 and float16 overflows at 65,504"):
        export_float16(path, tmp_path / "h.onnx")
    assert not (tmp_path / "h.onnx").exists()


def test_a_float16_model_is_refused(tmp_path):
    _, path = exported(tmp_path, Net())
    export_float16(path, tmp_path / "h.onnx")
    with pytest.raises(InputError, match="in float16 already"):
        export_float16(tmp_path / "h.onnx", tmp_path / "hh.onnx")


def test_a_column_that_underflows_is_named(tmp_path):
    net = Net()
    with torch.no_grad():
        net.fc.weight[1] *= 1e-8
    _, path = exported(tmp_path, net)
    with pytest.raises(ParityError, match="underflows to 0 in float16"):
        export_float16(path, tmp_path / "h.onnx")


def test_values_that_overflow_inside_are_seen_on_the_cpu_too(tmp_path):
    net = Net()
    with torch.no_grad():
        net.fc.weight[:] = 6e4 * torch.sign(net.fc.weight)
    lifted, path = exported(tmp_path, net)
    with torch.no_grad():
        lifted.module.lstm.weight_ih_l0 *= 20
    export_onnx(lifted, path)
    export_float16(path, tmp_path / "h.onnx")
    cases = make_cases(PyTorchReference(lifted), SMALL)
    checks = checks_of(tmp_path / "h.onnx", "float16", cases)
    assert any(not check.passed and check.output == "y" for check in checks)
