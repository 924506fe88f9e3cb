"""Every wrong artifact is caught and diagnosed; every right one passes."""

import copy
import re
import shutil
import warnings
from pathlib import Path

import onnx
import pytest
import torch
from c_programs import NEEDS_CC
from sabotage import MODELS, SABOTAGE
from sabotage_c import WRONG_C
from sabotage_cells import CELL_MODELS, CELL_SABOTAGE
from sabotage_torchscript import WRONG_CELLS, WRONG_TORCHSCRIPT

from lstm_deploy.artifacts import onnx_graph
from lstm_deploy.artifacts.c_source import read_interface
from lstm_deploy.contract.signature import CONTRACT_FILE, TensorSpec
from lstm_deploy.exporters.c.writer import export_c
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.exporters.precision.int8_onnx import quantizable_nodes, quantize_onnx
from lstm_deploy.lifting import sources
from lstm_deploy.lifting.probing import example_inputs
from lstm_deploy.runtimes import c_compiler
from lstm_deploy.validation.case_inputs import Effort
from lstm_deploy.validation.checks import Model, Subject
from lstm_deploy.validation.diagnosis import explain
from lstm_deploy.validation.judging import judge
from lstm_deploy.validation.pytorch_reference import PyTorchReference
from lstm_deploy.validation.reference_cases import make_cases

SMALL = Effort(100, ((1, 1), (3, 7), (2, 30)), 1, 1e9)


@pytest.fixture(scope="module")
def right(forecaster, tmp_path_factory):
    """For each base: its ONNX file, its PyTorch model, and the cases."""
    folder = tmp_path_factory.mktemp("right")
    bases = {}

    def make(name):
        if name == "int8":
            path, reference, cases = right_one("two layers")
            quantized = folder / "int8.onnx"
            quantize_onnx(path, quantized)
            return quantized, reference, cases
        torch.manual_seed(0)
        if name == "forecaster":
            lifted = sources.load(sources.Origin(path=forecaster)).lifted
        else:
            build, inputs = {**MODELS, **CELL_MODELS}[name]
            specs = [TensorSpec.parse(text, key) for key, text in inputs.items()]
            lifted = sources.load_module(build().eval(), specs).lifted
        path = folder / f"{name}.onnx"
        export_onnx(lifted, path)
        reference = PyTorchReference(lifted)
        return path, reference, make_cases(reference, SMALL)

    def right_one(name):
        if name not in bases:
            bases[name] = make(name)
        return bases[name]

    return right_one


def judged(path, reference, cases, precision="float32"):
    subject = Subject(path=Path(path), name="model", precision=precision, contract=reference.signature)
    (results,) = judge([subject], cases, model=Model(reference.lifted), isolate=False)
    failures = [check for check in results.checks if not check.passed]
    return failures, explain(subject, results, reference) if failures else None


@pytest.mark.parametrize("name", [*MODELS, *CELL_MODELS, "forecaster", "int8"])
def test_a_right_graph_passes(right, name):
    path, reference, cases = right(name)
    failures, _ = judged(path, reference, cases, "int8" if name == "int8" else "float32")
    assert failures == []


@pytest.mark.parametrize("name", [*SABOTAGE, *CELL_SABOTAGE])
def test_a_wrong_graph_is_caught_and_named(right, tmp_path, name):
    base, change, cause = {**SABOTAGE, **CELL_SABOTAGE}[name]
    path, reference, cases = right(base)
    model = onnx.load(path)
    change(model)
    onnx.save(model, tmp_path / "wrong.onnx")
    failures, diagnosis = judged(tmp_path / "wrong.onnx", reference, cases, "int8" if base == "int8" else "float32")
    assert failures, [c.detail for c in failures]
    assert re.search(cause, diagnosis.cause), diagnosis.cause


@pytest.mark.parametrize("name", [*WRONG_TORCHSCRIPT, *WRONG_CELLS])
def test_a_wrong_torchscript_is_caught_and_named(right, tmp_path, name):
    base, wrap, cause = WRONG_CELLS[name] if name in WRONG_CELLS else ("two layers", *WRONG_TORCHSCRIPT[name])
    _, reference, cases = right(base)
    signature = reference.signature
    wrong = wrap(copy.deepcopy(reference.lifted).float()).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(wrong, example_inputs(signature), check_trace=False)
        torch.jit.save(traced, tmp_path / "wrong.torchscript", _extra_files={CONTRACT_FILE: signature.to_json()})
    failures, diagnosis = judged(tmp_path / "wrong.torchscript", reference, cases)
    assert failures, [c.detail for c in failures]
    assert re.search(cause, diagnosis.cause), diagnosis.cause


@pytest.fixture(scope="module")
def right_c(right, tmp_path_factory):
    """C of the same bases."""
    folder = tmp_path_factory.mktemp("right c")

    def make(name):
        graph, reference, cases = right("two layers" if name == "int8" else name)
        path = folder / name.replace(" ", "-") / "net.c"
        if not path.exists():
            path.parent.mkdir()
            nodes = quantizable_nodes(onnx_graph.load(graph), "c").values() if name == "int8" else ()
            export_c(graph, path, "net", [node.name for node in nodes])
        return path, reference, cases

    return make


@NEEDS_CC
@pytest.mark.parametrize("name", [*MODELS, "forecaster", "int8"])
def test_right_c_passes(right_c, name):
    path, reference, cases = right_c(name)
    c_compiler.build(path)
    failures, _ = judged(path, reference, cases, read_interface(path).precision)
    assert failures == []


@NEEDS_CC
@pytest.mark.parametrize("name", WRONG_C)
def test_wrong_c_is_caught_and_named(right_c, tmp_path, name):
    base, change, cause = WRONG_C[name]
    path, reference, cases = right_c(base)
    shutil.copy(path.with_suffix(".h"), tmp_path)
    wrong = tmp_path / path.name
    wrong.write_text(change(path.read_text()))
    c_compiler.build(wrong)
    failures, diagnosis = judged(wrong, reference, cases, read_interface(wrong).precision)
    assert failures, [c.detail for c in failures]
    assert re.search(cause, diagnosis.cause), diagnosis.cause


def test_the_documented_score_is_that_of_this_suite():
    page = (Path(__file__).parents[2] / "docs" / "validation.md").read_text(encoding="utf-8")
    names = [*SABOTAGE, *CELL_SABOTAGE, *WRONG_TORCHSCRIPT, *WRONG_CELLS, *WRONG_C]
    assert [name for name in names if f"- {name}\n" not in page] == []
    assert page.count("\n- ") == len(names)
    assert f"{len(names)} of {len(names)}" in page
