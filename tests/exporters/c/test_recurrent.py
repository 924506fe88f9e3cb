"""Recurrent layers of every kind of cell in C compute what PyTorch and onnxruntime compute, on every processor."""

import subprocess

import numpy as np
import pytest
import torch
from c_programs import (
    NEEDS_CC,
    PROCESSORS,
    STRICT,
    assert_equal,
    feeds_of,
    need,
    opened,
    run_program,
)
from hypothesis import HealthCheck, given, settings, strategies as st
from onnx import helper
from properties import examples
from recurrent_graphs import module_of, pytorch_outputs, write_graph

from lstm_deploy.contract.cells import CELLS, GRU
from lstm_deploy.errors import InputError
from lstm_deploy.exporters.c import writer
from lstm_deploy.exporters.c.recurrent import recurrent
from lstm_deploy.exporters.c.translator import Translator
from lstm_deploy.exporters.c.writer import export_c
from lstm_deploy.runtimes.onnxrt import OnnxRuntime

pytestmark = NEEDS_CC

TOLERANCE = {False: 1e-5, True: 5e-2}
"""By whether weights are int8: how far outputs may be from those of float64."""
HIDDEN = (1, 5, 16, 17, 33, 64)
"""Most of them no multiple of a block; the layers and biases differ with them."""


def modules_of(form):
    """Of each kind of cell, one module of each size: those of a step, or those that need the whole sequence."""
    modules = [
        module_of(kind, 6, hidden, 1 + k % 2, bias=k % 3 != 1, seed=k, bidirectional=form != "steps" and k % 2 == 0)
        for kind in CELLS
        for k, hidden in enumerate(HIDDEN)
    ]
    return [*modules, keeping_gru()]


def keeping_gru():
    """A GRU whose update gate is 1."""
    module = module_of("GRU", 6, 37)
    with torch.no_grad():
        module.bias_ih_l0[37:74] = 100
    return module


FORMS = {"steps": {}, "whole sequences": {}, "lengths": {"lengths": True}}


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    """Modules of all kinds, the runtime of their graph, and its C, each made once."""
    folder, made = tmp_path_factory.mktemp("recurrent"), {}

    def system(form, *, int8=False):
        if (form, int8) not in made:
            modules, path = modules_of(form), folder / f"{len(made)}.onnx"
            names = write_graph(modules, path, **FORMS[form])
            export_c(path, path.with_suffix(".c"), "net", names if int8 else ())
            made[form, int8] = modules, OnnxRuntime(path, threads=1), path.with_suffix(".c")
        return made[form, int8]

    return system


def sampled(signature, batch, seq):
    feeds = feeds_of(signature, batch, seq, seed=batch)
    if "lengths" in feeds:
        feeds["lengths"] = np.arange(seq, seq - batch, -1).clip(1)
    return feeds


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_layers_are_those_of_pytorch_and_onnxruntime(form, int8, system):
    modules, graph, path = system(form, int8=int8)
    runtime = opened(path)
    for batch, seq in ((1, 1), (3, 9)):
        feeds = sampled(runtime.signature, batch, seq)
        got = runtime.run(feeds)
        assert_equal(got, pytorch_outputs(modules, feeds), TOLERANCE[int8])
        assert_equal(got, graph.run(feeds), TOLERANCE[int8])


def test_steps_and_sequences_agree(system):
    modules, _, path = system("steps")
    runtime = opened(path)
    feeds = sampled(runtime.signature, 2, 9)
    whole = runtime.run(feeds)
    state = {spec.name: feeds[spec.name] for spec in runtime.signature.state_inputs}
    for step in range(9):
        outputs = runtime.run({"x": feeds["x"][:, step : step + 1], **state})
        for number in range(len(modules)):
            np.testing.assert_array_equal(outputs[f"y_{number}"][:, 0], whole[f"y_{number}"][:, step])
        state = runtime.signature.next_state(outputs)


