"""Recognition of a network from the names and shapes of its weights alone."""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote

import torch
from msgspec import Struct
from msgspec.structs import replace
from torch import Tensor, nn

from lstm_deploy.contract import TensorSpec
from lstm_deploy.errors import InputError, one_line
from lstm_deploy.lifting.recurrent_modules import cell_of
from lstm_deploy.lifting.recurrent_weights import (
    FROM_SCRATCH,
    RECURRENT_WEIGHT,
    TITLES,
    cell_by_rows,
    counted,
    describe_recurrent,
    dropped,
    made_of_others,
    named_by_keras,
    with_article,
)
from lstm_deploy.lifting.weight_files import DEEPEST, StateDict
from lstm_deploy.training import InferredConfig

Parts = tuple[nn.RNNBase, nn.Linear | None, nn.Embedding | None, list[str]]
"""Recurrent module, head and embedding of a network, and what was inferred."""


class UnclearError(Exception):
    """Why the network cannot be recognized; the error for the user says what is there and what to do."""


class BadWeightsError(UnclearError):
    """The weights of the recurrent module contradict each other."""


class Recognized(Struct, frozen=True, kw_only=True):
    """A network with its weights, and the assumptions about it."""

    network: nn.Module
    inputs: tuple[TensorSpec, ...]
    findings: tuple[str, ...]
    """What was inferred, and what no file can say, one sentence each."""


class Inferred(nn.Module):
    """Embedding or one-hot where there is one, a recurrent module, and a linear layer on every step if there is one.

    The recurrent module is called `lstm`, `gru` or `rnn`: contracts hold that name.
    """

    embedding: nn.Embedding | None
    head: nn.Linear | None

    def __init__(self, embedding: nn.Embedding | None, recurrent: nn.RNNBase, head: nn.Linear | None) -> None:
        super().__init__()
        self.config: InferredConfig = InferredConfig()
        self.embedding, self.head = embedding, head
        self.recurrent_name: str = cell_of(recurrent).title.lower()
        self.add_module(self.recurrent_name, recurrent)

    def forward(self, x: Tensor) -> Tensor:
        recurrent = getattr(self, self.recurrent_name)
        y: Tensor = recurrent(x if self.embedding is None else self.embedding(x))[0]
        return y if self.head is None else self.head(y)


def recognize(
    weights: StateDict, inputs: Sequence[TensorSpec] = (), source: Path | None = None, key: str = ""
) -> Recognized:
    """Build the network of some weights: one recurrent module, a Linear after it, an Embedding before it.

    `inputs` may add what the weights do not say: that the batch is second, or that `x` is tokens (int64), which then
    enter as one-hot vectors if there is no embedding. Raises `InputError`, with all tensors and their shapes, if the
    weights belong to another kind of network or fit several; it says what to type for the `key` of a `source`.
    """
    if len(inputs) > 1:
        raise InputError("A network known by its weights alone has one input; give one, or the class with --model.")
    weights = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    try:
        recurrent, head, embedding, findings = _from_scratch(weights) or _from_pytorch(weights, key, source)
    except UnclearError as unclear:
        raise InputError(_ambiguous(weights, unclear, source, key)) from unclear
    if inputs:
        spec = inputs[0]
    else:
        spec = TensorSpec(name="x", dtype="float32", shape=("batch", "seq", recurrent.input_size))
        if embedding is not None:
            spec = TensorSpec(name="x", dtype="int64", shape=("batch", "seq"))
        findings.append(f"the input is assumed to be {spec}; change it with --input")
    if spec.dtype.startswith("int") and embedding is None:
        embedding = nn.Embedding.from_pretrained(torch.eye(recurrent.input_size))  # type: ignore[no-untyped-call]
        findings.append("tokens enter as one-hot vectors")
    recurrent.batch_first = tuple(spec.shape[:2]) != ("seq", "batch")
    if embedding is not None:
        spec = replace(spec, low=(0,), high=(embedding.num_embeddings - 1,))
    if head is not None:
        findings.append(
            "the linear layer is applied to every step, with no activation before or after it "
            "(if yours pools over time or takes the last state, give its class with --model)"
        )
    return Recognized(network=Inferred(embedding, recurrent, head).eval(), inputs=(spec,), findings=tuple(findings))


def is_recognized(weights: StateDict) -> bool:
    """Whether some weights are those of one network that can be recognized."""
    try:
        _from_pytorch(weights)
    except (UnclearError, InputError):
        return False
    return True


