"""What names and shapes of weights say of the recurrent layers that they belong to."""

import re
from collections.abc import Collection, Mapping, Sequence

from lstm_deploy.contract import CELLS, Cell

FROM_SCRATCH = [name for gate in "ifoc" for name in (f"W_x{gate}", f"W_h{gate}", f"b_{gate}")] + ["W_hq", "b_q"]
"""Weights `[inputs, outputs]` and biases of an LSTM written from scratch, in the order in which a list keeps them."""
RECURRENT_WEIGHT = re.compile(
    r"^(?P<path>(?:.*\.)?)(?P<name>(?:weight|bias)_(?:ih|hh|hr)(?:_l(?P<layer>\d+)(?:_reverse)?)?)$"
)
MADE_OF_OTHERS = re.compile(r"(?:^|[._])weight_(?:ih|hh|hr)(?:_l\d+)?(?:_reverse)?(?:_raw|_orig|_g|_v|\.original\d*)$")
"""Names of weights that others are made of in each call: weight drop and norm, pruning, parametrizations."""
KERAS = re.compile(r"(?:^|[./])recurrent_kernel(?::0)?$")
BY_GATES: Mapping[int, Cell] = {len(cell.pytorch_gates): cell for cell in reversed(tuple(CELLS.values()))}
"""By their number of gates, each the first of its kind: the nonlinearity of an RNN is not in its weights."""
TITLES = " or ".join(", ".join(dict.fromkeys(cell.title for cell in CELLS.values())).rsplit(", ", 1))
"""For messages: `LSTM, GRU or RNN`."""
_SPOKEN_WITH_A_VOWEL = "AEFHILMNORSX"
_BY_PYTORCH: Mapping[str, str] = {
    "LSTM": "bias_ih_l0 is bias, and bias_hh_l0 zeros",
    "GRU": (
        "bias_ih_l0 is bias[0], and bias_hh_l0 is bias[1], where in each of the four the first third (z) and the "
        "second (r) change places (a layer with reset_after=False, whose bias has one axis, is none of PyTorch's)"
    ),
    "RNN_TANH": "bias_ih_l0 is bias, and bias_hh_l0 zeros",
}
"""What the biases of PyTorch are in words of Keras, by kind."""


def describe_recurrent(shapes: Mapping[str, Collection[int]]) -> dict[str, str]:
    """The recurrent modules among some weights, by path: `LSTM(3, 4)` where the shapes say so."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        if match := RECURRENT_WEIGHT.match(name):
            found.setdefault(match["path"].rstrip("."), {})[match["name"]] = tuple(shape)
    return {path: _describe(own) for path, own in found.items() if any(name.startswith("weight_ih") for name in own)}


def cell_by_rows(rows: int, hidden: int) -> Cell | None:
    """The kind of cell whose input weight has so many rows at a hidden size; none if there is no such kind."""
    return BY_GATES.get(rows // hidden) if hidden and rows % hidden == 0 else None


def with_article(title: str) -> str:
    """`an LSTM`, `a GRU`: as its first letter is spoken."""
    return f"{'an' if title[0] in _SPOKEN_WITH_A_VOWEL else 'a'} {title}"


def counted(described: Collection[str]) -> str:
    """How many recurrent modules there are, from what is said of each: `2 GRUs` where all are of that kind."""
    titles = {re.sub(r"(Cell)?\(.*", "", text) for text in described}
    known = titles & {cell.title for cell in CELLS.values()}
    return f"{len(described)} {f'{known.pop()}s' if len(titles) == len(known) == 1 else 'recurrent layers'}"


def made_of_others(names: Collection[str]) -> str | None:
    """What names say of a layer whose weights its class makes of others; none if they say nothing of one."""
    found = next(filter(MADE_OF_OTHERS.search, names), None)
    return found and f"a recurrent layer whose weights are made of others ({found})"


def named_by_keras(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """What weights say of a layer that is named as in Keras, and what to do; none if they say nothing of one."""
    for name, shape in shapes.items():
        if KERAS.search(name) and len(shape) == 2 and (cell := cell_by_rows(shape[1], shape[0])):
            return (
                f"{with_article(cell.title)} by the names of Keras ({name}), so save it by those of PyTorch: "
                f"weight_ih_l0 is kernel.T, weight_hh_l0 is recurrent_kernel.T, {_BY_PYTORCH[cell.kind]}"
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
    cell = cell_by_rows(inputs[0], hidden)
    layers = len({match["layer"] for name in own if (match := RECURRENT_WEIGHT.match(name))})
    if "weight_ih" in own:
        return f"{cell.pytorch_modules[1] if cell else 'recurrent cell'}({inputs[1]}, {hidden})"
    more = ", bidirectional" if any(name.endswith("_reverse") for name in own) else ""
    if cell is None:
        return f"a recurrent layer of unknown kind ({inputs[1]}, {hidden}{more})"
    return f"{cell.describe(inputs[1], hidden, layers)}{more}"
