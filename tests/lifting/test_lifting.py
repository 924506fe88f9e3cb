from pathlib import Path

import modules
import numpy as np
import onnxruntime as ort
import pytest
import refused_modules
import torch
from hypothesis import given, settings, strategies as st
from kinds import cell, layer
from lift_modules import lift_module
from properties import examples
from torch import nn

import lstm_deploy
from lstm_deploy.contract.cells import CELLS
from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.calling import flatten
from lstm_deploy.lifting.probing import example_inputs
from lstm_deploy.lifting.recurrent_modules import as_passed

SIZES = {"batch": 2, "seq": 7}


@pytest.mark.parametrize("make", [modules.HidesState, modules.ReturnsState, modules.Attention, modules.TwoLSTMs])
def test_from_zeros_it_computes_what_the_module_computes(make):
    module = make().eval()
    lifted = lift_module(module)
    tensors = example_inputs(lifted.signature, **SIZES)
    with torch.no_grad():
        outputs = lifted(*tensors)[: len(lifted.signature.outputs)]
        expected = [tensor for path, tensor in flatten(module(tensors[0])) if path[:1] != (1,)]
    for output, value in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, value)


def test_given_states_enter_and_final_states_leave():
    module = modules.ReturnsState().eval()
    h, c = torch.randn(2, 2, 8), torch.randn(2, 2, 8)
    x = torch.randn(2, 7, 3)
    with torch.no_grad():
        expected, (expected_h, expected_c) = module(x, (h, c))
        y, h_out, c_out = lift_module(module)(x, h, c)
    for got, value in ((y, expected), (h_out, expected_h), (c_out, expected_c)):
        torch.testing.assert_close(got, value)


def test_float32_weights_are_shared_and_nothing_else_is():
    """A copy of 500 MB of weights is a copy too many; a buffer may be changed by the forward."""
    module = modules.CountsCalls().train()
    lifted = lift_module(module)
    assert lifted.module.lstm.weight_ih_l0.data_ptr() == module.lstm.weight_ih_l0.data_ptr()
    assert lifted.module.lstm.weight_ih_l0.requires_grad is False
    assert module.lstm.weight_ih_l0.requires_grad
    assert lifted.module.calls.data_ptr() != module.calls.data_ptr()
    lifted(*example_inputs(lifted.signature))
    assert module.calls == 0
    lifted.double()
    assert module.lstm.weight_ih_l0.dtype == torch.float32


def test_the_users_module_is_left_as_it_was():
    module = modules.HidesState().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    lift_module(module)
    module.train()
    assert type(module.lstm) is nn.LSTM
    assert all(value.requires_grad for value in module.parameters())
    assert all(before[name].equal(value) for name, value in module.state_dict().items())


def test_a_bare_lstm_is_lifted():
    signature = lift_module(nn.LSTM(3, 4, 2), TensorSpec.parse("x:float32[seq,batch,3]")).signature
    assert signature.outputs[0].shape == ("seq", "batch", 4)
    assert signature.state_inputs[0].shape == (2, "batch", 4)


def test_batch_first_state_is_the_same_state_in_another_order():
    module = modules.ReturnsState().eval()
    x, h, c = torch.randn(2, 7, 3), torch.randn(2, 2, 8), torch.randn(2, 2, 8)
    with torch.no_grad():
        y, h_out, _ = lift_module(module)(x, h, c)
        lifted = lift_module(module, state_layout="batch-first")
        other_y, other_h, _ = lifted(x, h.transpose(0, 1), c.transpose(0, 1))
    torch.testing.assert_close(other_y, y)
    torch.testing.assert_close(other_h, h_out.transpose(0, 1))
    assert lifted.signature.state_outputs[0].shape == ("batch", 2, 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(3, 3), "no nn.LSTM"),
        (refused_modules.OfItsBase, "nn.RNNBase, a recurrent module of your own"),
        (refused_modules.Subclassed, "subclass"),
    ],
)
def test_what_cannot_be_lifted_is_refused_with_the_reason(make, message):
    with pytest.raises(LiftingError, match=message):
        lift_module(make())


def test_half_and_double_weights_are_lifted_as_float32():
    for module in (modules.HidesState().double(), modules.HidesState().half()):
        lifted = lift_module(module)
        assert all(value.dtype == torch.float32 for value in lifted.parameters())


ALL = {**{"x": "float32[batch,seq,3]"}}