def _from_pytorch(weights: StateDict, key: str = "", source: Path | None = None) -> Parts:
    """Weights as recurrent modules and cells of PyTorch name them, with at most one Linear and one Embedding beside."""
    matches = {name: match for name in weights if (match := RECURRENT_WEIGHT.match(name))}
    paths = sorted({match["path"] for match in matches.values() if match["name"].startswith("weight_ih")})
    if len(paths) != 1:
        if not paths and (keras := named_by_keras({name: value.shape for name, value in weights.items()})):
            raise InputError(f"{source or 'The file'} has {keras}.")
        made = made_of_others(weights)
        several = f"it has {counted(_recurrent(weights).values())}"
        raise UnclearError(several if paths else f"it has {made}" if made else f"no {TITLES} was found in it")
    (path,) = paths
    own = {match["name"]: weights[name] for name, match in matches.items() if match["path"] == path}
    rest = {name: value for name, value in weights.items() if name not in matches or matches[name]["path"] != path}
    is_cell = "weight_ih" in own
    recurrent = _build_recurrent({f"{name}_l0": value for name, value in own.items()} if is_cell else own)
    cell = cell_of(recurrent)
    width = (recurrent.proj_size or recurrent.hidden_size) * (2 if recurrent.bidirectional else 1)
    name = path.rstrip(".") or key or "the file"
    findings = [
        f"{name} is "
        + with_article(cell.describe(recurrent.input_size, recurrent.hidden_size, recurrent.num_layers))
        + (", bidirectional" if recurrent.bidirectional else "")
        + (f", projected to {recurrent.proj_size}" if recurrent.proj_size else "")
        + (", without biases" if not recurrent.bias else "")
    ]
    if cell.nonlinearity is not None:
        findings.append(
            f"its nonlinearity, which is not in the weights, is assumed to be {cell.nonlinearity}, PyTorch's default "
            "(if yours has another, give its class with --model)"
        )
    if is_cell:
        findings.append(
            f"it is an nn.{cell.pytorch_modules[1]}; whole sequences give the same if nothing else is fed back between "
            "steps"
        )
    head: nn.Linear | None = None
    embedding: nn.Embedding | None = None
    for name in [name for name in rest if name.endswith("weight") and rest[name].dim() == 2]:
        matrix, bias_name = rest.pop(name), name.removesuffix("weight") + "bias"
        bias = rest.get(bias_name)
        before = matrix.shape[1] == recurrent.input_size and bias is None
        after = matrix.shape[1] == width and "emb" not in name.lower()
        if (before and after) or (
            after and matrix.shape == (recurrent.input_size, width) and recurrent.input_size == width
        ):
            raise UnclearError(f"{name} {list(matrix.shape)} could stand before the {cell.title} or after it")
        if before and embedding is None:
            embedding = nn.Embedding.from_pretrained(matrix)  # type: ignore[no-untyped-call]
            findings.append(f"{name} is an Embedding of {matrix.shape[0]} tokens")
        elif after and head is None and (bias is None or bias.shape == matrix.shape[:1]):
            head = _linear(matrix, rest.pop(bias_name, None))
            findings.append(f"{name} is a Linear({width}, {matrix.shape[0]}) after it")
        else:
            raise UnclearError(f"{name} {list(matrix.shape)} matches no known layer")
    if single := [name for name, value in rest.items() if value.dim() < 2 and value.numel() == 1 and "." not in name]:
        findings.append(f"{', '.join(single)}: single numbers that belong to no layer are not used")
    if unknown := [name for name in rest if name not in single]:
        raise UnclearError(f"{unknown[0]} is not part of the {cell.title}, a Linear or an Embedding")
    return recurrent, head, embedding, findings


