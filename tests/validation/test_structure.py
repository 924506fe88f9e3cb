"""What is wrong at one size, one value or one length only is caught and named; what is right passes."""

import copy
import re
import shutil
import warnings

import numpy as np
import onnx
import pytest
import torch
from c_programs import NEEDS_CC
from graph_edits import edit
from msgspec.structs import replace
from mutants import MUTANTS, WINDOW
from sabotage_c import replaced
from sabotage_torchscript import hooked
from torch import nn
from validation_cases import SMALL

import lstm_deploy
from lstm_deploy.artifacts import environment
from lstm_deploy.artifacts.files import sha256
from lstm_deploy.contract.signature import CONTRACT_FILE, TensorSpec
from lstm_deploy.errors import InputError
from lstm_deploy.exporters.anew import write_anew
from lstm_deploy.exporters.precision.int8_torchscript import quantized_copy
from lstm_deploy.exporters.torchscript import export_torchscript
from lstm_deploy.lifting import sources
from lstm_deploy.lifting.probing import example_inputs
from lstm_deploy.validation.anew import SAME, Anew
from lstm_deploy.validation.c_structure import c_differences
from lstm_deploy.validation.case_inputs import thresholds
from lstm_deploy.validation.checks import Model, Subject
from lstm_deploy.validation.judging import judge, of_bundle
from lstm_deploy.validation.onnx_structure import onnx_structure, structure_of
from lstm_deploy.validation.pytorch_reference import PyTorchReference
from lstm_deploy.validation.reference_cases import make_cases
from lstm_deploy.validation.structure import Graph, Node, differences
from lstm_deploy.validation.torchscript_structure import torchscript_structure

COLUMNS = ("a", "b", "c", "d")
TASK = lstm_deploy.Forecast(features=COLUMNS, targets=COLUMNS, window=WINDOW)
INPUTS = {"x": "float32[batch,seq,4]"}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 8, 2, batch_first=True)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.lstm(x)[0])


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def bundle(module, tmp_path_factory):
    path = tmp_path_factory.mktemp("right") / "net"
    return lstm_deploy.export(module, path, inputs=INPUTS, formats=("onnx", "torchscript"), task=TASK)


@pytest.fixture(scope="module")
def lifted(module):
    return sources.load_module(module, [TensorSpec.parse("x:float32[batch,seq,4]")], task=TASK).lifted


@pytest.fixture
def copied(bundle, tmp_path):
    return lstm_deploy.Bundle(shutil.copytree(bundle.path, tmp_path / "net"))


def structure_checks(report):
    return {check.artifact: check for check in report.checks if check.name == "structure"}


def put(bundle, name, change):
    """Change an artifact of a bundle, and its SHA-256 in the manifest."""
    change(bundle.path / name)
    digest = sha256(bundle.path / name)
    listed = (replace(one, sha256=digest) if one.path == name else one for one in bundle.manifest.artifacts)
    bundle.update(artifacts=tuple(listed))


def edited(change):
    def apply(path):
        model = onnx.load(path)
        change(model)
        onnx.save(model, path)

    return apply


@pytest.mark.parametrize("name", MUTANTS)
def test_a_graph_that_is_wrong_somewhere_is_told_from_the_right_one_and_named(bundle, name):
    right = bundle.path / "model.onnx"
    model = onnx.load(right)
    MUTANTS[name].change(model)
    onnx.checker.check_model(model)
    found = " ".join(differences(structure_of(model), onnx_structure(right)))
    assert re.search(MUTANTS[name].named, found), found


@pytest.mark.parametrize("name", [name for name, mutant in MUTANTS.items() if mutant.by_examples])
def test_in_a_file_of_another_program_examples_around_its_numbers_catch_it(bundle, lifted, tmp_path, name):
    path = tmp_path / "other.onnx"
    shutil.copy(bundle.path / "model.onnx", path)
    edited(MUTANTS[name].change)(path)
    subject = Subject(path=path, name=path.name, precision="float32", contract=lifted.signature)
    anew = Anew(subject, "another program wrote it")
    reference = PyTorchReference(copy.deepcopy(lifted))
    more = [("thresholds", inputs) for inputs in thresholds(lifted.signature, anew.numbers, SMALL)]
    cases = make_cases(reference, SMALL, more)
    (results,) = judge([subject], cases, model=Model(lifted), anew={path.name: anew}, isolate=False)
    failed = {check.name for check in results.checks if not check.passed}
    assert failed & {"shapes", "thresholds", "values"}