@pytest.mark.parametrize("int8", [False, True])
def test_weights_that_are_mapped_give_the_same(int8, system, tmp_path, monkeypatch):
    modules, _, path = system("lengths", int8=int8)
    monkeypatch.setattr(writer, "MAPPED_ABOVE", 0)
    names = write_graph(modules, tmp_path / "net.onnx", lengths=True)
    export_c(tmp_path / "net.onnx", tmp_path / "net.c", "net", names if int8 else ())
    mapped, inline = opened(tmp_path / "net.c"), opened(path)
    assert mapped.interface.mapped
    feeds = sampled(mapped.signature, 2, 5)
    assert_equal(mapped.run(feeds), inline.run(feeds), 0)


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("form", ["steps", "lengths"])
def test_every_instruction_set_gives_the_same_and_is_clean(form, int8, processor, system, tmp_path):
    """Also what is NaN: it stays, and harms no other row. A state that a GRU keeps is the same to the last bit."""
    modules, _, path = system(form, int8=int8)
    runtime = opened(path)
    feeds = sampled(runtime.signature, 3, 7)
    feeds["x"] = feeds["x"].copy()
    feeds["x"][0, 2, 1] = np.nan
    checked = (*STRICT, "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *PROCESSORS[processor])
    got = run_program(path, feeds, tmp_path, ("gcc",), checked)
    assert_equal(got, runtime.run(feeds), 1e-5 if not int8 else 1e-3)
    for number, module in enumerate(modules):
        y, h = got[f"y_{number}"], got[f"m{number}_h_out"]
        assert np.isnan(y[0, 2]).all(), module
        assert np.isfinite(y[1:]).all()
        if form == "steps":
            assert np.isnan(y[0, 2:]).all()
            assert np.isnan(h[:, 0]).all()
            assert np.isfinite(y[0, :2]).all()
    np.testing.assert_array_equal(h[:, 1:], feeds[f"m{number}_h_in"][:, 1:])


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("cpu", ["max", "cortex-a57"])
def test_it_is_the_same_on_arm64(cpu, int8, system, tmp_path):
    """`max` has dotprod; the other has none."""
    need("aarch64-linux-gnu-gcc", "qemu-aarch64")
    _, _, path = system("lengths", int8=int8)
    runtime = opened(path)
    feeds = sampled(runtime.signature, 2, 7)
    runner = ("qemu-aarch64", "-cpu", cpu)
    got = run_program(path, feeds, tmp_path, ("aarch64-linux-gnu-gcc",), (*STRICT, "-O2", "-static"), runner)
    assert_equal(got, runtime.run(feeds), 1e-5 if not int8 else 1e-3)


@pytest.mark.parametrize("command", ["clang", "g++"])
@pytest.mark.parametrize("int8", [False, True])
def test_each_kind_alone_compiles_without_a_warning(command, int8, tmp_path):
    """Nothing is in a file that its cells do not need."""
    need(command)
    flags = ("-x", "c++", "-std=c++11", *STRICT[1:]) if command == "g++" else STRICT
    for kind in CELLS:
        names = write_graph([module_of(kind, 3, 5)], tmp_path / f"{kind}.onnx")
        export_c(tmp_path / f"{kind}.onnx", tmp_path / f"{kind}.c", kind, names if int8 else ())
        command_line = [command, *flags, "-c", str(tmp_path / f"{kind}.c"), "-o", str(tmp_path / "out.o")]
        subprocess.run(command_line, check=True)


@settings(max_examples=examples(4), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(CELLS)),
    hidden=st.integers(1, 70),
    inputs=st.integers(1, 40),
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    lengths=st.booleans(),
    scale=st.sampled_from([0.3, 1.0, 3.0]),
    seed=st.integers(0, 1000),
)
def test_random_layers_are_those_of_pytorch(tmp_path, kind, hidden, inputs, layers, lengths, scale, seed, **form):
    module = module_of(kind, inputs, hidden, layers, seed=seed, **form)
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(scale)
    write_graph([module], tmp_path / "net.onnx", lengths=lengths)
    export_c(tmp_path / "net.onnx", tmp_path / "net.c", "net")
    runtime = opened(tmp_path / "net.c")
    feeds = sampled(runtime.signature, 2, 6)
    assert_equal(runtime.run(feeds), pytorch_outputs([module], feeds), 1e-4)


REFUSED = [
    ("GRU", {"linear_before_reset": 0}, "linear_before_reset"),
    ("GRU", {"activations": ["HardSigmoid", "Tanh"]}, "activations"),
    ("RNN_TANH", {"activations": ["Sigmoid"]}, "activations"),
    ("LSTM", {"activations": ["Sigmoid", "Tanh", "Relu"]}, "activations"),
    *((kind, {"clip": 1.0}, "clip") for kind in CELLS),
]


@pytest.mark.parametrize(("kind", "attributes", "says"), REFUSED)
def test_what_no_cell_computes_is_refused_by_name(kind, attributes, says, tmp_path):
    write_graph([module_of(kind, 3, 5)], tmp_path / "net.onnx", **attributes)
    with pytest.raises(InputError, match=rf"{CELLS[kind].onnx_operator} \(m0_layer_0\) has the attributes {says}"):
        export_c(tmp_path / "net.onnx", tmp_path / "net.c", "net")
    assert not (tmp_path / "net.c").exists()


def test_rows_before_steps_are_refused():
    """onnxruntime has no kernel for them either, so no graph gets that far."""
    node = helper.make_node(GRU.onnx_operator, ["x", "W", "R"], ["y"], "it", layout=1, linear_before_reset=1)
    weights = {"W": np.ones((1, 6, 3), np.float32), "R": np.ones((1, 6, 2), np.float32)}
    with pytest.raises(InputError, match=r"GRU \(it\) has layout"):
        recurrent(Translator({}, weights, frozenset()), node)


def test_activations_that_are_the_usual_ones_may_be_named(tmp_path):
    module = module_of("GRU", 3, 5)
    write_graph([module], tmp_path / "net.onnx", activations=["Sigmoid", "Tanh"])
    export_c(tmp_path / "net.onnx", tmp_path / "net.c", "net")
    feeds = sampled(opened(tmp_path / "net.c").signature, 1, 3)
    assert_equal(opened(tmp_path / "net.c").run(feeds), pytorch_outputs([module], feeds))
