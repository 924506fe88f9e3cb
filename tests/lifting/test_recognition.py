import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import InputError
from lstm_deploy.lifting.recognition import recognize
from lstm_deploy.lifting.recurrent_weights import FROM_SCRATCH
from lstm_deploy.lifting.weight_files import clean


class Net(nn.Module):
    def __init__(self, embedding, head, **form):
        super().__init__()
        self.emb = nn.Embedding(11, 3) if embedding else None
        self.rnn = nn.LSTM(3, 8, batch_first=True, **form)
        width = (self.rnn.proj_size or 8) * (2 if self.rnn.bidirectional else 1)
        self.out = nn.Linear(width, 5) if head else None

    def forward(self, x):
        y = self.rnn(x if self.emb is None else self.emb(x))[0]
        return y if self.out is None else self.out(y)


@settings(max_examples=40, deadline=None)
@given(
    embedding=st.booleans(),
    head=st.booleans(),
    num_layers=st.integers(1, 8),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    proj_size=st.sampled_from([0, 2]),
    prefix=st.sampled_from(["", "module.", "encoder.core."]),
)
def test_every_form_is_recognised_and_computes_the_same(embedding, head, prefix, **form):
    network = Net(embedding, head, **form).eval()
    recognized = recognize(clean({prefix + name: value for name, value in network.state_dict().items()}, "here"))
    x = torch.randint(0, 11, (2, 5)) if embedding else torch.randn(2, 5, 3)
    with torch.no_grad():
        torch.testing.assert_close(recognized.network(x), network(x))
    assert recognized.inputs[0].dtype == ("int64" if embedding else "float32")
    assert recognized.inputs[0].high == ((10,) if embedding else None)


def test_what_no_file_says_is_among_the_findings():
    findings = " ".join(recognize(Net(False, True).state_dict()).findings)
    assert "rnn is an LSTM(3, 8, 1 layers)" in findings
    assert "out.weight is a Linear(8, 5) after it" in findings
    assert "no activation" in findings
    assert "--input" in findings


def test_a_cell_is_an_lstm_of_one_layer():
    cell = nn.LSTMCell(3, 4)
    recognized = recognize({f"cell.{name}": value for name, value in cell.state_dict().items()})
    x = torch.randn(2, 5, 3)
    h = c = torch.zeros(2, 4)
    for step in range(5):
        h, c = cell(x[:, step], (h, c))
    torch.testing.assert_close(recognized.network(x)[:, -1], h)


def fourteen(inputs=6, hidden=4):
    """Weights of the LSTM that a textbook writes from scratch, and what it computes of `x [seq, batch, inputs]`."""
    torch.manual_seed(0)
    weights = {}
    for name in FROM_SCRATCH:
        gate = name[2:]
        rows = inputs if gate.startswith("x") else hidden
        columns = inputs if gate.endswith("q") else hidden
        weights[name] = torch.randn(rows, columns) if name[0] == "W" else torch.randn(columns)

    def run(x):
        h = c = torch.zeros(x.shape[1], hidden)
        outputs = []
        for step in x:
            gates = {g: step @ weights[f"W_x{g}"] + h @ weights[f"W_h{g}"] + weights[f"b_{g}"] for g in "ifoc"}
            c = gates["f"].sigmoid() * c + gates["i"].sigmoid() * gates["c"].tanh()
            h = gates["o"].sigmoid() * c.tanh()
            outputs.append(h @ weights["W_hq"] + weights["b_q"])
        return torch.stack(outputs)

    return weights, run


@pytest.mark.parametrize("as_list", [True, False])
def test_fourteen_tensors_from_scratch_are_an_lstm(as_list):
    weights, run = fourteen()
    given_ = {str(index): weights[name] for index, name in enumerate(FROM_SCRATCH)} if as_list else weights
    x = torch.nn.functional.one_hot(torch.randint(0, 6, (7, 3)), 6).float()
    with torch.no_grad():
        time_major = recognize(given_, [TensorSpec.parse("x:float32[seq,batch,6]")]).network(x)
        batch_major = recognize(given_).network(x.transpose(0, 1))
        tokens = recognize(given_, [TensorSpec.parse("x:int64[seq,batch]")]).network(x.argmax(-1))
    torch.testing.assert_close(time_major, run(x))
    torch.testing.assert_close(batch_major, run(x).transpose(0, 1))
    torch.testing.assert_close(tokens, run(x))


def test_fourteen_tensors_that_contradict_each_other_are_refused_by_name():
    weights, _ = fourteen()
    weights["W_hf"] = torch.zeros(4, 5)
    with pytest.raises(InputError, match=r"W_hf has shape \[4, 5\], not \[4, 4\]"):
        recognize(weights)


@pytest.mark.parametrize(
    ("module", "kind"), [(nn.GRU(3, 4), "GRU"), (nn.RNN(3, 4), "plain RNN"), (nn.GRUCell(3, 4), "GRU")]
)
def test_other_recurrent_weights_are_called_by_their_name(module, kind):
    with pytest.raises(InputError, match=kind):
        recognize(module.state_dict())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda w: w.update({"fc2.weight": torch.zeros(2, 5)}), "fits no known place"),
        (lambda w: w.update({"norm.weight": torch.ones(8)}), "belongs to no LSTM"),
        (lambda w: w.update({"other.weight_ih_l0": torch.zeros(32, 3)}), "2 LSTMs"),
        (lambda w: w.pop("rnn.weight_hh_l0"), "lacks"),
        (lambda w: w.pop("rnn.bias_hh_l0"), "bias_hh_l0"),
        (lambda w: w.update({"rnn.weight_ih_l0": torch.zeros(33, 3)}), "contradict"),
        (lambda w: w.clear(), "no LSTM"),
        (lambda w: w.update({"rnn.weight_ih_l99999": torch.zeros(32, 8)}), "missing, empty or integer"),
        (lambda w: w.update({"rnn.weight_hh_l0": torch.zeros(32, 8, dtype=torch.int32)}), "integer"),
        (lambda w: w.update({"bn.weight": torch.ones(1), "bn.running_var": torch.ones(1)}), "belongs to no LSTM"),
    ],
)
def test_what_is_ambiguous_is_refused_with_the_tensors_and_a_way_on(change, why):
    weights = dict(Net(False, True).state_dict())
    change(weights)
    with pytest.raises(InputError, match=why) as error:
        recognize(weights)
    assert "--model" in str(error.value)


@pytest.mark.parametrize("shape", [(8, 8), (10, 8)])
def test_a_matrix_that_fits_before_and_after_is_not_guessed(shape):
    """LSTM(8, 8) beside a Linear(8, 8), or a matrix without bias that is an Embedding or a Linear."""
    weights = dict(nn.LSTM(8, 8).state_dict()) | {"proj.weight": torch.zeros(shape)}
    if shape[0] == 8:
        weights["proj.bias"] = torch.zeros(8)
    with pytest.raises(InputError, match="before the LSTM or after it"):
        recognize(weights)
