"""What names and shapes of weights say of the recurrent layers that they belong to."""

import re
from collections.abc import Collection, Mapping

FROM_SCRATCH = [name for gate in "ifoc" for name in (f"W_x{gate}", f"W_h{gate}", f"b_{gate}")] + ["W_hq", "b_q"]
"""Weights `[inputs, outputs]` and biases of an LSTM written from scratch, in the order in which a list keeps them."""
RECURRENT_WEIGHT = re.compile(
    r"^(?P<path>(?:.*\.)?)(?P<name>(?:weight|bias)_(?:ih|hh|hr)(?:_l(?P<layer>\d+)(?:_reverse)?)?)$"
)
KINDS = {4: "LSTM", 3: "GRU", 1: "plain RNN"}
"""By the number of gates."""


def describe_recurrent(shapes: Mapping[str, Collection[int]]) -> dict[str, str]:
    """The recurrent modules among some weights, by path: `LSTM(3, 4, 1 layers)` where the shapes say so."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        if match := RECURRENT_WEIGHT.match(name):
            found.setdefault(match["path"].rstrip("."), {})[match["name"]] = tuple(shape)
    return {path: _describe(own) for path, own in found.items() if any(name.startswith("weight_ih") for name in own)}


def _describe(own: Mapping[str, tuple[int, ...]]) -> str:
    inputs = own.get("weight_ih_l0") or own.get("weight_ih") or ()
    states = own.get("weight_hr_l0") or own.get("weight_hh_l0") or own.get("weight_hh") or ()
    if len(inputs) != 2 or len(states) != 2 or not (hidden := states[1]):
        return "a recurrent layer of unknown sizes"
    kind = KINDS.get(inputs[0] // hidden if inputs[0] % hidden == 0 else 0, "recurrent layer")
    layers = len({match["layer"] for name in own if (match := RECURRENT_WEIGHT.match(name))})
    if "weight_ih" in own:
        return f"{kind}Cell({inputs[1]}, {hidden})"
    more = ", bidirectional" if any(name.endswith("_reverse") for name in own) else ""
    return f"{kind}({inputs[1]}, {hidden}, {layers} layers{more})"
