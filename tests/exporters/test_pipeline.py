import json
import zipfile
from collections import Counter
from pathlib import Path

import modules
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import refused_modules
import torch
from c_programs import NEEDS_CC
from hypothesis import HealthCheck, example, given, settings, strategies as st
from properties import examples
from torch import nn

import lstm_deploy
from lstm_deploy.artifacts.bundle import Bundle
from lstm_deploy.contract.signature import CONTRACT_KEY, Signature, TensorSpec
from lstm_deploy.errors import InputError, LiftingError, ParityError
from lstm_deploy.exporters import pipeline
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.lifting.lifting import example_inputs, lift
from lstm_deploy.lifting.sources import Origin

SHAPES = [(1, 1), (3, 7), (2, 100)]
INPUTS = {"x": "float32[batch,seq,3]"}


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
            wanted = lifted(tensors[0], *states)
        for name, a, b in zip(lifted.signature.output_names, got, wanted, strict=True):
            np.testing.assert_allclose(a, b.numpy(), atol=1e-5, rtol=1e-5, err_msg=f"{name} at {batch}, {seq}")


@settings(max_examples=examples(4), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    bias=st.booleans(),
    proj_size=st.sampled_from([0, 0, 2, 7]),
)
@example(num_layers=3, bidirectional=True, batch_first=False, bias=False, proj_size=2)
@example(num_layers=1, bidirectional=False, batch_first=True, bias=True, proj_size=0)
def test_every_form_of_lstm_is_one_node_per_layer_and_equal(tmp_path, **form):
    """The property that the stock exporter lacks, also for the twentieth export in one process."""
    module = nn.LSTM(3, 8, **form)
    layout = "batch,seq" if form["batch_first"] else "seq,batch"
    lifted, model = onnx_of(module, tmp_path / "m.onnx", layout)
    count = Counter(node.op_type for node in model.graph.node)
    assert count["LSTM"] == form["num_layers"]
    assert not {"Loop", "If", "Scan"} & set(count)
    assert_equal_on_all_shapes(lifted, tmp_path / "m.onnx")


@pytest.mark.parametrize("make", [modules.HidesState, modules.ReturnsState, modules.Attention, modules.TwoLSTMs])
def test_modules_of_others_are_equal_in_onnx(tmp_path, make):
    lifted, _ = onnx_of(make(), tmp_path / "m.onnx")
    assert_equal_on_all_shapes(lifted, tmp_path / "m.onnx")


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


def test_weights_are_initializers_so_that_quantizers_find_them(tmp_path):
    _, model = onnx_of(modules.HidesState(num_layers=2), tmp_path / "m.onnx")
    constants = {tensor.name for tensor in model.graph.initializer}
    lstms = [node for node in model.graph.node if node.op_type == "LSTM"]
    assert all(set(node.input[1:4]) <= constants for node in lstms)


def test_the_graph_says_nothing_of_the_code_it_was_traced_from(tmp_path):
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


@pytest.mark.parametrize("format_", ["onnx", "torchscript"])
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (refused_modules.BranchesOnRows, "if x.size(0) == 1"),
        (refused_modules.BranchesOnSteps, "if x.shape[1] > 10"),
        (refused_modules.TakesLen, "torch.zeros(1, len(x), 4)"),
    ],
)
def test_a_size_that_forward_makes_a_decision_of_is_refused_with_the_line(tmp_path, make, text, format_):
    source = Path(refused_modules.__file__).read_text(encoding="utf-8").splitlines()
    line = next(number for number, content in enumerate(source, 1) if text in content)
    with pytest.raises(LiftingError, match=rf"modules\.py:{line}.*x\.shape\[0\]"):
        lstm_deploy.export(make(), tmp_path / "b", inputs=INPUTS, formats=[format_])
    assert list(tmp_path.iterdir()) == []