@pytest.mark.parametrize(
    ("make", "inputs", "states", "outputs"),
    [
        (modules.LearnedStart, ALL, ["h_in"], ["y: float32[batch, seq, 8]"]),
        (modules.CalledTwice, ALL, ["lstm_1_h_in", "lstm_2_h_in"], ["y: float32[batch, seq, 3]"]),
        (modules.TwoStates, ALL, ["lstm_1_h_in", "lstm_2_h_in"], ["y: float32[batch, seq, 4]"]),
        (modules.NeverCalled, ALL, ["h_in"], ["y: float32[batch, seq, 3]"]),
        (modules.DemandsState, ALL, ["h_in"], ["y: float32[batch, seq, 4]"]),
        (modules.DemandsBoth, ALL, ["h_in"], ["logits: float32[batch, seq, 4]"]),
        (modules.DemandsMapping, ALL, ["h_in"], ["y: float32[batch, seq, 4]"]),
        (modules.ChangesItsInput, ALL, ["h_in"], ["y: float32[batch, seq, 4]"]),
        (modules.RandomStart, ALL, ["h_in"], ["y: float32[batch, seq, 4]"]),
        (modules.NamesCuda, ALL, ["h_in"], ["y: float32[batch, seq, 4]"]),
        (modules.NamesCudaLate, ALL, ["h_in"], ["y: float32[batch, seq, 4]"]),
        (modules.Cells, ALL, ["first_h_in", "second_h_in"], ["y: float32[batch, 1, 5]"]),
        (modules.Seq2Seq, {**ALL, "target": "float32[batch,steps,2]"}, ["h_in"], ["y: float32[batch, steps, 4]"]),
        (
            modules.Packs,
            {**ALL, "lengths": "int64[batch]"},
            ["h_in"],
            ["y0: float32[batch, seq, 4]", "y1: float32[batch, 4]"],
        ),
        (modules.WindowNorm, {"x": "float32[batch,seq]"}, ["h_in"], ["y: float32[batch, 1]"]),
        (modules.Unbatched, {"x": "float32[seq,3]"}, ["h_in"], ["y: float32[seq, 8]"]),
        (modules.HidesState, {"x": "float32[4,seq,3]"}, ["h_in"], ["y: float32[4, 2]"]),
        (modules.KeepsState, ALL, ["h_in"], ["y: float32[batch, seq, 4]"]),
        (modules.FlattensOutput, ALL, ["h_in"], ["y: float32[seq_0, 5]"]),
        (modules.FlattensTimeFirst, ALL, ["h_in"], ["y: float32[seq_0, 5]"]),
        (modules.FlattensRows, ALL, ["h_in"], ["y: float32[batch, seq_1]"]),
        (
            modules.Tags,
            ALL,
            ["h_in"],
            ["scores: float32[batch, seq, 5]", "best: int64[seq_0]", "likely: bool[batch, 5]"],
        ),
        (modules.ReadsSizes, ALL, ["h_in"], ["y0: float32[batch, seq, 2, 2]", "y1: float32[batch, 4]"]),
        (modules.Subsamples, ALL, ["h_in"], ["y: float32[batch, seq_1, 4]"]),
        (modules.Casts, {"x": "int64[batch,seq]"}, ["h_in"], ["y: float32[batch, 4]"]),
    ],
)
def test_a_module_is_exported_as_its_author_wrote_it(tmp_path, make, inputs, states, outputs):
    """All in one process, one after another; each bundle has been proven against PyTorch when it is there."""
    torch.manual_seed(0)
    bundle = lstm_deploy.export(make(), tmp_path / "b", inputs=inputs)
    signature = bundle.signature
    assert [spec.name for spec in signature.state_inputs][::2] == states
    assert [str(spec) for spec in signature.outputs] == outputs
    assert bundle.manifest.parity.passed


@pytest.mark.parametrize("arguments", ["x, cat", "relu, transpose", "y", "h_in", "val_0, lstm_lstm", "int, steps"])
def test_an_input_may_be_called_as_an_operator_an_output_or_a_state(tmp_path, arguments):
    """Its values are those of the author's argument."""
    torch.manual_seed(0)
    names = arguments.split(", ")
    module = modules.named(arguments).eval()
    inputs = dict.fromkeys(names, "float32[batch,seq,3]")
    bundle = lstm_deploy.export(module, tmp_path / "b", inputs=inputs, formats=["onnx", "torchscript"])
    given = {name: torch.randn(2, 5, 3) for name in names}
    with torch.no_grad():
        expected = module(**given).numpy()
    session = ort.InferenceSession(bundle.path / "model.onnx", providers=["CPUExecutionProvider"])
    feeds = {**{name: value.numpy() for name, value in given.items()}, **bundle.signature.initial_state(2)}
    assert [value.name for value in session.get_inputs()] == list(feeds)
    np.testing.assert_allclose(session.run(None, feeds)[0], expected, atol=1e-5)


def test_lengths_leave_padded_steps_out_for_unsorted_rows_and_rows_of_one(tmp_path):
    torch.manual_seed(0)
    module = modules.Packs(bidirectional=True, num_layers=2).eval()
    inputs = {"x": "float32[batch,seq,3]", "lengths": "int64[batch]"}
    lstm_deploy.export(module, tmp_path / "b", inputs=inputs, formats=["onnx"])
    x, lengths = torch.randn(4, 6, 3), torch.tensor([3, 6, 1, 5])
    got = lstm_deploy.open(tmp_path / "b").run({"x": x, "lengths": lengths})
    with torch.no_grad():
        y, last = module(x, lengths)
    assert abs(got["y0"] - y.numpy()).max() < 1e-5
    assert abs(got["y1"] - last.numpy()).max() < 1e-5
    assert (got["y0"][2, 1:] == 0).all()