def test_a_right_bundle_has_the_structure_of_its_source(bundle, module):
    report = lstm_deploy.validate(bundle, reference=module)
    assert report.passed
    checks = structure_checks(report)
    assert set(checks) == {"model.onnx", "model.torchscript", "rollout.onnx"}
    assert {check.detail for check in checks.values()} == {SAME}


def test_a_mutant_in_a_bundle_fails_and_the_diagnosis_says_where(copied, module):
    put(copied, "model.onnx", edited(MUTANTS["NaN masked"].change))
    report = lstm_deploy.validate(copied.path / "model.onnx", reference=module)
    assert [check.name for check in report.failures] == ["structure"]
    assert "An IsNaN (missing) after x that no lowering writes." in report.diagnoses[0].cause


def test_a_file_alone_says_what_it_was_written_with(bundle, module, tmp_path):
    state = tmp_path / "net.pt"
    torch.save(module, state)
    reference = sources.Origin(path=state, trust_pickle=True, inputs=bundle.signature.inputs, task=TASK)
    for suffix in ("onnx", "torchscript"):
        shutil.copy(bundle.path / f"model.{suffix}", tmp_path)
        report = lstm_deploy.validate(tmp_path / f"model.{suffix}", reference=reference)
        assert structure_checks(report)[f"model.{suffix}"].detail == SAME
    edited(MUTANTS["cells clipped at 3,000"].change)(tmp_path / "model.onnx")
    (check,) = structure_checks(lstm_deploy.validate(tmp_path / "model.onnx", reference=reference)).values()
    assert not check.passed
    assert "with -3000, 3000 after c_in" in check.detail


def another_order(model):
    """The same computation, as another version may write it: an Identity more."""
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = "same" if name == "x" else name
    model.graph.node.insert(0, onnx.helper.make_node("Identity", ["x"], ["same"]))


def test_another_version_may_write_another_graph(copied, module):
    put(copied, "model.onnx", edited(another_order))
    target = copied.path / "model.onnx"
    assert not structure_checks(lstm_deploy.validate(target, reference=module))["model.onnx"].passed
    copied.update(versions={**copied.manifest.versions, "torch": "1.13.1"})
    report = lstm_deploy.validate(target, reference=module)
    assert report.passed
    detail = structure_checks(report)["model.onnx"].detail
    assert detail.startswith("proven by examples only: it was written with lstm-deploy")
    assert "torch 1.13.1" in detail
    assert "An Identity (same) after x" in detail


def test_a_reference_that_is_another_program_may_be_written_as_another_graph(copied, module, tmp_path):
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    source = tmp_path / "net.py"
    source.write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.lstm = nn.LSTM(4, 8, 2, batch_first=True)\n        self.fc = nn.Linear(8, 4)\n\n"
        "    def forward(self, x):\n        return self.fc(self.lstm(x + 0)[0]) * 1\n"
    )
    origin = sources.Origin(path=tmp_path / "weights.pt", model=f"{source}:Net")
    report = lstm_deploy.validate(copied.path / "model.torchscript", reference=origin)
    assert report.passed, report.failures
    assert "the reference is not what it was exported from" in structure_checks(report)["model.torchscript"].detail


def test_what_another_programs_nodes_do_is_named_when_all_passes(copied, module, tmp_path):
    path = tmp_path / "other.onnx"
    shutil.copy(copied.path / "model.onnx", path)

    def harmless(model):
        model.producer_name = "another"
        for node in model.graph.node:
            node.input[:] = ["c_wide" if name == "c_in" else name for name in node.input]
        for name, value in (("low", -1e30), ("high", 1e30)):
            model.graph.initializer.append(onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [], [value]))
        model.graph.node.insert(0, onnx.helper.make_node("Clip", ["c_in", "low", "high"], ["c_wide"], "limit"))

    edited(harmless)(path)
    state = tmp_path / "net.pt"
    torch.save(module, state)
    origin = sources.Origin(path=state, trust_pickle=True, inputs=copied.signature.inputs, task=TASK)
    report = lstm_deploy.validate(path, reference=origin)
    assert report.passed, report.failures
    detail = structure_checks(report)["other.onnx"].detail
    assert "proven by examples only: another program wrote it" in detail
    assert "these nodes compare, choose or clip: Clip (limit) at -1e+30, 1e+30 of c_in" in detail


def test_a_reference_that_is_an_artifact_is_not_written_anew(bundle):
    report = lstm_deploy.validate(bundle.path / "model.onnx", reference=bundle.path / "model.torchscript")
    assert report.passed
    assert "the reference is an artifact" in structure_checks(report)["model.onnx"].detail


class Wrong(nn.Module):
    def __init__(self, lifted):
        super().__init__()
        self.lifted = lifted


