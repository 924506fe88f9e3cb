import modules
import pytest
import torch
from lift_modules import lift_module
from torch import nn

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.lifting.lifting import lift


@pytest.mark.parametrize(
    ("make", "streaming", "reason"),
    [
        (modules.HidesState, "exact", ""),
        (modules.ReturnsState, "exact", ""),
        (modules.Attention, "state-only", "looks across time"),
        (modules.FlattensOutput, "exact", ""),
        (modules.FlattensTimeFirst, "exact", ""),
        (modules.FlattensRows, "exact", ""),
        (modules.FlattensWithoutMean, "state-only", "looks across time"),
        (modules.Convolved, "none", "looks across time"),
        (modules.LooksFarBack, "state-only", "looks across time"),
        (modules.AddsAnEcho, "state-only", "looks across time"),
        (lambda: modules.HidesState(bidirectional=True), "none", "bidirectional"),
    ],
)
def test_streaming_is_measured(make, streaming, reason):
    signature = lift_module(make()).signature
    assert signature.streaming == streaming
    assert reason in signature.streaming_reason


def test_pooling_is_seen_also_where_the_inputs_are_all_alike():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x):
            return self.lstm(torch.zeros_like(x))[0].mean(1) + 1000

    assert lift_module(Mean()).signature.streaming == "state-only"


def test_a_model_of_one_fixed_length_does_not_stream():
    signature = lift_module(modules.HidesState(), TensorSpec.parse("x:float32[batch,10,3]")).signature
    assert (signature.streaming, signature.inputs[0].shape) == ("none", ("batch", 10, 3))


def test_cells_in_a_loop_stream_exactly():
    signature = lift_module(modules.Cells()).signature
    assert (signature.streaming, signature.one_step, signature.inputs[0].shape) == ("exact", True, ("batch", 1, 3))


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (modules.StepCell, "float32[batch,3]"),
        (modules.StepCell, "float32[3]"),
        (modules.StepCell, "float32[4,3]"),
        (modules.StepCellApart, "float32[batch,3]"),
        (modules.StepCells, "float32[batch,3]"),
        (modules.StepLSTM, "float32[batch,3]"),
        (lambda: modules.StepLSTM(batch_first=True), "float32[batch,3]"),
        (modules.StepLSTM, "float32[3]"),
        (modules.PlainLSTM, "float32[1,batch,3]"),
        (lambda: modules.PlainLSTM(batch_first=True), "float32[batch,1,3]"),
        (modules.PlainLSTM, "float32[1,3]"),
        (modules.StepTokens, "int64[batch]"),
        (modules.StepFrame, "float32[batch,64]"),
        (modules.StepKeepsState, "float32[batch,3]"),
    ],
)
def test_a_network_of_one_step_a_call_streams(make, x):
    signature = lift_module(make(), TensorSpec.parse(f"x:{x}")).signature
    assert (signature.streaming, signature.streaming_reason, signature.one_step) == ("exact", "", True)


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: modules.PlainLSTM(batch_first=True), "float32[batch,10,3]"),
        (lambda: modules.PlainLSTM(batch_first=True), "float32[batch,2,3]"),
        (modules.PlainLSTM, "float32[10,batch,3]"),
        (modules.Cells, "float32[batch,10,3]"),
        (modules.StepsInAFrame, "float32[batch,64]"),
        (modules.CellTwiceACall, "float32[batch,3]"),
        (modules.WindowNorm, "float32[batch,10]"),
    ],
)
def test_a_window_of_steps_is_not_one_step(make, x):
    signature = lift_module(make(), TensorSpec.parse(f"x:{x}")).signature
    assert (signature.streaming, signature.one_step) == ("none", False)
    assert "the number of steps is fixed" in signature.streaming_reason


def test_a_network_of_one_step_that_keeps_its_last_input_streams_with_that_as_a_state():
    signature = lift_module(modules.KeepsTheLastInput(), TensorSpec.parse("x:float32[batch,3]")).signature
    assert signature.streaming == "exact"
    assert [spec.name for spec in signature.state_inputs] == ["h_in", "c_in", "before_in"]
    assert signature.states[2].argument == "self.before"


