import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from lstm_deploy.contract.cells import CELLS
from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import InputError
from lstm_deploy.lifting.recognition import recognize
from lstm_deploy.lifting.recurrent_weights import FROM_SCRATCH
from lstm_deploy.lifting.weight_files import clean


class Net(nn.Module):
    def __init__(self, embedding, head, kind="LSTM", **form):
        super().__init__()
        self.emb = nn.Embedding(11, 3) if embedding else None
        self.rnn = getattr(nn, kind)(3, 8, batch_first=True, **form)
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
    kind=st.sampled_from([{"kind": "LSTM", "proj_size": 2}, *({"kind": cell.title} for cell in CELLS.values())]),
    prefix=st.sampled_from(["", "module.", "encoder.core."]),
)
def test_every_form_is_recognised_and_computes_the_same(embedding, head, prefix, kind, **form):
    network = Net(embedding, head, **kind, **form).eval()
    recognized = recognize(clean({prefix + name: value for name, value in network.state_dict().items()}, "here"))
    x = torch.randint(0, 11, (2, 5)) if embedding else torch.randn(2, 5, 3)
    with torch.no_grad():
        torch.testing.assert_close(recognized.network(x), network(x))
    assert recognized.inputs[0].dtype == ("int64" if embedding else "float32")
    assert recognized.inputs[0].high == ((10,) if embedding else None)


def test_what_no_file_says_is_among_the_findings():
    findings = " ".join(recognize(Net(False, True).state_dict()).findings)
    assert "rnn is an LSTM(3, 8)" in findings
    assert "out.weight is a Linear(8, 5) after it" in findings
    assert "no activation" in findings
    assert "--input" in findings


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_cell_is_a_module_of_one_layer(kind):
    cell = getattr(nn, f"{kind}Cell")(3, 4)
    recognized = recognize({f"cell.{name}": value for name, value in cell.state_dict().items()})
    assert any(f" nn.{kind}Cell; whole sequences" in finding for finding in recognized.findings)
    x, state = torch.randn(2, 5, 3), None
    for step in range(5):
        state = cell(x[:, step], state)
    torch.testing.assert_close(recognized.network(x)[:, -1], state[0] if isinstance(state, tuple) else state)


def test_only_where_weights_do_not_tell_the_nonlinearity_it_is_among_the_findings():
    for cell in CELLS.values():
        given = {} if cell.nonlinearity is None else {"nonlinearity": cell.nonlinearity}
        findings = recognize(getattr(nn, cell.title)(3, 4, **given).state_dict()).findings
        assert any(f"a {cell.title}(3, 4" in each or f"an {cell.title}(3, 4" in each for each in findings)
        said = [each for each in findings if "assumed to be tanh" in each and "--model" in each]
        assert len(said) == (cell.nonlinearity is not None)


def test_a_projection_of_a_layer_that_has_none_is_refused():
    weights = dict(nn.GRU(3, 4).state_dict()) | {"weight_hr_l0": torch.zeros(2, 4)}
    with pytest.raises(InputError, match="proj_size"):
        recognize(weights)


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
    ("change", "why"),
    [
        (lambda w: w.update({"fc2.weight": torch.zeros(2, 5)}), "matches no known layer"),
        (lambda w: w.update({"norm.weight": torch.ones(8)}), "is not part of the LSTM"),
        (lambda w: w.update({"other.weight_ih_l0": torch.zeros(32, 3)}), "2 recurrent layers"),
        (lambda w: w.update({f"b.{name}": value for name, value in nn.LSTM(3, 2).state_dict().items()}), "2 LSTMs"),
        (lambda w: w.pop("rnn.weight_hh_l0"), "lacks"),
        (lambda w: w.pop("rnn.bias_hh_l0"), "bias_hh_l0"),
        (lambda w: w.update({"rnn.weight_ih_l0": torch.zeros(33, 3)}), "contradict"),
        (lambda w: w.clear(), "no LSTM, GRU or RNN was found"),
        (lambda w: w.update({"rnn.weight_ih_l99999": torch.zeros(32, 8)}), "missing, empty or integer"),
        (lambda w: w.update({"rnn.weight_hh_l0": torch.zeros(32, 8, dtype=torch.int32)}), "integer"),
        (lambda w: w.update({"bn.weight": torch.ones(1), "bn.running_var": torch.ones(1)}), "is not part of the LSTM"),
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


def test_a_gru_of_keras_is_that_of_pytorch_as_its_message_says():
    """By the formula of `tf.keras.layers.GRU` with `reset_after=True`, whose gates are z, r and h."""
    torch.manual_seed(0)
    kernel, recurrent_kernel, bias = torch.randn(3, 12), torch.randn(4, 12), torch.randn(2, 12)
    x, h = torch.randn(2, 3), torch.randn(2, 4)
    (xz, xr, xh), (hz, hr, hh) = (x @ kernel + bias[0]).chunk(3, 1), (h @ recurrent_kernel + bias[1]).chunk(3, 1)
    z, r = (xz + hz).sigmoid(), (xr + hr).sigmoid()
    expected = z * h + (1 - z) * (xh + r * hh).tanh()
    cell = nn.GRUCell(3, 4)
    parts = {"weight_ih": kernel.T, "weight_hh": recurrent_kernel.T, "bias_ih": bias[0], "bias_hh": bias[1]}
    cell.load_state_dict(
        {name: torch.cat([value.chunk(3)[third] for third in (1, 0, 2)]) for name, value in parts.items()}
    )
    torch.testing.assert_close(cell(x, h), expected)