class Clipping(Wrong):
    def forward(self, x, h, c):
        return self.lifted(x, h.clamp(-0.999, 0.999), c)


class TakesForZero(Wrong):
    def forward(self, x, h, c):
        return self.lifted(torch.where(x == -1, torch.zeros_like(x), x), h, c)


class Masking(Wrong):
    def forward(self, x, h, c):
        return self.lifted(torch.nan_to_num(x), h, c)


class InPlace(Wrong):
    """Changes a value in place, whose result nothing reads."""

    def forward(self, x, h, c):
        y, h, c = self.lifted(x, h, c)
        c.clamp_(-3000, 3000)
        return y, h, c


class OtherConstant(Wrong):
    def __init__(self, lifted):
        super().__init__(lifted)
        with torch.no_grad():
            lifted.module.fc.bias[2] += 1e-3

    def forward(self, x, h, c):
        return self.lifted(x, h, c)


@pytest.mark.parametrize(
    ("wrap", "named"),
    [
        (Clipping, r"An aten::clamp \(clamp_0\) with -0.999, 0.999 after"),
        (TakesForZero, r"An aten::eq \(eq_0\) with -1 after"),
        (Masking, r"An aten::nan_to_num \(nan_to_num_0\) after"),
        (InPlace, r"An aten::clamp_ \(clamp__0\) with -3000, 3000 after lstm_0"),
        (OtherConstant, r"linear_0 has other numbers in bias.*: 1 of 4 differ"),
    ],
)
def test_torchscript_that_is_wrong_somewhere_is_named(bundle, lifted, tmp_path, wrap, named):
    wrong = wrap(copy.deepcopy(lifted).float()).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(wrong, example_inputs(lifted.signature), check_trace=False)
        torch.jit.save(traced, tmp_path / "wrong.torchscript", _extra_files={CONTRACT_FILE: lifted.signature.to_json()})
    right = torchscript_structure(bundle.path / "model.torchscript")
    found = " ".join(differences(torchscript_structure(tmp_path / "wrong.torchscript"), right))
    assert re.search(named, found), found
    assert differences(right, torchscript_structure(bundle.path / "model.torchscript")) == []