def _build_recurrent(own: StateDict) -> nn.RNNBase:
    """The module of the weights `own`, by the names that PyTorch gives them; their shapes tell its kind and sizes."""
    input_weight, recurrent_weight = own.get("weight_ih_l0"), own.get("weight_hh_l0")
    layers = 1 + max(int(match["layer"]) for name in own if (match := RECURRENT_WEIGHT.match(name)))
    if layers > len(own) or not all(value.is_floating_point() and value.numel() for value in own.values()):
        raise BadWeightsError("the recurrent layer has missing, empty or integer weights")
    if input_weight is None or recurrent_weight is None or input_weight.dim() != 2 or recurrent_weight.dim() != 2:
        raise BadWeightsError("the recurrent layer lacks weight_ih_l0 or weight_hh_l0")
    projection = own.get("weight_hr_l0")
    rows = input_weight.shape[0]
    hidden = projection.shape[1] if projection is not None and projection.dim() == 2 else recurrent_weight.shape[1]
    cell = cell_by_rows(rows, hidden)
    if cell is None:
        raise BadWeightsError(f"weight_ih of {rows} rows and hidden size {hidden} contradict each other")
    try:
        module: nn.RNNBase = getattr(nn, cell.pytorch_modules[0])(
            input_weight.shape[1],
            hidden,
            num_layers=layers,
            bias="bias_ih_l0" in own,
            bidirectional=any(name.endswith("_reverse") for name in own),
            device="meta",
            **cell.pytorch_options,
            **({} if projection is None else {"proj_size": projection.shape[0]}),
        )
        module.load_state_dict(own, assign=True)
    except (RuntimeError, ValueError) as error:
        raise BadWeightsError(one_line(error)) from error
    return module


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}), assign=True)
    return linear


def _from_scratch(weights: StateDict) -> Parts | None:
    """The LSTM and head of weights that are named as in `FROM_SCRATCH` or listed in its order, else none."""
    as_list = set(weights) == {str(index) for index in range(len(FROM_SCRATCH))}
    if as_list:
        weights = {name: weights[str(index)] for index, name in enumerate(FROM_SCRATCH)}
    if set(weights) != set(FROM_SCRATCH):
        return None
    inputs, hidden = weights["W_xi"].shape if weights["W_xi"].dim() == 2 else (0, 0)
    outputs = weights["b_q"].numel()
    for name in FROM_SCRATCH:
        kind, gate = name.split("_")
        columns = outputs if gate.endswith("q") else hidden
        expected = ({"x": inputs, "h": hidden}[gate[0]], columns) if kind == "W" else (columns,)
        if tuple(weights[name].shape) != expected:
            raise InputError(f"{name} has shape {list(weights[name].shape)}, not {list(expected)} as the others say.")
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
    findings = [f"these are the weights of an LSTM from scratch: LSTM({inputs}, {hidden}), Linear({hidden}, {outputs})"]
    if as_list:
        findings.append(f"the list is assumed to be in the order {' '.join(FROM_SCRATCH)}")
    return lstm, _linear(weights["W_hq"].T.contiguous(), weights["b_q"]), None, findings


def _recurrent(weights: StateDict) -> dict[str, str]:
    return describe_recurrent({name: value.shape for name, value in weights.items()})


def _ambiguous(weights: StateDict, unclear: UnclearError, source: Path | None, key: str) -> str:
    """What is in the file, so that the user can tell what it is, and what to type next."""
    found = list(_recurrent(weights).items())
    recurrent = ", ".join(f"{path}: {text}" if path else text for path, text in found[:8])
    listed = ", ".join(f"{name}{list(value.shape)}" for name, value in list(weights.items())[:40])
    more = f" and {len(weights) - 40} more" if len(weights) > 40 else ""
    remedy = "name its class with --model FILE.py:Class"
    if source is not None and not isinstance(unclear, BadWeightsError) and (parts := _parts(weights)):
        keys = [quote(f"{key}.{part}" if key else part) for part in parts]
        others = f" (or {', '.join(keys[1:5])})" if len(keys) > 1 else ""
        remedy += f", or take a part alone with --weights-key {keys[0]}{others}"
    return (
        f"Can't infer the network from these weights (tensors: {listed}{more}): {unclear}"
        f"{recurrent and f' ({recurrent})'}; {remedy}."
    )


def _parts(weights: StateDict) -> list[str]:
    """The largest parts around the first recurrent modules that are networks which can be recognized, by prefix."""
    found = []
    for path in list(_recurrent(weights))[:8]:
        ends = [index for index, letter in enumerate(f"{path}.") if letter == "." and path]
        for prefix in [path[:end] for end in ends][:DEEPEST]:
            below = f"{prefix}."
            if any(name.startswith(below) and dropped(weights, name) for name in weights):
                break  # what was saved is not what the network computes with
            part = {name.removeprefix(below): value for name, value in weights.items() if name.startswith(below)}
            if is_recognized(part):
                found.append(prefix)
                break
    return found
