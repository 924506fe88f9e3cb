"""C artifacts compute what the ONNX graph computes that they are written from, with every compiler and processor."""

import re
import subprocess
from ctypes import c_size_t, c_void_p

import authors
import modules
import numpy as np
import onnx
import pytest
import torch
from c_programs import (
    NEEDS_CC,
    PROCESSORS,
    STRICT,
    Linear,
    as_c,
    assert_equal,
    feeds_of,
    need,
    opened,
    run_program,
    written,
)
from hypothesis import HealthCheck, example, given, settings, strategies as st
from onnx import helper, parser
from properties import examples
from torch import nn

from lstm_deploy import Classify, LanguageModel
from lstm_deploy.artifacts import onnx_graph
from lstm_deploy.artifacts.files import weights_file
from lstm_deploy.contract.sampling import sample_inputs
from lstm_deploy.contract.signature import CONTRACT_KEY, RecurrentSpec, Signature, TensorSpec
from lstm_deploy.errors import InputError
from lstm_deploy.exporters.c.weights import MAPPED_ABOVE
from lstm_deploy.exporters.c.writer import export_c, identifier
from lstm_deploy.runtimes import native
from lstm_deploy.runtimes.stepping import unroll

pytestmark = NEEDS_CC

SYSTEMS = {
    "sine": (authors.SineLSTM, ["x:float32[batch,seq,1]"]),
    "practitioner": (lambda: authors.Practitioner(4, 16, 2), ["x:float32[batch,seq,4]"]),
    "attention, both ways": (lambda: authors.Practitioner(4, 16, 2, True, True), ["x:float32[batch,seq,4]"]),
    "text classifier": (authors.TextClassifier, ["x:int64[batch,seq]"]),
    "stock": (authors.Stock, ["x:float32[batch,seq,4]"]),
    "window, both ways": (lambda: authors.Window(True), ["x:float32[batch,10]"]),
    "characters": (authors.CharLSTM, ["x:float32[batch,seq,65]"]),
    "packed": (modules.Packs, ["x:float32[batch,seq,3]", "lengths:int64[batch]"]),
    "pools padding": (modules.PoolsPadding, ["x:float32[batch,seq,3]", "lengths:int64[batch]"]),
    "learned start": (modules.LearnedStart, ["x:float32[batch,seq,3]"]),
    "cells": (modules.Cells, ["x:float32[batch,seq,3]"]),
    "two networks": (modules.TwoLSTMs, ["x:float32[batch,seq,3]"]),
    "called twice": (modules.CalledTwice, ["x:float32[batch,seq,3]"]),
    "echo": (modules.AddsAnEcho, ["x:float32[batch,seq,3]"]),
}
SYSTEMS["wide head"] = (lambda: Linear(5, 37, 2, 70), ["x:float32[batch,seq,5]"])
SIZES = ((1, 1), (3, 7), (2, 30))


def assert_as_graph(onnx, path, sizes=SIZES, tolerance=1e-5):
    runtime = opened(path)
    for batch, seq in sizes:
        feeds = feeds_of(runtime.signature, batch, seq, seed=batch)
        assert_equal(runtime.run(feeds), onnx.run(feeds), tolerance)


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    """One of the systems: the runtime of its graph, which is exported once, and its C."""
    folder, graphs = tmp_path_factory.mktemp("systems"), {}

    def made(name, *, int8=False):
        if name not in graphs:
            torch.manual_seed(0)
            make, specs = SYSTEMS[name]
            graphs[name], _ = written(make(), folder, *specs, name=identifier(name))
        path = folder / ("int8" if int8 else "float32") / f"{identifier(name)}.c"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            as_c(folder / f"{identifier(name)}.onnx", path, int8=int8)
        return graphs[name], path

    return made


@pytest.mark.parametrize("name", SYSTEMS)
def test_networks_as_people_write_them_are_equal_in_c(name, system):
    assert_as_graph(*system(name))


