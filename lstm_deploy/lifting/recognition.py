"""From names and shapes alone to a network: what a bare file of weights tells, and what it cannot tell."""

import re
from collections.abc import Sequence

import torch
from msgspec import Struct
from msgspec.structs import replace
from torch import Tensor, nn

from lstm_deploy.contract import LSTM, TensorSpec
from lstm_deploy.errors import InputError, one_line
from lstm_deploy.lifting.weight_files import Weights
from lstm_deploy.training import InferredConfig

FOURTEEN = ("xi", "hi", "i", "xf", "hf", "f", "xo", "ho", "o", "xc", "hc", "c", "hq", "q")
"""Weights of an LSTM written from scratch, in the order in which they are kept in a list: inputs × outputs."""
_LSTM = re.compile(r"^(?P<path>(?:.*\.)?)weight_ih(?:_l\d+(?:_reverse)?)?$")


class Recognized(Struct, frozen=True, kw_only=True):
    """A network with the weights in it, and what was assumed."""

    network: nn.Module
    inputs: tuple[TensorSpec, ...]
    findings: tuple[str, ...]
    """What was inferred, and what no file can tell, one sentence each."""


class Inferred(nn.Module):
    """Embedding or one-hot where there is one, LSTM, and a linear layer on every step where there is one."""

    def __init__(self, embedding: nn.Embedding | None, lstm: nn.LSTM, head: nn.Linear | None) -> None:
        super().__init__()
        self.config = InferredConfig()
        self.embedding, self.lstm, self.head = embedding, lstm, head

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.lstm(x if self.embedding is None else self.embedding(x))[0]
        return y if self.head is None else self.head(y)


def recognize(weights: Weights, inputs: Sequence[TensorSpec] = ()) -> Recognized:
    """The network that some weights belong to: one LSTM, a Linear after it, an Embedding before it.

    `inputs` may say more than the weights do: that the batch is second, or that `x` is tokens (int64), which then
    enter as one-hot vectors if there is no embedding. Raises `InputError`, with all tensors and their shapes, where
    the weights are of something else or could be of several things.
    """
    if len(inputs) > 1:
        raise InputError("A network known by its weights alone has one input; give one, or the class with --model.")
    weights = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    from_scratch = _fourteen(weights)
    lstm, head, embedding, findings = from_scratch or _pytorch(weights)
    spec = inputs[0] if inputs else None
    if spec is None:
        name_shape: tuple[int | str, ...] = ("batch", "seq")
        if embedding is None:
            spec = TensorSpec(name="x", dtype="float32", shape=(*name_shape, lstm.input_size))
        else:
            spec = TensorSpec(name="x", dtype="int64", shape=name_shape)
        findings.append(f"the input is taken to be {spec}; say otherwise with --input")
    tokens = spec.dtype.startswith("int")
    if tokens and embedding is None:
        embedding = nn.Embedding.from_pretrained(torch.eye(lstm.input_size))  # type: ignore[no-untyped-call]
        findings.append("tokens enter as one-hot vectors")
    lstm.batch_first = tuple(spec.shape[:2]) != ("seq", "batch")
    if embedding is not None:
        spec = replace(spec, low=(0,), high=(embedding.num_embeddings - 1,))
    if head is not None:
        findings.append(
            "the linear layer is applied to every step, with no activation before or after it "
            "(if yours pools over time or takes the last state, give its class with --model)"
        )
    return Recognized(network=Inferred(embedding, lstm, head).eval(), inputs=(spec,), findings=tuple(findings))


def _pytorch(weights: Weights) -> tuple[nn.LSTM, nn.Linear | None, nn.Embedding | None, list[str]]:
    """Weights as `nn.LSTM` or `nn.LSTMCell` name them, and at most one Linear and one Embedding beside them."""
    matches = [match for name in weights if (match := _LSTM.match(name))]
    paths = sorted({match["path"] for match in matches})
    if len(paths) != 1:
        raise _ambiguous(weights, "no LSTM was found in it" if not paths else f"it has {len(paths)} LSTMs")
    path, used = paths[0], {name for name in weights if name.startswith(paths[0]) and _is_lstm_weight(name)}
    used = {name for name in used if "." not in name.removeprefix(path)}
    cell = f"{path}weight_ih" in weights
    lstm = _build_lstm({name.removeprefix(path): weights[name] for name in used}, cell, weights)
    width = (lstm.proj_size or lstm.hidden_size) * (2 if lstm.bidirectional else 1)
    findings = [
        f"{path.rstrip('.') or 'the file'} is an LSTM({lstm.input_size}, {lstm.hidden_size}, {lstm.num_layers} layers)"
        + (", bidirectional" if lstm.bidirectional else "")
        + (f", projected to {lstm.proj_size}" if lstm.proj_size else "")
        + (", without biases" if not lstm.bias else "")
    ]
    if cell:
        findings.append("it was driven step by step (nn.LSTMCell); a whole sequence gives the same")
    head: nn.Linear | None = None
    embedding: nn.Embedding | None = None
    rest = {name: value for name, value in weights.items() if name not in used}
    for name in [name for name in rest if name.endswith("weight") and rest[name].dim() == 2]:
        matrix, bias = rest[name], rest.get(name.removesuffix("weight") + "bias")
        named_embedding = "emb" in name.lower()
        before = matrix.shape[1] == lstm.input_size and bias is None
        after = matrix.shape[1] == width and not named_embedding
        if (before and after) or (after and matrix.shape == (lstm.input_size, width) and lstm.input_size == width):
            raise _ambiguous(weights, f"{name} {list(matrix.shape)} could stand before the LSTM or after it")
        if before and embedding is None:
            embedding = nn.Embedding.from_pretrained(matrix)  # type: ignore[no-untyped-call]
            findings.append(f"{name} is an Embedding of {matrix.shape[0]} tokens")
        elif after and head is None and (bias is None or bias.shape == matrix.shape[:1]):
            head = nn.Linear(width, matrix.shape[0], bias=bias is not None, device="meta")
            head.load_state_dict({"weight": matrix, **({} if bias is None else {"bias": bias})}, assign=True)
            findings.append(f"{name} is a Linear({width}, {matrix.shape[0]}) after it")
            if bias is not None:
                del rest[name.removesuffix("weight") + "bias"]
        else:
            raise _ambiguous(weights, f"{name} {list(matrix.shape)} fits no known place")
        del rest[name]
    if single := [name for name, value in rest.items() if value.dim() < 2 and value.numel() == 1 and "." not in name]:
        findings.append(f"{', '.join(single)}: single numbers that belong to no layer are left out")
        rest = {name: value for name, value in rest.items() if name not in single}
    if rest:
        raise _ambiguous(weights, f"{next(iter(rest))} belongs to no LSTM, Linear or Embedding")
    return lstm, head, embedding, findings


