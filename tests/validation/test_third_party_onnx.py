import warnings

import numpy as np
import onnx
import pytest
import torch
from validation_cases import SMALL

import lstm_deploy
from lstm_deploy import validate
from lstm_deploy.artifacts import onnx_graph
from lstm_deploy.artifacts.bundle import Bundle
from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import InputError
from lstm_deploy.lifting import sources
from lstm_deploy.runtimes.onnxrt import OnnxRuntime
from lstm_deploy.validation.checks import Model, Subject
from lstm_deploy.validation.judging import judge
from lstm_deploy.validation.pytorch_reference import PyTorchReference
from lstm_deploy.validation.reference_cases import make_cases
from lstm_deploy.validation.third_party_onnx import adapt


def renamed(source, path, names, *, contract=False):
    """A copy of an artifact with other names for its inputs and outputs."""
    model = onnx.load(source)
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        for part in (node.input, node.output):
            for position, name in enumerate(part):
                part[position] = names.get(name, name)
    if not contract:
        del model.metadata_props[:]
    onnx.save(model, path)
    return path


THEIRS = {"x": "input", "h_in": "h0", "c_in": "c0", "y": "output", "h_out": "hn", "c_out": "cn"}


@pytest.fixture
def contract(forecast_bundle):
    return Bundle(forecast_bundle).signature


def same(adapted, forecast_bundle):
    feeds = {"x": np.ones((2, 3, 4), np.float32), "h_in": np.ones((2, 2, 8), np.float32)}
    feeds["c_in"] = feeds["h_in"] * 2
    theirs, ours = OnnxRuntime(adapted.SerializeToString()), OnnxRuntime(forecast_bundle / "model.onnx")
    got, right = theirs.run(feeds), ours.run(feeds)
    return all(np.array_equal(got[name], right[name]) for name in right)


def test_names_are_matched_by_shape_and_letter(forecast_bundle, contract, tmp_path):
    adapted, problems = adapt(renamed(forecast_bundle / "model.onnx", tmp_path / "m.onnx", THEIRS), contract)
    assert problems == []
    assert same(adapted, forecast_bundle)


def test_names_that_say_nothing_are_mapped(forecast_bundle, contract, tmp_path):
    names = {**THEIRS, "h_in": "a", "c_in": "b", "h_out": "d", "c_out": "e"}
    path = renamed(forecast_bundle / "model.onnx", tmp_path / "m.onnx", names)
    given = {ours: theirs for ours, theirs in names.items() if ours != "x"}
    adapted, problems = adapt(path, contract, given)
    assert problems == []
    assert same(adapted, forecast_bundle)


def test_a_contract_name_that_the_file_uses_for_another_tensor_is_freed(forecast_bundle, contract, tmp_path):
    names = {"h_in": "c_in", "c_in": "h_in"}
    path = renamed(forecast_bundle / "model.onnx", tmp_path / "m.onnx", names)
    adapted, _ = adapt(path, contract, names)
    assert same(adapted, forecast_bundle)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"z": "input"}, "no 'z'"),
        ({"x": "none"}, "no input 'none'"),
    ],
)
def test_wrong_maps_are_refused(forecast_bundle, contract, tmp_path, given, message):
    path = renamed(forecast_bundle / "model.onnx", tmp_path / "m.onnx", THEIRS)
    with pytest.raises(InputError, match=message):
        adapt(path, contract, given)


def test_an_ambiguous_input_is_asked_for(forecast_bundle, contract, tmp_path):
    model = onnx.load(forecast_bundle / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 7
    model.graph.input[0].name = "other"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(InputError, match="--map x=NAME"):
        adapt(tmp_path / "m.onnx", contract)


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """A module and files that `torch.onnx.export` makes of it."""
    torch.manual_seed(0)
    module = torch.nn.LSTM(3, 5, 2, batch_first=True).eval()
    folder = tmp_path_factory.mktemp("stock")
    torch.save(module.state_dict(), folder / "weights.pt")
    x, h = torch.randn(2, 6, 3), torch.zeros(2, 2, 5)
    for name, arguments in (("fixed", (x, (h, h))), ("hidden", (x,))):
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                arguments,
                folder / f"{name}.onnx",
                input_names=["x", "h0", "c0"][: 1 if name == "hidden" else 3],
                output_names=["y", "hn", "cn"],
                dynamo=True,
                verbose=False,
            )
    return folder


def test_a_stock_export_reports_its_frozen_time_axis(stock):
    report = validate(stock / "fixed.onnx", reference=stock / "weights.pt")
    assert not report.passed
    lint = next(check for check in report.failures if check.name == "lint")
    assert "batch is frozen at 2, seq is frozen at 6" in lint.detail
    assert {"shapes", "drift"} <= {check.name for check in report.failures}


def test_a_stock_export_that_hides_its_state_is_reported(stock):
    report = validate(stock / "hidden.onnx", reference=stock / "weights.pt")
    contract = next(check for check in report.failures if check.name == "contract")
    assert "There is no input for h_in: the state is hidden" in contract.detail