def test_hooks_beside_the_graph_are_refused(bundle, tmp_path):
    """A scripted hook is saved with a module, and is in no graph of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        right = torch.jit.load(str(bundle.path / "model.torchscript"))
        torch.jit.save(torch.jit.script(hooked(right)), tmp_path / "hooked.torchscript")
    with pytest.raises(InputError, match="It has hooks"):
        torchscript_structure(tmp_path / "hooked.torchscript")


def test_int8_weights_inside_torchscript_are_compared(lifted, tmp_path):
    written = []
    for off in (0.0, 0.0, 0.5):
        changed = copy.deepcopy(lifted).float()
        with torch.no_grad():
            changed.module.lstm.weight_hh_l1[3, 2] += off
        written.append(tmp_path / f"{len(written)}.torchscript")
        export_torchscript(quantized_copy(changed)[0], written[-1])
    right, same, wrong = map(torchscript_structure, written)
    assert differences(same, right) == []
    assert differences(wrong, right) != []


def test_constants_of_torchscript_are_told_apart(tmp_path):
    class Shaped(nn.Module):
        def __init__(self, axes, table):
            super().__init__()
            self.axes, self.table = axes, table

        def forward(self, x):
            return x.sum(self.axes) * self.table, x.to(torch.float64)

    written = []
    for axes, last in (([0, 1], 2.0), ([0, 1], 2.0), ([1, 0], 2.0), ([0, 1], 3.0)):
        module = Shaped(axes, torch.tensor([1.0, last, 4.0]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            written.append(tmp_path / f"{len(written)}.pt")
            torch.jit.save(torch.jit.trace(module, torch.ones(2, 4, 3), check_trace=False), written[-1])
    right, *others = map(torchscript_structure, written)
    assert [bool(differences(other, right)) for other in others] == [False, True, True]


@pytest.fixture(scope="module")
def c_file(bundle, tmp_path_factory):
    from lstm_deploy.exporters.c.writer import export_c

    path = tmp_path_factory.mktemp("c") / "model.c"
    export_c(bundle.path / "model.onnx", path, "net")
    return path


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (replaced((r"net_state next;", "net_state next; if (x[0] == -1.0f) return;")), r"Line \d+ of model.c .*x\[0\]"),
        (replaced((r"size_t t;\n", "size_t t; if (steps > 2000) steps = 2000;\n")), "steps > 2000"),
        (replaced((r"(w_fc_bias\[4\] ALIGNED = \{\n)[^,]*", r"\g<1>0.25")), "1 of 4 numbers of w_fc_bias differ"),
        (replaced((r"  \*state = next;\n", "")), r"The line '\*state = next;' is missing"),
    ],
)
def test_c_that_is_wrong_somewhere_is_named(c_file, tmp_path, change, named):
    wrong = tmp_path / "model.c"
    shutil.copy(c_file.with_suffix(".h"), tmp_path)
    wrong.write_text(change(c_file.read_text()))
    found = " ".join(c_differences(wrong, c_file))
    assert re.search(named, found), found
    assert c_differences(c_file, c_file) == []


def test_code_between_the_comments_of_a_header_is_seen(c_file, tmp_path):
    wrong = tmp_path / "model.c"
    shutil.copy(c_file.with_suffix(".h"), tmp_path)
    wrong.write_text("/* About. */\n#define memcpy other\n/* Nothing.\n*/\n" + c_file.read_text())
    assert any("#define memcpy other" in sentence for sentence in c_differences(wrong, c_file))


@pytest.mark.parametrize("number", ["064", "0x40", "-064", "(-064)"])
def test_numbers_that_a_compiler_reads_otherwise_are_refused(c_file, tmp_path, number):
    wrong = tmp_path / "model.c"
    shutil.copy(c_file.with_suffix(".h"), tmp_path)
    text = re.sub(r"(w_fc_bias\[4\] ALIGNED = \{\n)[^,]*", rf"\g<1>{number}", c_file.read_text())
    wrong.write_text(text)
    with pytest.raises(InputError, match="numbers in w_fc_bias that no export writes"):
        c_differences(wrong, c_file)


@NEEDS_CC
def test_all_kinds_of_artifacts_are_written_anew(module, lifted, tmp_path):
    bundle = lstm_deploy.export(
        module,
        tmp_path / "all",
        inputs=INPUTS,
        formats=("onnx", "torchscript", "c"),
        quantize="int8",
        half=True,
        task=TASK,
        max_metric_loss=0.9,
    )
    subjects = [of_bundle(bundle, artifact) for artifact in bundle.manifest.exported]
    assert {(subject.path.suffix, subject.precision) for subject in subjects} == {
        *((".onnx", "float32"), (".onnx", "int8"), (".onnx", "float16")),
        *((".torchscript", "float32"), (".torchscript", "int8"), (".c", "float32"), (".c", "int8")),
    }
    written = write_anew(lifted, subjects, tmp_path).files
    found = [Anew(subject, written[subject.name], of_source=True).findings() for subject in subjects]
    assert found == [([], SAME)] * len(subjects)


def test_weights_that_another_cpu_computed_are_the_same_up_to_rounding(bundle):
    right = onnx_structure(bundle.path / "model.onnx")
    for off, found in ((1e-7, 0), (1e-4, 1)):
        model = onnx.load(bundle.path / "model.onnx")
        edit(model, "module.fc.bias", lambda value, off=off: value * (1 + off))
        assert len(differences(structure_of(model), right)) == found


def test_weights_that_are_nearly_equal_are_told_apart():
    near = np.array([1, 2, 3], np.float32)
    constants = {"a": near, "b": near * np.float32(1 + 1e-7), "c": near + np.float32(1)}
    graphs = [
        Graph(("x",), ("y",), (Node("Add", "add", (), ("x", name), ("y",)),), constants, named_ports=True, ordered=True)
        for name in "abc"
    ]
    assert differences(graphs[0], graphs[0]) == []
    for graph, name in ((graphs[1], "b"), (graphs[2], "c")):
        assert differences(graph, graphs[0]) == [f"add has other numbers in {name}: 3 of 3 differ."]


def test_versions_are_compared_without_the_build_of_pytorch():
    known = {"lstm-deploy": "1", "torch": "2.9.0+cpu", "numpy": "2"}
    assert environment.writers(known) == "lstm-deploy 1, torch 2.9.0"


def test_a_changed_line_of_a_function_is_named_by_its_text():
    text = """<ir_version: 8, opset_import: ["" : 18, "own" : 1]>
    g (float[n] x) => (float[n] y) { y = own.twice(x) }
    <domain: "own", opset_import: ["" : 18]> twice (a) => (b) { c = Add(a, a) b = Relu(c) }"""
    right, wrong = onnx.parser.parse_model(text), onnx.parser.parse_model(text.replace("Relu", "Tanh"))
    assert differences(structure_of(right), structure_of(right)) == []
    found = differences(structure_of(wrong), structure_of(right))
    assert any("Tanh" in sentence and "own.twice" in sentence for sentence in found)
    assert any("Relu" in sentence and "missing" in sentence for sentence in found)
    assert all(len(sentence) < 200 for sentence in found)