@settings(max_examples=examples(4), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    hidden=st.sampled_from([1, 8, 16, 37]),
    inputs=st.sampled_from([1, 3, 18]),
    num_layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    bias=st.booleans(),
    projected=st.booleans(),
    state_layout=st.sampled_from(["layers-first", "batch-first"]),
)
@example(
    hidden=37,
    inputs=3,
    num_layers=3,
    bidirectional=True,
    batch_first=False,
    bias=False,
    projected=True,
    state_layout="batch-first",
)
def test_every_form_of_lstm_is_equal_in_c(tmp_path, hidden, inputs, projected, batch_first, state_layout, **form):
    module = nn.LSTM(inputs, hidden, batch_first=batch_first, proj_size=hidden // 3 if projected else 0, **form)
    layout = "batch,seq" if batch_first else "seq,batch"
    assert_as_graph(*written(module, tmp_path, f"x:float32[{layout},{inputs}]", state_layout=state_layout))


@pytest.mark.parametrize("command", ["gcc", "clang", "g++"])
@pytest.mark.parametrize("int8", [False, True])
def test_it_compiles_without_a_warning(command, int8, system, tmp_path):
    need(command)
    flags = ("-x", "c++", "-std=c++11", *STRICT[1:]) if command == "g++" else STRICT
    for name in ("text classifier", "characters", "window, both ways"):
        _, path = system(name, int8=int8)
        subprocess.run([command, *flags, "-O2", "-c", str(path), "-o", str(tmp_path / "out.o")], check=True)


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("int8", [False, True])
def test_every_instruction_set_gives_the_same(processor, int8, system, tmp_path):
    onnx, path = system("wide head", int8=int8)
    feeds = feeds_of(onnx.signature, 2, 40)
    usual = opened(path).run(feeds)
    got = run_program(path, feeds, tmp_path / "p", ("gcc",), (*STRICT, "-O2", *PROCESSORS[processor]))
    assert_equal(got, usual, 1e-5 if not int8 else 1e-4)
    assert_equal(got, onnx.run(feeds), 1e-5 if not int8 else 2e-2)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize(
    "name", ["characters", "text classifier", "attention, both ways", "packed", "window, both ways"]
)
def test_it_is_clean_under_sanitizers(name, int8, system, tmp_path):
    onnx, path = system(name, int8=int8)
    feeds = feeds_of(onnx.signature, 2, 9)
    for processor, flags in PROCESSORS.items():
        checked = (*STRICT, "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *flags)
        got = run_program(path, feeds, tmp_path / processor, ("gcc",), checked)
        assert_equal(got, onnx.run(feeds), 1e-5 if not int8 else 5e-2)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("cpu", ["max", "cortex-a57"])
@pytest.mark.parametrize("compiler", [("aarch64-linux-gnu-gcc",), ("clang", "--target=aarch64-linux-gnu")])
def test_it_is_the_same_on_arm64(compiler, cpu, int8, system, tmp_path):
    """`max` has dotprod; the other has none."""
    need("aarch64-linux-gnu-gcc", "qemu-aarch64")  # clang takes its headers and libraries
    onnx, path = system("wide head", int8=int8)
    feeds = feeds_of(onnx.signature, 2, 40)
    runner = ("qemu-aarch64", "-cpu", cpu)
    got = run_program(path, feeds, tmp_path / "p", compiler, (*STRICT, "-O2", "-static"), runner)
    assert_equal(got, opened(path).run(feeds), 1e-5 if not int8 else 1e-4)
    assert_equal(got, onnx.run(feeds), 1e-5 if not int8 else 2e-2)


@pytest.mark.parametrize("compiler", [("aarch64-linux-gnu-gcc",), ("clang", "--target=aarch64-linux-gnu")])
def test_arm64_has_kernels_for_int8_with_and_without_dotprod(compiler, system, tmp_path):
    need("aarch64-linux-gnu-gcc", compiler[0])
    _, path = system("stock", int8=True)
    assembly = subprocess.run(
        [*compiler, "-O2", "-S", path, "-o", "-"], capture_output=True, text=True, check=True
    ).stdout
    assert "sdot" in assembly
    assert "smull" in assembly
    assert "getauxval" in assembly  # which of the two is seen while the program runs


def test_steps_sequences_and_rows_agree(system):
    _, path = system("stock")
    runtime = opened(path)
    feeds = feeds_of(runtime.signature, 3, 12)
    whole = runtime.run(feeds)
    state = {name: feeds[name] for name in ("h_in", "c_in")}
    for step in range(12):
        outputs = runtime.run({"x": feeds["x"][:, step : step + 1], **state})
        np.testing.assert_array_equal(outputs["y"][:, 0], whole["y"][:, step])
        state = runtime.signature.next_state(outputs)


def test_large_weights_are_a_file_that_is_mapped(tmp_path):
    torch.manual_seed(0)
    onnx, path = written(Linear(4, 520, 1), tmp_path, "x:float32[batch,seq,4]")
    data = weights_file(path)
    assert data.stat().st_size > MAPPED_ABOVE
    assert path.stat().st_size < 200_000
    assert_as_graph(onnx, path, ((1, 3),))
    content = bytearray(data.read_bytes())
    content[40] ^= 1  # of the digest
    data.write_bytes(content)
    with pytest.raises(InputError, match="another model"):
        native.NativeRuntime(path)
    data.unlink()
    with pytest.raises(InputError, match="is missing"):
        native.NativeRuntime(path)


def test_nothing_global_changes_and_the_code_is_small(tmp_path):
    _, path = written(Linear(1, 64, 1), tmp_path, "x:float32[batch,seq,1]")
    compiled = tmp_path / "net.o"
    subprocess.run(["cc", "-std=c99", "-O3", "-c", str(path), "-o", str(compiled)], check=True)
    listed = subprocess.run(["nm", str(compiled)], check=True, capture_output=True, text=True).stdout
    kinds = {line.split()[-2]: line.split()[-1] for line in listed.splitlines()}
    assert not {"d", "D", "b", "B", "C"} & set(kinds), kinds
    foreign = {line.split()[-1] for line in listed.splitlines() if line.split()[-2] == "U"}
    assert foreign <= {"memcpy", "memset", "memmove", "__cpu_model", "__stack_chk_fail", "_GLOBAL_OFFSET_TABLE_"}
    sizes = subprocess.run(["size", str(compiled)], check=True, capture_output=True, text=True).stdout.splitlines()[1]
    assert int(sizes.split()[3]) < 100_000


class Awkward(nn.Module):
    """Arguments and outputs that C cannot call so."""

    def __init__(self):
        super().__init__()
        self.auto = nn.LSTM(3, 4, batch_first=True)
        self.main = nn.LSTM(3, 4, batch_first=True)

    def forward(self, steps, double):
        return {"sum": self.auto(steps)[0], "while": self.main(double)[0] * 2}


NAMES = ("t", "j", "x", "X", "_Bool", "SIZE_MAX", "M_PI", "using", "net_step", "net_state", "INFINITY", "__x", "i0")


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_compiles_as_c_and_as_cpp(name, tmp_path):
    """Written from a graph, so that the names are the graph's own."""
    model = parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 18]>\nnet (float[batch, seq, 3] {name}, '
        "float[batch, seq, 3] xx, float[1, batch, 2] h_in, float[1, batch, 2] c_in)\n"
        "=> (float[batch, seq, 3] XX, float[1, batch, 2] h_out, float[1, batch, 2] c_out)\n{\n"
        f"XX = Add ({name}, xx)\nh_out = Identity (h_in)\nc_out = Identity (c_in)\n}}"
    )
    inputs = tuple(TensorSpec(name=each, dtype="float32", shape=("batch", "seq", 3)) for each in (name, "xx"))
    outputs = (TensorSpec(name="XX", dtype="float32", shape=("batch", "seq", 3)),)
    state = RecurrentSpec(
        module="l", prefix="", input_size=3, hidden_size=2, proj_size=0, num_layers=1, num_directions=1
    )
    contract = Signature(inputs=inputs, outputs=outputs, recurrent=(state,), streaming="exact")
    helper.set_model_props(model, {CONTRACT_KEY: contract.to_json()})
    onnx.save(model, tmp_path / "net.onnx")
    path = as_c(tmp_path / "net.onnx", tmp_path / "net.c")
    for command in (["gcc", *STRICT], ["g++", "-x", "c++", "-std=c++11", *STRICT[1:]]):
        need(command[0])
        subprocess.run([*command, "-c", str(path), "-o", str(tmp_path / "out.o")], check=True)


def test_lengths_beyond_the_steps_are_those_that_there_are(system, tmp_path):
    graph, path = system("packed")
    feeds = feeds_of(graph.signature, 3, 6)
    right = opened(path).run({**feeds, "lengths": np.array([6, 1, 1])})
    checked = (*STRICT, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    got = run_program(path, {**feeds, "lengths": np.array([10**9, 0, -5])}, tmp_path / "p", ("gcc",), checked)
    assert_equal(got, right)


class Compares(nn.Module):
    """Something else on long sequences than on short ones."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x):
        return self.lstm(x.flip(1))[0] * (torch.tensor(x.shape[1]) > 20).float()


def test_what_was_so_for_a_few_lengths_is_not_taken_to_be_always_so(tmp_path):
    assert_as_graph(*written(Compares(), tmp_path, "x:float32[batch,seq,3]"), ((1, 5), (2, 30)))


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0] + (x[..., None] + torch.arange(45000)).sin().mean((2, 3))[..., None]


def test_what_needs_too_much_of_the_stack_is_refused(tmp_path):
    with pytest.raises(InputError, match="too much for the stack"):
        written(Wide(), tmp_path, "x:float32[batch,seq,3]")


def test_the_header_names_the_workspace_as_it_is_defined(system):
    for name, macro in (("window, both ways", "_WORKSPACE"), ("attention, both ways", "_WORKSPACE(steps)")):
        _, path = system(name)
        text = " ".join(path.with_suffix(".h").read_text().split())
        upper = identifier(name).upper()
        assert f"#define {upper}{macro} " in text
        assert f"`workspace` is {upper}{macro} bytes" in text


def test_the_header_says_which_lengths_are_taken(tmp_path):
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x, lengths):
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return self.lstm(packed)[1][0][-1]

    _, path = written(Packed(), tmp_path, "x:float32[batch,seq,3]", "lengths:int64[batch]")
    header = path.with_suffix(".h").read_text()
    assert re.search(r"_LENGTHS_SIZE 1 /\* numbers of lengths: how many steps of the call count, from 1 to all", header)
    assert len(re.findall("how many steps", header)) == 1


class TwoHeads(nn.Module):
    """More outputs than a rollout needs."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 5)
        self.lstm = nn.LSTM(5, 8, batch_first=True)
        self.fc = nn.Linear(8, 7)

    def forward(self, x):
        out = self.lstm(self.embedding(x))[0]
        return {"logits": self.fc(out), "hidden": out}


def test_a_rollout_of_a_model_with_further_outputs(tmp_path):
    torch.manual_seed(0)
    graph, path = written(TwoHeads(), tmp_path, "x:int64[batch,seq]", task=LanguageModel(vocabulary=tuple("abcdefg")))
    feeds = {
        "x": np.array([[1, 2, 3], [4, 5, 6]]),
        "lengths": np.array([3, 2]),
        "noise": np.random.default_rng(0).random((2, 20), np.float32),
        "temperature": np.array(2.0, np.float32),
        "top_k": np.array(4),
        "stop": np.array(6),
        **graph.signature.initial_state(2),
    }
    got, wanted = opened(path).rollout.run(feeds), unroll(graph, feeds)
    np.testing.assert_array_equal(got["y"], wanted["y"])
    np.testing.assert_allclose(got["h_out"], wanted["h_out"], atol=1e-6)


def test_names_that_c_does_not_allow_are_changed(tmp_path):
    graph, path = written(Awkward(), tmp_path, "steps:float32[batch,seq,3]", "double:float32[batch,seq,3]", name="int")
    assert_as_graph(graph, path)


def test_a_contract_cannot_end_the_comment_that_it_is_in(tmp_path):
    labels = ("*/ int x[-1]; /*", '"\\ ??/', "*\\\n/ int injected; /\\\n*", "*??/\n/ int injected;")
    task = Classify(labels=labels, vocabulary=("a", "b", "c"))
    _, path = written(modules.ReturnsState(), tmp_path, "x:float32[batch,seq,3]", task=task)
    assert opened(path).signature.task == task
    done = subprocess.run(["cc", *STRICT, "-E", "-P", str(path.with_suffix(".h"))], capture_output=True, check=True)
    assert b"injected" not in done.stdout


@pytest.mark.parametrize(
    ("make", "spec", "says"),
    [
        (modules.Convolved, "x:float32[batch,seq,3]", "Conv"),
        (modules.ChangesItsInput, "x:float32[batch,seq,3]", "ScatterElements"),
        (modules.Subsamples, "x:float32[batch,seq,3]", "'seq_1', which C artifacts"),
        (modules.HidesState, "x:float32[4,seq,3]", "fixes its batch"),
    ],
)
def test_what_c_cannot_express_is_refused_by_name(make, spec, says, tmp_path):
    with pytest.raises(InputError, match=says):
        written(make(), tmp_path, spec)
    assert not list(tmp_path.glob("*.[ch]*"))


@pytest.mark.parametrize(("name", "is_called"), [("aaxj-2024", "aaxj_2024"), ("7 Days", "m7_days"), ("…", "model")])
def test_functions_are_called_after_the_bundle(name, is_called):
    assert identifier(name) == is_called


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (modules.StepCell, "x:float32[batch,3]"),
        (modules.PlainLSTM, "x:float32[1,batch,3]"),
        (modules.StepTokens, "x:int64[batch]"),
        (modules.Cells, "x:float32[batch,seq,3]"),
    ],
)
def test_a_sequence_of_a_model_of_one_step_a_call_is_its_steps(make, x, tmp_path):
    """Steps lie one after the other, and each is read and written in its place."""
    graph, path = written(make(), tmp_path, x)
    runtime, rng = opened(path), np.random.default_rng(0)
    (spec,), (y,) = runtime.signature.inputs, runtime.interface.outputs
    inputs = [sample_inputs([spec], {"batch": 1, "seq": 1}, rng)[spec.name] for _ in range(5)]
    wanted, state = [], graph.signature.initial_state(1)
    for value in inputs:
        outputs = graph.run({spec.name: value, **state})
        wanted.append(outputs["y"].ravel())
        state = graph.signature.next_state(outputs)
    c_state, said = np.zeros(runtime.state_size, np.float32), np.zeros((5, y.size), np.float32)
    fed = np.ascontiguousarray(np.stack([value.ravel() for value in inputs]))
    sequence = runtime.function(f"{runtime.interface.name}_sequence", [c_void_p, c_size_t, c_void_p, c_void_p])
    sequence(c_state.ctypes.data, 5, fed.ctypes.data, said.ctypes.data)
    np.testing.assert_allclose(said, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        c_state, np.concatenate([state[each.name].ravel() for each in graph.signature.state_inputs]), atol=1e-5
    )


def test_weights_beside_the_graph_are_written_like_those_within(forecast_bundle, tmp_path, monkeypatch):
    """As models beyond 2 GB have them."""
    monkeypatch.setattr(onnx_graph, "READ_UP_TO", 10)  # sizes, which onnxruntime wants in the graph
    within = forecast_bundle / "model.onnx"
    onnx.save(onnx.load(within), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    for source, name in ((within, "a"), (tmp_path / "m.onnx", "b")):
        (tmp_path / name).mkdir()
        export_c(source, tmp_path / name / "m.c", "m")
    assert (tmp_path / "a" / "m.c").read_text() == (tmp_path / "b" / "m.c").read_text()