def test_a_branch_on_a_size_that_is_fixed_is_exported(tmp_path):
    for rows in (1, 2):
        inputs = {"x": f"float32[{rows},seq,3]"}
        bundle = lstm_deploy.export(refused_modules.BranchesOnRows(), tmp_path / str(rows), inputs=inputs)
        assert bundle.manifest.parity.passed


def test_a_projection_without_full_rank_is_refused(tmp_path):
    module = nn.LSTM(3, 8, proj_size=2)
    with torch.no_grad():
        module.weight_hr_l0[1] = 2 * module.weight_hr_l0[0]
    with pytest.raises(LiftingError, match="linearly dependent"):
        onnx_of(module, tmp_path / "m.onnx", "seq,batch")


def test_the_contract_is_the_same_in_all_three_places(forecast_bundle):
    bundle = Bundle(forecast_bundle)
    metadata = {prop.key: prop.value for prop in onnx.load(forecast_bundle / "model.onnx").metadata_props}
    with zipfile.ZipFile(forecast_bundle / "model.torchscript") as archive:
        name = next(name for name in archive.namelist() if name.endswith("/contract.json"))
        texts = [metadata[CONTRACT_KEY], archive.read(name).decode()]
    texts.append(json.dumps(json.loads((forecast_bundle / "manifest.json").read_text())["contract"]))
    assert [Signature.from_json(text) for text in texts] == [bundle.signature] * 3


def test_a_module_becomes_a_bundle_that_proves_itself(tmp_path):
    bundle = lstm_deploy.export(modules.TwoLSTMs(), tmp_path / "b", inputs=INPUTS)
    assert {path.name for path in bundle.path.iterdir()} == {
        "manifest.json",
        "model.onnx",
        "model.torchscript",
        "golden.npz",
        "report.md",
        "report",
    }
    assert bundle.manifest.parity.passed
    assert len({check.artifact for check in bundle.manifest.parity.checks}) == 2
    assert bundle.manifest.source.kind == "module"


def test_formats_can_be_chosen(tmp_path):
    bundle = lstm_deploy.export(modules.HidesState(), tmp_path / "b", inputs=INPUTS, formats=["onnx"])
    assert [artifact.format for artifact in bundle.manifest.artifacts] == ["onnx"]
    with pytest.raises(InputError, match="'tflite' is not a format"):
        lstm_deploy.export(modules.HidesState(), tmp_path / "c", inputs=INPUTS, formats=["tflite"])


def test_a_module_needs_its_inputs_named(tmp_path):
    with pytest.raises(InputError, match="inputs="):
        lstm_deploy.export(modules.HidesState(), tmp_path / "b")


def test_the_same_source_again_is_up_to_date(forecaster, tmp_path):
    origin, output = Origin(path=forecaster), tmp_path / "b"
    first = lstm_deploy.export(forecaster, output, formats=["onnx"])
    before = (output / "manifest.json").stat().st_mtime_ns
    assert pipeline.up_to_date(origin, output, ["onnx"])
    lstm_deploy.export(forecaster, output, formats=["onnx"])
    assert (output / "manifest.json").stat().st_mtime_ns == before
    assert not pipeline.up_to_date(origin, output), "other formats"
    assert not pipeline.up_to_date(origin, output, ["onnx"], "batch-first")
    assert not pipeline.up_to_date(Origin(path=forecaster, model="a:B"), output, ["onnx"])
    (first.path / "model.onnx").write_bytes(b"changed")
    assert not pipeline.up_to_date(origin, output, ["onnx"]), "changed since"


def test_a_plan_writes_nothing(forecaster, tmp_path):
    plan = pipeline.plan(Origin(path=forecaster), tmp_path / "b")
    assert "model.onnx" in plan["files"]
    assert plan["contract"].input_names == ["x", "h_in", "c_in"]
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_that_fails_parity_is_never_written(tmp_path, monkeypatch):
    def wrong(lifted, path):
        other = lift(modules.HidesState(), lifted.signature.inputs)
        other.signature = lifted.signature
        export_onnx(other, path)

    monkeypatch.setitem(pipeline.WRITERS, "onnx", wrong)
    with pytest.raises(ParityError, match="model.onnx differs"):
        lstm_deploy.export(modules.HidesState(), tmp_path / "b", inputs=INPUTS, formats=["onnx"])
    assert list(tmp_path.iterdir()) == []