def test_a_small_pool_upon_a_large_residual_is_seen_to_look_across_time():
    class UponAResidual(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x):
            return 60 * (1 + x) + 0.05 * self.lstm(x)[0][..., :3].mean(1, keepdim=True)

    assert lift_module(UponAResidual()).signature.streaming == "state-only"


def test_a_pool_whose_columns_differ_more_than_its_rows_is_seen_to_look_across_time():
    torch.manual_seed(533)

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(5, 2, 2, proj_size=1, batch_first=True)
            self.fc = nn.Linear(1, 5)

        def forward(self, x):
            return 2400 * torch.sigmoid(3 * self.fc(self.lstm(x)[0].mean(1)) - 4)

    contract = lift(Pooled().eval(), [TensorSpec.parse("x:float32[batch,seq,5]")]).signature
    assert contract.streaming == "state-only"


@pytest.mark.parametrize("gain", [1, 10, 30])
@pytest.mark.parametrize(("far", "streaming"), [(0, "exact"), (12, "state-only"), (50, "state-only")])
def test_how_an_lstm_rounds_does_not_hide_what_looks_across_time(gain, far, streaming):
    """With large recurrent weights no two runs are alike after a few steps."""

    class Echo(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 32, batch_first=True)
            with torch.no_grad():
                self.lstm.weight_hh_l0 *= gain

        def forward(self, x):
            y = self.lstm(x)[0]
            echo = torch.cat([torch.zeros_like(y[:, :far]), y], 1)
            return y + echo[:, : y.shape[1]] if far else y

    torch.manual_seed(0)
    module = Echo()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert lift_module(module).signature.streaming == streaming
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_an_axis_of_time_with_another_name_is_told_from_a_fixed_number_of_steps():
    signature = lift_module(nn.LSTM(3, 4, batch_first=True), TensorSpec.parse("x:float32[batch,frames,3]")).signature
    assert signature.streaming == "none"
    assert signature.streaming_reason == "no axis is called `seq`; call frames so if it is that of time"
    assert lift_module(nn.LSTM(3, 4, batch_first=True)).signature.streaming == "exact"


class KeepsStateAtBlank(nn.Module):
    """A transducer's predictor, which leaves its state as it was where the last label is blank."""

    def __init__(self, blank, labels):
        super().__init__()
        self.blank = blank
        self.embed = nn.Embedding(labels, 4)
        self.lstm = nn.LSTM(4, 5, batch_first=True)

    def forward(self, x, state):
        y, new = self.lstm(self.embed(x), state)
        is_blank = (x[:, -1] == self.blank)[None, :, None]
        return y, tuple(torch.where(is_blank, old, now) for old, now in zip(state, new, strict=True))


@pytest.mark.parametrize(("blank", "labels"), [(0, 10), (1, 10), (28, 29), (777, 1000)])
def test_a_branch_on_a_label_that_is_seldom_drawn_is_seen(blank, labels):
    spec = TensorSpec(name="x", dtype="int64", shape=("batch", "seq"), low=(0,), high=(labels - 1,))
    signature = lift_module(KeepsStateAtBlank(blank, labels), spec).signature
    assert signature.streaming == "state-only"
    assert "changes the state of lstm on its way out" in signature.streaming_reason


@pytest.mark.parametrize("x", ["float32[batch,seq,3]", "float32[seq,3]"])
def test_a_branch_on_a_frame_of_zeros_is_seen(x):
    class SkipsSilence(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x, state=None):
            y, new = self.lstm(x, state)
            return torch.where((x[..., -1:, :] == 0).all(), 0.0, 1.0) * y, new

    assert lift_module(SkipsSilence(), TensorSpec.parse(f"x:{x}")).signature.streaming == "state-only"


class StartSymbol(nn.Module):
    def __init__(self, *, cut):
        super().__init__()
        self.cut = cut
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x, state=None):
        y, state = self.lstm(torch.cat([x.new_zeros(len(x), 1, 3), x], 1), state)
        return y[:, self.cut :], state


