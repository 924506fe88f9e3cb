"""Every form of LSTM, GRU and RNN that PyTorch's own suite exports: layers, directions, starts, packed rows, dropout.

Each is compared with the module itself in plain onnxruntime and in plain TorchScript, on sizes that no export saw.
"""

import warnings
from itertools import cycle, product

import numpy as np
import onnxruntime as ort
import pytest
import torch
from kinds import layer
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

import lstm_deploy
from lstm_deploy.contract.cells import CELLS
from lstm_deploy.lifting.recurrent_modules import as_passed

FEATURES, HIDDEN = 3, 4
OTHERS = ("GRU", "RNN_TANH", "GRU", "RNN_RELU", "GRU")
STATES = ("without_initial_state", "with_initial_state")
ROWS = {"unpacked": (), "packed": ("seq", "batch"), "packed_batch_first": ("batch", "seq")}
FORMS = [
    *product((1, 3), (False, True), STATES, ROWS, (0.0, 0.2), ("LSTM",)),
    *((*form, kind) for form, kind in zip(product((1, 3), (False, True), STATES, ROWS, (0.2,)), cycle(OTHERS))),
]


class Form(nn.Module):
    """`forward(x[, state][, lengths])`: a layer over padded rows that are packed where lengths come with them."""

    def __init__(self, kind, layers, bidirectional, dropout, batch_first):
        super().__init__()
        self.batch_first = batch_first
        form = {"bidirectional": bidirectional, "dropout": dropout, "batch_first": batch_first}
        self.rnn = layer(kind, FEATURES, HIDDEN, layers, **form)

    def run(self, x, state, lengths):
        out, state = self.rnn(x if lengths is None else pack_padded_sequence(x, lengths, self.batch_first), state)
        out = out if lengths is None else pad_packed_sequence(out, self.batch_first)[0]
        return out, *(state if isinstance(state, tuple) else (state,))


class Plain(Form):
    def forward(self, x):
        return self.run(x, None, None)


class Packed(Form):
    def forward(self, x, lengths):
        return self.run(x, None, lengths)


class FromState(Form):
    def forward(self, x, state):
        return self.run(x, state, None)


class PackedFromState(Form):
    def forward(self, x, state, lengths):
        return self.run(x, state, lengths)


CLASSES = {
    ("without_initial_state", False): Plain,
    ("without_initial_state", True): Packed,
    ("with_initial_state", False): FromState,
    ("with_initial_state", True): PackedFromState,
}


def rows_of(lengths, batch_first):
    """Padded rows of these lengths, and the lengths as PyTorch's suite gives them."""
    rows = [torch.randn(length, FEATURES) for length in lengths]
    return pad_sequence(rows, batch_first=batch_first), torch.tensor(lengths, dtype=torch.int32)


def assert_plain_runtimes_agree(bundle, feeds, expected):
    """`expected` are the outputs and the final states, in the order of the contract."""
    names = bundle.signature.output_names
    onnx = ort.InferenceSession(bundle.file(bundle.find("onnx")), providers=["CPUExecutionProvider"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all of torch.jit warns that it is deprecated
        script = torch.jit.load(bundle.file(bundle.find("torchscript")))
    with torch.no_grad():
        scripted = script(*(feeds[name] for name in bundle.signature.input_names))
    for results in (onnx.run(names, {name: value.numpy() for name, value in feeds.items()}), scripted):
        for name, result, value in zip(names, results, expected, strict=True):
            np.testing.assert_allclose(np.asarray(result), value.numpy(), rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.filterwarnings("ignore:dropout option adds dropout")
@pytest.mark.parametrize(("layers", "bidirectional", "initial_state", "rows", "dropout", "kind"), FORMS)
def test_every_form_is_what_pytorch_computes(tmp_path, layers, bidirectional, initial_state, rows, dropout, kind):
    torch.manual_seed(0)
    packed, batch_first = rows != "unpacked", rows == "packed_batch_first"
    axes = ",".join(ROWS[rows] or ("seq", "batch"))
    module = CLASSES[initial_state, packed](kind, layers, bidirectional, dropout, batch_first).eval()
    inputs = {"x": f"float32[{axes},{FEATURES}]"} | ({"lengths": "int32[batch]"} if packed else {})
    bundle = lstm_deploy.export(module, tmp_path / "b", inputs=inputs)
    for lengths in ([7, 5, 5, 2], [6, 3, 1], [1], [9]):
        x, sizes = rows_of(lengths, batch_first)
        depth = layers * (2 if bidirectional else 1)
        state = (torch.zeros(depth, len(lengths), HIDDEN),) * len(CELLS[kind].states)
        if initial_state == "with_initial_state":
            state = tuple(map(torch.randn_like, state))
        with torch.no_grad():
            expected = module.run(x, as_passed(state), sizes if packed else None)
        feeds = {"x": x} | ({"lengths": sizes} if packed else {}) | dict(zip(("h_in", "c_in"), state, strict=False))
        assert_plain_runtimes_agree(bundle, feeds, expected)


class WordModel(nn.Module):
    """A model of words as PyTorch's examples have it: the state is an argument, and kept by the module afterwards."""

    def __init__(self, kind, words=20, size=5, layers=3, tied=False):
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.encoder = nn.Embedding(words, size)
        self.rnn = layer(kind, size, size, layers, dropout=0.2)
        self.decoder = nn.Linear(size, words)
        if tied:
            self.decoder.weight = self.encoder.weight
        self.hidden = as_passed(tuple(torch.zeros(layers, 5, size) for _ in CELLS[kind].states))

    def forward(self, words, hidden):
        out, hidden = self.rnn(self.drop(self.encoder(words)), hidden)
        decoded = self.decoder(self.drop(out).view(out.size(0) * out.size(1), out.size(2)))
        self.hidden = tuple(state.detach() for state in hidden) if isinstance(hidden, tuple) else hidden.detach()
        return decoded.view(out.size(0), out.size(1), decoded.size(1))


@pytest.mark.parametrize(("kind", "tied"), [("LSTM", False), ("LSTM", True), ("GRU", True), ("RNN_RELU", False)])
def test_a_model_of_words_that_keeps_its_state_is_exported(tmp_path, kind, tied):
    torch.manual_seed(0)
    module = WordModel(kind, tied=tied).eval()
    bundle = lstm_deploy.export(module, tmp_path / "b", inputs={"words": "int64[seq,batch]"})
    for seq, batch in ((10, 5), (1, 1), (4, 3)):
        words = torch.randint(0, 20, (seq, batch))
        state = tuple(torch.randn(3, batch, 5) for _ in CELLS[kind].states)
        with torch.no_grad():
            decoded = module(words, as_passed(state))
        feeds = {"words": words, **dict(zip(("h_in", "c_in"), state, strict=False))}
        hidden = module.hidden if isinstance(module.hidden, tuple) else (module.hidden,)
        assert_plain_runtimes_agree(bundle, feeds, (decoded, *hidden))
