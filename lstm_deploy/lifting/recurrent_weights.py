"""What names and shapes of weights say of the recurrent layers that they belong to."""

import re
from collections.abc import Collection, Mapping, Sequence

FROM_SCRATCH = [name for gate in "ifoc" for name in (f"W_x{gate}", f"W_h{gate}", f"b_{gate}")] + ["W_hq", "b_q"]
"""Weights `[inputs, outputs]` and biases of an LSTM written from scratch, in the order in which a list keeps them."""
RECURRENT_WEIGHT = re.compile(
    r"^(?P<path>(?:.*\.)?)(?P<name>(?:weight|bias)_(?:ih|hh|hr)(?:_l(?P<layer>\d+)(?:_reverse)?)?)$"
)
MADE_OF_OTHERS = re.compile(r"(?:^|[._])weight_(?:ih|hh|hr)(?:_l\d+)?(?:_reverse)?(?:_raw|_orig|_g|_v|\.original\d*)$")
"""Names of weights that others are made of in each call: weight drop and norm, pruning, parametrizations."""
KERAS = re.compile(r"(?:^|[./])recurrent_kernel(?::0)?$")
KINDS = {4: "LSTM", 3: "GRU", 1: "plain RNN"}
"""By the number of gates."""


def describe_recurrent(shapes: Mapping[str, Collection[int]]) -> dict[str, str]:
    """The recurrent modules among some weights, by path: `LSTM(3, 4, 1 layers)` where the shapes say so."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        if match := RECURRENT_WEIGHT.match(name):
            found.setdefault(match["path"].rstrip("."), {})[match["name"]] = tuple(shape)
    return {path: _describe(own) for path, own in found.items() if any(name.startswith("weight_ih") for name in own)}


def made_of_others(names: Collection[str]) -> str | None:
    """What names say of an LSTM whose weights its class makes of others; none if they say nothing of one."""
    found = next(filter(MADE_OF_OTHERS.search, names), None)
    return found and f"an LSTM whose weights are made of others ({found})"


def named_by_keras(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """What weights say of an LSTM that is named as in Keras, and what to do; none if they say nothing of one."""
    for name, shape in shapes.items():
        if KERAS.search(name) and len(shape) == 2 and shape[1] == 4 * shape[0]:
            return (
                f"an LSTM by the names of Keras ({name}), so save it by those of PyTorch: weight_ih_l0 is kernel.T, "
                "weight_hh_l0 is recurrent_kernel.T, bias_ih_l0 is bias, and bias_hh_l0 zeros"
            )
    return None


def dropped(names: Collection[str], path: str) -> str | None:
    """The weight that training makes the one at a path of, by dropping entries, if it is there: `…weight_hh_l0_raw`."""
    outer, _, name = path.rpartition(".")
    for home in (outer, outer.removesuffix("module").rstrip(".")):
        if (raw := f"{home}.{name}_raw".lstrip(".")) in names:
            return raw
    return None


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