@pytest.mark.parametrize(
    ("cut", "reason"), [(0, "lstm and y have 1 step more than x"), (1, "lstm has 1 step more than x")]
)
def test_a_step_that_forward_adds_to_each_call_is_named(cut, reason):
    signature = lift_module(StartSymbol(cut=cut)).signature
    assert signature.streaming == "state-only"
    assert reason in signature.streaming_reason


def test_a_convolution_that_pads_each_call_is_named_and_the_state_is_not_blamed():
    class Convolves(modules.Convolved):
        def forward(self, x, state=None):
            return self.lstm(self.conv(x.transpose(1, 2)).transpose(1, 2), state)

    signature = lift_module(Convolves()).signature
    assert signature.streaming == "state-only"
    assert "conv, an nn.Conv1d, before lstm, looks across time" in signature.streaming_reason
    assert "state of" not in signature.streaming_reason


def test_a_state_that_forward_scales_is_named():
    class Decays(modules.HidesState):
        def forward(self, x, state):
            y, state = self.lstm(x, tuple(0.9 * value for value in state))
            return y, state

    assert "changes the state of lstm on its way in," in lift_module(Decays()).signature.streaming_reason


class Decoder(nn.Module):
    """A step of a decoder over a text that it encodes in every call, or a loop over all steps."""

    def __init__(self, *, bidirectional=True):
        super().__init__()
        self.embed = nn.Embedding(9, 3)
        self.encoder = nn.LSTM(3, 4, batch_first=True, bidirectional=bidirectional)
        width = 8 if bidirectional else 4
        self.cell, self.query = nn.LSTMCell(3 + width, 5), nn.Linear(5, width)

    def step(self, x, memory, h, c, context):
        h, c = self.cell(torch.cat([x, context], 1), (h, c))
        weights = (memory @ self.query(h)[:, :, None]).softmax(1)
        return h, c, (weights * memory).sum(1)

    def zeros(self, x):
        return x.new_zeros(len(x), 5), x.new_zeros(len(x), 5), x.new_zeros(len(x), self.query.out_features)


class DecoderStep(Decoder):
    def forward(self, text, x, state=None):
        state = state or dict(zip(("h", "c", "context"), self.zeros(x), strict=True))
        h, c, context = self.step(x, self.encoder(self.embed(text))[0], **state)
        return {"y": 2 * context, "state": {"h": h, "c": c, "context": context}}


class DecoderLoop(Decoder):
    def forward(self, text, x):
        memory, state, outputs = self.encoder(self.embed(text))[0], self.zeros(x), []
        for step in range(x.shape[1]):
            state = self.step(x[:, step], memory, *state)
            outputs.append(state[2])
        return {"y": torch.stack(outputs, 1)}


def lifted_decoder(module, x):
    torch.manual_seed(0)
    return lift(module.eval(), [TensorSpec.parse("text:int64[batch,text]"), TensorSpec.parse(f"x:{x}")])


def test_a_decoder_of_one_step_streams_also_where_it_encodes_its_text_in_every_call():
    module = DecoderStep()
    lifted = lifted_decoder(module, "float32[batch,3]")
    assert (lifted.signature.streaming, lifted.signature.one_step) == ("exact", True)
    assert len(lifted.signature.states) == 3
    states = [torch.from_numpy(value) for value in lifted.signature.initial_state(2).values()]
    returned = {"state": None}
    with torch.no_grad():
        for steps in (4, 7, 3):
            text, x = torch.randint(9, (2, steps)), torch.randn(2, 3)
            returned = module(text, x, returned["state"])
            y, *states = lifted(text, x, *states)
            assert torch.allclose(y, returned["y"], atol=1e-6)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_loop_whose_steps_share_more_than_the_state_is_not_said_to_stream(bidirectional):
    signature = lifted_decoder(DecoderLoop(bidirectional=bidirectional), "float32[batch,seq,3]").signature
    assert signature.streaming == "none"
    assert "encoder takes as many steps in every call, however many x has" in signature.streaming_reason
    assert all("feed it one step a call" not in dim.reason for dim in signature.fixed)


def test_nan_of_the_model_itself_does_not_keep_it_from_streaming():
    torch.manual_seed(0)
    module = modules.MaskedDecoder().eval()
    assert lift(module, [TensorSpec.parse(text) for text in module.inputs]).signature.streaming == "exact"