def test_a_start_that_is_computed_from_a_flag_is_no_constant(tmp_path):
    torch.manual_seed(0)
    module = modules.StartsByFlag().eval()
    inputs = {**ALL, "is_new": "bool[batch,seq]"}
    bundle = lstm_deploy.export(module, tmp_path / "b", inputs=inputs, formats=["onnx"])
    assert [spec.module for spec in bundle.signature.recurrent] == ["own"]
    x = torch.randn(2, 5, 3)
    for flag in (torch.zeros(2, 5, dtype=torch.bool), torch.ones(2, 5, dtype=torch.bool)):
        got = lstm_deploy.open(tmp_path / "b").run({"x": x, "is_new": flag})["y"]
        with torch.no_grad():
            assert abs(got - module(x, flag).numpy()).max() < 1e-5


def test_a_branch_on_data_is_refused_with_its_line(tmp_path, capfd):
    source = Path(refused_modules.__file__).read_text(encoding="utf-8").splitlines()
    line = next(number for number, text in enumerate(source, 1) if "if out.sum() > 0" in text)
    with pytest.raises(LiftingError, match=rf"modules\.py:{line}"):
        lstm_deploy.export(refused_modules.Branches(), tmp_path / "b", inputs=ALL)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=examples(10), deadline=None)
@given(
    kinds=st.lists(st.tuples(st.sampled_from([*CELLS]), st.booleans()), min_size=1, max_size=3),
    widths=st.lists(st.integers(1, 6), min_size=3, max_size=3),
    start=st.sampled_from(["none", "zeros", "learned", "random"]),
    result=st.sampled_from(["tensor", "tuple", "dict", "last"]),
    norm=st.booleans(),
)
def test_random_modules_are_lifted(kinds, widths, start, result, norm):
    """Whatever they are made of, kinds of cells mixed: the lifted module equals the module."""

    class Random(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = [3, *widths]
            self.parts = nn.ModuleList(
                cell(kind, a, b) if one_step else layer(kind, a, b, batch_first=True)
                for (kind, one_step), a, b in zip(kinds, sizes, sizes[1:], strict=False)
            )
            self.starts = nn.ParameterList(torch.randn(1, width) for width in widths)
            self.norm = nn.LayerNorm(widths[len(kinds) - 1]) if norm else nn.Identity()

        def begin(self, index, batch):
            size = widths[index]
            makers = {"zeros": torch.zeros, "random": torch.randn}
            make = makers.get(start, torch.zeros)
            h = self.starts[index].expand(batch, -1) if start == "learned" else make(batch, size)
            return (h, torch.zeros(batch, size))[: len(CELLS[kinds[index][0]].states)]

        def forward(self, x):
            for index, part in enumerate(self.parts):
                state = self.begin(index, x.shape[0])
                if isinstance(part, nn.RNNBase):
                    hx = None if start == "none" else as_passed(tuple(s.unsqueeze(0).contiguous() for s in state))
                    x, final = part(x, hx)
                else:
                    steps, final = [], None if start == "none" else as_passed(state)
                    for step in range(x.shape[1]):
                        final = part(x[:, step], final)
                        steps.append(final[0] if isinstance(final, tuple) else final)
                    x = torch.stack(steps, 1)
            y, h = self.norm(x), final[0] if isinstance(final, tuple) else final
            return {"tensor": y, "tuple": (y, final), "dict": {"out": y, "h": h}, "last": y[:, -1]}[result]

    module = Random().eval()
    lifted = lift_module(module)
    assert len(lifted.signature.recurrent) == len(kinds)
    assert ("seq" in {dim.name for dim in lifted.signature.fixed}) == any(one_step for _, one_step in kinds)
    if start != "random":
        tensors = example_inputs(lifted.signature, **SIZES)
        with torch.no_grad():
            expected = [value for _, value in flatten(module(tensors[0]))]
            torch.testing.assert_close(lifted(*tensors)[0], expected[0], rtol=1e-4, atol=1e-5)


class KeepsItsLastFrame(nn.Module):
    """The state beside the LSTM's is a view of the input."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def init_state(self, batch_size):
        return torch.zeros(batch_size, 1, 3), torch.zeros(1, batch_size, 4), torch.zeros(1, batch_size, 4)

    def forward(self, x, frame, h, c):
        y, (h, c) = self.lstm(x - torch.cat([frame, x[:, :-1]], 1), (h, c))
        return y, x[:, -1:], h, c


def test_a_state_that_is_a_part_of_an_input_is_a_copy():
    """A stream writes its next input where the last one was."""
    lifted = lift_module(KeepsItsLastFrame())
    x, states = torch.randn(2, 5, 3), [spec.sized({"batch": 2}) for spec in lifted.signature.state_inputs]
    results = lifted(x, *map(torch.zeros, states))
    (frame,) = [value for value in results[1:] if value.shape[2] == 3]
    before = frame.clone()
    x.zero_()
    assert torch.equal(frame, before)
    assert before.any()