def test_batch_first_state_goes_through_export(tmp_path):
    bundle = lstm_deploy.export(modules.ReturnsState(), tmp_path / "b", inputs=INPUTS, state_layout="batch-first")
    session = ort.InferenceSession(bundle.path / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[1].shape == ["batch", 2, 8]


def test_weights_too_large_for_one_file_lie_beside_it(tmp_path, monkeypatch):
    """At 2 GiB a protobuf ends; here the limit is put at nothing."""
    from lstm_deploy.exporters import onnx as writer

    monkeypatch.setattr(writer, "EXTERNAL_ABOVE", 0)
    torch.manual_seed(0)
    module = modules.HidesState(num_layers=2)
    bundle = lstm_deploy.export(module, tmp_path / "b", inputs=INPUTS, formats=["onnx"])
    (artifact,) = bundle.manifest.artifacts
    assert artifact.weights == "model.onnx.data"
    assert (bundle.path / artifact.weights).stat().st_size > 1000
    assert lstm_deploy.validate(bundle, reference=module).passed
    (bundle.path / artifact.weights).write_bytes(b"other")
    assert bundle.changed_files() == ["model.onnx.data"]
    lstm_deploy.export(module, tmp_path / "b", inputs=INPUTS, formats=["onnx"], force=True)
    assert Bundle(tmp_path / "b").changed_files() == []


def test_the_users_weights_are_shared_with_nothing_that_changes_them(tmp_path):
    module = modules.HidesState()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    lstm_deploy.export(module, tmp_path / "b", inputs=INPUTS)
    assert all(
        value.dtype == torch.float32 and before[name].equal(value) for name, value in module.state_dict().items()
    )


@NEEDS_CC
def test_c_is_a_format_as_any_other(forecaster, tmp_path):
    bundle = lstm_deploy.export(forecaster, tmp_path / "my prices-2", formats=["c"])
    (artifact,) = bundle.manifest.artifacts
    assert (artifact.path, artifact.header, artifact.format) == ("model.c", "model.h", "c")
    assert sorted(file.name for file in bundle.path.iterdir()) == [
        "golden.npz",
        "manifest.json",
        "model.c",
        "model.h",
        "report",
        "report.md",
    ]
    assert "void my_prices_2_step(" in (bundle.path / "model.h").read_text()
    names = {check.name for check in bundle.manifest.parity.checks}
    assert {"chunked", "drift", "rollout", "stream", "repeatable"} <= names
    assert lstm_deploy.validate(bundle).passed
    (bundle.path / "model.h").write_text("")
    assert bundle.changed_files() == ["model.h"]


@NEEDS_CC
def test_a_plan_says_the_files_of_c(forecaster, tmp_path):
    plan = pipeline.plan(Origin(path=forecaster), tmp_path / "e", ["onnx", "c"])
    assert plan["files"] == [
        "manifest.json",
        "model.onnx",
        "model.c",
        "model.h",
        "rollout.onnx",
        "golden.npz",
        "report.md",
    ]


@NEEDS_CC
def test_what_c_cannot_express_leaves_nothing_behind(tmp_path):
    with pytest.raises(InputError, match="Conv .*leave out --format c"):
        lstm_deploy.export(modules.Convolved().eval(), tmp_path / "e", inputs=INPUTS, formats=["onnx", "c"])
    assert not list(tmp_path.iterdir())


def test_c_without_a_compiler_is_refused_at_once(forecaster, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(InputError, match="not on PATH"):
        lstm_deploy.export(forecaster, tmp_path / "e", formats=["c"])