@pytest.mark.parametrize("cell", [torch.nn.GRU, torch.nn.RNN])
def test_a_stock_export_of_another_cell_with_open_sizes_passes(cell, tmp_path):
    torch.manual_seed(0)
    module = cell(3, 5, batch_first=True).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.randn(2, 6, 3), torch.zeros(1, 2, 5)),
            tmp_path / "stock.onnx",
            input_names=["x", "h0"],
            output_names=["y", "hn"],
            dynamic_axes={"x": {0: "n", 1: "t"}, "h0": {1: "n"}, "y": {0: "n", 1: "t"}, "hn": {1: "n"}},
            opset_version=17,
            dynamo=False,
        )
    lifted = sources.load_module(module, [TensorSpec.parse("x:float32[batch,seq,3]")]).lifted
    adapted, problems = adapt(tmp_path / "stock.onnx", lifted.signature)
    assert problems == []
    onnx.save(adapted, tmp_path / "adapted.onnx")
    reference = PyTorchReference(lifted)
    subject = Subject(path=tmp_path / "adapted.onnx", name="stock", precision="float32", contract=lifted.signature)
    (results,) = judge([subject], make_cases(reference, SMALL), model=Model(lifted), isolate=False)
    assert [check.detail for check in results.checks if not check.passed] == []
    assert {"lint", "weights", "drift"} <= {check.name for check in results.checks}


def test_a_file_that_passes_is_written_with_its_contract(forecast_bundle, forecaster, tmp_path):
    path = renamed(forecast_bundle / "model.onnx", tmp_path / "other.onnx", THEIRS)
    assert validate(path, reference=forecaster, output=tmp_path / "mine.onnx").passed
    y = lstm_deploy.open(tmp_path / "mine.onnx").stream(batch=2).step(np.ones((2, 4), np.float32))
    assert np.array_equal(y, lstm_deploy.open(forecast_bundle).stream(batch=2).step(np.ones((2, 4), np.float32)))
    for target, output in ((tmp_path / "mine.onnx", "again.onnx"), (path, "mine.onnx"), (path, "mine.pt")):
        with pytest.raises(InputError, match="--output|choose another name"):
            validate(target, reference=forecaster, output=tmp_path / output)


def test_a_file_that_fails_is_not_written(forecast_bundle, forecaster, tmp_path):
    path = renamed(forecast_bundle / "model.onnx", tmp_path / "other.onnx", THEIRS)
    swapped = {"h_in": "c0", "c_in": "h0"}
    assert not validate(path, reference=forecaster, names=swapped, output=tmp_path / "mine.onnx").passed
    assert not (tmp_path / "mine.onnx").exists()


def edited(source, path, edit):
    """A copy of an artifact without its contract, with a changed graph."""
    model = onnx.load(source)
    del model.metadata_props[:]
    edit(model.graph)
    onnx.save(model, path)
    return path


def test_a_state_in_another_form_is_told_beside_the_contracts(forecast_bundle, contract, tmp_path):
    """As of files that keep all states in one tensor."""

    def stack(graph):
        graph.input[1].name = "state"
        graph.input[1].type.tensor_type.shape.dim.add(dim_value=2)

    path = edited(forecast_bundle / "model.onnx", tmp_path / "m.onnx", stack)
    with pytest.raises(
        InputError, match=r"has the input state: float32\[2, batch, 8, 2\], and the contract has h_in: .*--map"
    ):
        adapt(path, contract)


def test_a_file_that_no_runtime_opens_is_named_as_it_was_given(forecast_bundle, forecaster, tmp_path):
    def turn(graph):
        for attribute in (item for node in graph.node for item in node.attribute if item.name == "layout"):
            attribute.i = 1

    path = edited(forecast_bundle / "model.onnx", tmp_path / "m.onnx", turn)
    with pytest.raises(InputError) as caught:
        validate(path, reference=forecaster)
    assert str(caught.value).startswith(f"{path} has recurrent nodes with layout=1")


def test_weights_beside_a_file_come_beside_the_one_that_is_written(forecast_bundle, forecaster, tmp_path, monkeypatch):
    path = renamed(forecast_bundle / "model.onnx", tmp_path / "m.onnx", THEIRS)
    (tmp_path / "apart").mkdir()
    apart = tmp_path / "apart" / "m.onnx"
    onnx.save(onnx.load(path), apart, save_as_external_data=True, location="w.bin", size_threshold=0)
    monkeypatch.setattr(onnx_graph, "EXTERNAL_ABOVE", 100)
    assert validate(apart, reference=forecaster, output=tmp_path / "mine.onnx").passed
    assert (tmp_path / "mine.onnx.data").is_file()
    assert OnnxRuntime(tmp_path / "mine.onnx").signature.input_names == ["x", "h_in", "c_in"]


def test_open_axes_of_other_names_are_no_defect(forecast_bundle, forecaster, tmp_path):
    def name_axes(graph):
        for value in (*graph.input, *graph.output):
            for dim in value.type.tensor_type.shape.dim:
                if dim.HasField("dim_param"):
                    dim.dim_param = {"batch": "n", "seq": "frames"}[dim.dim_param]

    path = edited(forecast_bundle / "model.onnx", tmp_path / "m.onnx", name_axes)
    assert validate(path, reference=forecaster).passed