def _is_lstm_weight(name: str) -> bool:
    return re.search(r"(?:^|\.)(weight|bias)_(ih|hh|hr)(_l\d+(_reverse)?)?$", name) is not None


def _build_lstm(own: Weights, cell: bool, everything: Weights) -> nn.LSTM:
    """The LSTM of some weights by the names that `nn.LSTM` gives them; sizes are read off, then all are checked."""
    if cell:
        own = {f"{name}_l0": value for name, value in own.items()}
    first, recurrent = own.get("weight_ih_l0"), own.get("weight_hh_l0")
    layers = 1 + max((int(name.split("_l")[1].split("_")[0]) for name in own), default=0)
    if layers > len(own) or not all(value.is_floating_point() and value.numel() for value in own.values()):
        raise _ambiguous(everything, "the LSTM has missing, empty or integer weights")
    if first is None or recurrent is None or first.dim() != 2 or recurrent.dim() != 2:
        raise _ambiguous(everything, "the LSTM lacks weight_ih_l0 or weight_hh_l0")
    projection = own.get("weight_hr_l0")
    rows = first.shape[0]
    hidden = projection.shape[1] if projection is not None and projection.dim() == 2 else recurrent.shape[1]
    if rows != len(LSTM.pytorch_gates) * hidden:
        what = {3: "GRU", 1: "plain RNN"}.get(rows // hidden if hidden and rows % hidden == 0 else 0)
        if what is None:
            raise _ambiguous(everything, f"weight_ih of {rows} rows and hidden size {hidden} contradict each other")
        raise InputError(
            f"These are the weights of a {what}, which has no cell state and is not supported; use an nn.LSTM."
        )
    lstm = nn.LSTM(
        first.shape[1],
        hidden,
        num_layers=layers,
        bias="bias_ih_l0" in own,
        bidirectional=any(name.endswith("_reverse") for name in own),
        proj_size=projection.shape[0] if projection is not None else 0,
        device="meta",
    )
    try:
        lstm.load_state_dict(own, assign=True)
    except RuntimeError as error:
        raise _ambiguous(everything, one_line(error)) from error
    return lstm


def _fourteen(weights: Weights) -> tuple[nn.LSTM, nn.Linear, None, list[str]] | None:
    """The LSTM that is written from scratch, W_xi … b_q; none if these are not its weights."""
    names = [f"b_{gate}" if len(gate) == 1 else f"W_{gate}" for gate in FOURTEEN]
    as_list = set(weights) == {str(index) for index in range(len(names))}
    if as_list:
        weights = {name: weights[str(index)] for index, name in enumerate(names)}
    if set(weights) != set(names):
        return None
    inputs, hidden = weights["W_xi"].shape if weights["W_xi"].dim() == 2 else (0, 0)
    outputs = weights["b_q"].numel()
    for name in names:
        gate = name[2:]
        rows = {"x": inputs, "h": hidden}.get(gate[0]) if name[0] == "W" else None
        columns = outputs if gate[-1] == "q" else hidden
        wanted = (rows, columns) if name[0] == "W" else (columns,)
        if tuple(weights[name].shape) != wanted:
            raise InputError(f"{name} has shape {list(weights[name].shape)}, not {list(wanted)} as the others say.")
    order = "ifco"  # PyTorch's i, f, g, o
    lstm = nn.LSTM(inputs, hidden, device="meta")
    lstm.load_state_dict(
        {
            "weight_ih_l0": torch.cat([weights[f"W_x{gate}"].T for gate in order]),
            "weight_hh_l0": torch.cat([weights[f"W_h{gate}"].T for gate in order]),
            "bias_ih_l0": torch.cat([weights[f"b_{gate}"] for gate in order]),
            "bias_hh_l0": torch.zeros(4 * hidden),
        },
        assign=True,
    )
    head = nn.Linear(hidden, outputs, device="meta")
    head.load_state_dict({"weight": weights["W_hq"].T.contiguous(), "bias": weights["b_q"]}, assign=True)
    findings = [
        f"these are the 14 weights of an LSTM from scratch: LSTM({inputs}, {hidden}), Linear({hidden}, {outputs})"
    ]
    if as_list:
        findings.append(f"the list is taken to be in the order {' '.join(names)}")
    return lstm, head, None, findings


def _ambiguous(weights: Weights, why: str) -> InputError:
    """What the file holds, so that the user can tell what it is."""
    listed = ", ".join(f"{name}{list(value.shape)}" for name, value in list(weights.items())[:40])
    more = f" and {len(weights) - 40} more" if len(weights) > 40 else ""
    return InputError(
        f"The network cannot be told from these weights: {why}; name its class with --model FILE.py:Class "
        f"(tensors: {listed}{more})."
    )
