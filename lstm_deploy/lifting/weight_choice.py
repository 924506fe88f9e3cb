"""Which of the weights in a file are those of the network: by the names of its class, else by where they lie."""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from shlex import quote

from msgspec import Struct
from torch import Size

from lstm_deploy.errors import InputError
from lstm_deploy.lifting.file_contents import SHARD, joining
from lstm_deploy.lifting.recognition import is_recognized
from lstm_deploy.lifting.recurrent_weights import (
    FROM_SCRATCH,
    RECURRENT_WEIGHT,
    TITLES,
    describe_recurrent,
    dropped,
    made_of_others,
    named_by_keras,
)
from lstm_deploy.lifting.weight_files import StateDict, WeightFile, is_training, listed, open_weights, quantized

NESTED = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "module", "params")
"""Keys under which checkpoints keep their weights, beside optimizer state and the like; the first come first."""
MEMBERS = ("policy", "model_weights")
"""Files within the archives of Stable-Baselines3 and NeMo that hold the network."""
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "lstm_module.", "_net.")
"""Prefixes that wrappers (data parallel, `torch.compile`, Lightning) put before every name."""


class Choice(Struct, frozen=True, kw_only=True):
    """The weights of one network in a file."""

    weights: StateDict
    key: str
    """Where in the file they lie: what stands before each of their names."""
    findings: tuple[str, ...]
    """What else is in the file, one sentence each."""


class Fit(Struct, frozen=True, kw_only=True):
    """The names of a class in a file."""

    key: str
    """What stands before each name in the file."""
    names: dict[str, str]
    """The place in the file of each name of the class, for all that are there."""
    findings: tuple[str, ...]


def read_weights(path: Path, key: str | None = None, unused: list[str] | None = None) -> StateDict:
    """All weights of the network in a file, by name, in float32 (integers stay), without the prefixes of wrappers.

    Reads `.safetensors`, TorchScript archives, and whatever `torch.save` wrote; `key` names the entry to take where
    there are several. A list of tensors has the names `0`, `1`, …. The places of other weights are appended to
    `unused`. Raises `InputError` for a file that is none of these, would run code, or has weights that are not finite.
    """
    file = open_weights(path).under(key)
    places, _ = _places(file, key)
    if unused is not None:
        unused += file.unused(places)
    return file.load(places)


def choose(path: Path, key: str | None) -> Choice:
    """The weights of the one network in a file, without its class; raises `InputError`, with choices, for several."""
    whole = open_weights(path)
    file = whole.under(key)
    places, others = _places(file, key)
    findings = [
        f"{_joined(key, other)} holds {_described(file, other)} too, which is not used (--weights-key "
        f"{_joined(key, other)} takes it)"
        for other in others
    ]
    home, *more = dict.fromkeys(file.homes[place] for place in places)
    if more:
        parts = listed([_joined(key, each) or "those at the top" for each in (home, *more)])
        findings.append(f"the weights under {parts} are taken to be one network")
    elif _rank(home) > len(NESTED):
        findings.append(f"the weights are those under {_joined(key, home)}")
    taken = [_joined(key, place) for place in places]
    _refuse_dropped(whole, taken)
    prefix = taken[0].removesuffix(next(iter(places.values()))).rstrip(".")
    named = {_joined(key, other) for other in others}
    unused = [name for name in whole.unused(taken) if name not in named]
    if unused:
        findings.append(not_used(unused))
    if left_out := whole.left_out():
        findings.append(left_out)
    return Choice(weights=file.load(places), key=prefix, findings=tuple(findings))


def find_names(file: WeightFile, key: str | None, own: Mapping[str, Size]) -> Fit:
    """Where the names of a class lie in a file: the prefix under which most of them are found, of the same shapes.

    `own` has the shape of each name. Raises `InputError` if they are found equally well under several.
    """
    fits = [_fits(file, own, outer) for outer in _outer_names(own)]
    (found, same_shapes), outer = max(
        zip(fits, _outer_names(own), strict=True), key=lambda fit: max(fit[0][0].values(), default=0)
    )
    most = max(found.values(), default=0)
    best = [prefix for prefix, count in found.items() if count == most] or [""]
    homes = {prefix: _home(file, prefix) for prefix in best}
    chosen = min(best, key=lambda prefix: (_rank(homes[prefix]), len(prefix)))
    others = [prefix for prefix in best if prefix != chosen]
    rivals = [prefix for prefix in others if _rank(homes[prefix]) == _rank(homes[chosen])]
    if chosen.rstrip(".") == homes[chosen]:  # the weights of the whole entry, before those of a copy within it
        rivals = [prefix for prefix in rivals if homes[prefix] != homes[chosen]]
    if rivals:
        places = listed([_key(key, prefix) for prefix in best])
        if most < len(own) or not same_shapes:
            raise InputError(
                f"{file.path} has names of the class under {places}, but not all of its weights in their shapes; check "
                f"--model and --init, or say which are meant, as with --weights-key {_key(key, chosen)}."
            )
        raise InputError(
            f"{file.path} holds weights that fit under {places}; say which are meant, as with --weights-key "
            f"{_key(key, chosen)}."
        )
    names = {name: chosen + name.removeprefix(outer) for name in own}
    names = {name: place for name, place in names.items() if place in file.tensors}
    findings = []
    if others:
        fitting = listed([_key(key, prefix) for prefix in others])
        there = _key(key, chosen) if _joined(key, chosen) else "no prefix"
        findings.append(f"the weights are those under {there}; {fitting} would fit too (with --weights-key)")
    elif chosen and _rank(chosen.rstrip(".")) > len(NESTED):
        findings.append(f"the weights are those under {_key(key, chosen)}")
    return Fit(key=chosen, names=names, findings=tuple(findings))


def not_used(places: list[str]) -> str:
    """A finding on weights that the network does not have."""
    return f"weights in the file that are not used: {listed(places)}"


def why_missing(file: WeightFile) -> str:
    """What to do about weights that a class has and a file does not: what the file is, or what it has instead."""
    if file.quantized_within(""):
        return "the file holds quantized weights, so give those in float32 that they were made from"
    if SHARD.search(file.path.name):
        return f"the file is one of several, so {_joining(file.path)}"
    shapes = {name: value.shape for name, value in file.tensors.items() if not is_training(file.homes[name])}
    there = [f"{text} at {path}" if path else text for path, text in describe_recurrent(shapes).items()]
    if not there and "ds_version" in file.entries:
        return "the weights are in other files of this DeepSpeed checkpoint, so join them with zero_to_fp32.py"
    several = len({home for home in file.homes.values() if not is_training(home)}) > 1
    options = "--model, --init and --weights-key" if several else "--model and --init"
    if not there and (keras := named_by_keras(shapes)):
        return f"the file has {keras}"
    if not there and (made := made_of_others(shapes)):
        return f"the file has {made}, so the class has to make them too"
    names = listed([name or "one without a name" for name in shapes])
    return f"the file has {listed(there) or f'no {TITLES} by the names of PyTorch, but {names}'}, so check {options}"


def _joining(path: Path) -> str:
    """How to join a file with the others that a network was split into."""
    return joining(sorted(path.parent.glob(SHARD.sub("-*-of-*", path.name))) or [path])


def _places(file: WeightFile, key: str | None) -> tuple[dict[str, str], list[str]]:
    """The places of the weights of the one network, with their names, and the homes of others that are recurrent."""
    if SHARD.search(file.path.name):
        raise InputError(f"{file.path} is one of several files of a network; {_joining(file.path)}.")
    by_home: dict[str, list[str]] = {}
    for name, home in file.homes.items():
        by_home.setdefault(home, []).append(name)
    recurrent = [home for home, names in by_home.items() if _is_recurrent(_below(home, names))]
    by_home = {home: names for home, names in by_home.items() if home in recurrent or not is_training(home)}
    if not recurrent and (lowered := file.quantized_within("")):
        raise InputError(quantized(file.path, lowered))
    homes = sorted(recurrent or by_home, key=_rank)
    if file.is_without_network or not homes:
        raise InputError(file.nothing())
    home = homes[0]
    clear = len(by_home) == 1 or (_rank(home) <= len(NESTED) and (len(homes) == 1 or _rank(home) < _rank(homes[1])))
    if not clear and len(recurrent) == 1 and _are_parts(file, by_home):
        return {name: name for names in by_home.values() for name in names}, []
    if not clear:
        everything = [*homes, *(other for other in by_home if other not in homes)]
        there = [f"{_joined(key, each) or 'the top'} with {_described(file, each)}" for each in everything]
        raise InputError(
            f"{file.path} does not say which of its weights are the network's: {listed(there)}; name the class with "
            f"--model FILE.py:Class, or choose with --weights-key {_key(key, home)}."
        )
    _refuse_other_forms(file, key, home)
    places = {name: name.removeprefix(f"{home}.") if home else name for name in by_home[home]}
    while prefix := next((p for p in WRAPPERS if all(name.startswith(p) for name in places.values())), None):
        places = {place: name.removeprefix(prefix) for place, name in places.items()}
    return places, [other for other in recurrent if other != home]


def _are_parts(file: WeightFile, by_home: Mapping[str, Collection[str]]) -> bool:
    """Whether the weights of several homes, none of them a whole module, are together those of one known network."""
    if file.modules or file.quantized_within(""):
        return False
    return is_recognized(file.load({name: name for names in by_home.values() for name in names}))


def _refuse_other_forms(file: WeightFile, key: str | None, home: str) -> None:
    """Raise `InputError` for a network whose weights are not in a state dict of floating-point numbers."""
    if lowered := file.quantized_within(home):
        raise InputError(quantized(file.path, lowered))
    names = [name for name, each in file.homes.items() if each == home]
    around = {place: kind for place, kind in file.modules.items() if all(_is_within(name, place) for name in names)}
    within = [kind for place, kind in file.modules.items() if around and _is_within(place, next(iter(around)))]
    if all(kind.startswith(("torch.nn.modules.rnn.", "torch.nn.parallel.")) for kind in within):
        return  # no module, or a recurrent one, whose weights say all that it does
    kind = next((kind for kind in around.values() if not kind.startswith("torch.")), None)
    remedy = "name it" if kind else "write a class of the same parts and name it"
    chosen = f"--weights-key {quote(key)} " if key else ""
    raise InputError(
        f"{file.path} holds a whole module of the class {kind or within[0]}, whose code is not in the file; {remedy} "
        f"with {chosen}--model FILE.py:{(kind or 'Class').rpartition('.')[2]}, "
        "which reads the weights and runs nothing of the file (--trust-pickle would run what it asks for)."
    )


def _refuse_dropped(file: WeightFile, places: Collection[str]) -> None:
    """Raise `InputError` for weights of which training dropped entries, beside the whole ones."""
    for place in filter(RECURRENT_WEIGHT.match, places):
        if raw := dropped(file.tensors, place):
            raise InputError(
                f"{file.path} has {place} as training left it, which the network makes of {raw} in each call (weight "
                f"drop); name the class with --model FILE.py:Class."
            )


def _is_recurrent(names: Collection[str]) -> bool:
    return (
        bool(describe_recurrent(dict.fromkeys(names, ())))
        or set(names) >= set(FROM_SCRATCH)
        or set(names) == {str(index) for index in range(len(FROM_SCRATCH))}
    )


def _described(file: WeightFile, home: str) -> str:
    """The recurrent modules of a home, else how many tensors it has."""
    shapes = {name: value.shape for name, value in file.tensors.items() if file.homes[name] == home}
    found = [f"{text} at {path}" if path else text for path, text in describe_recurrent(shapes).items()]
    return ", ".join(found[:4]) or f"{len(shapes)} tensor{'s' if len(shapes) > 1 else ''}"


def _below(home: str, names: Collection[str]) -> list[str]:
    return [name.removeprefix(f"{home}.") if home else name for name in names]


def _rank(home: str) -> int:
    """How well known a place of weights is: that of the first, of `NESTED`, the top, and others last."""
    parts = [part for part in home.split(".") if part and part not in MEMBERS and f"{part}." not in WRAPPERS[:2]]
    if not parts:
        return len(NESTED)
    return NESTED.index(parts[0]) if all(part in NESTED for part in parts) else len(NESTED) + 1


def _home(file: WeightFile, prefix: str) -> str:
    return next((home for name, home in file.homes.items() if name.startswith(prefix)), "")


def _outer_names(own: Collection[str]) -> tuple[str, ...]:
    """Nothing, and the one name that stands before each of the class: a wrapper of the network that was saved."""
    outer = {name.partition(".")[0] for name in own}
    return ("", f"{outer.pop()}.") if len(outer) == 1 and all("." in name for name in own) else ("",)


def _fits(file: WeightFile, own: Mapping[str, Size], outer: str) -> tuple[Counter[str], bool]:
    """For each prefix in the file, how many names of the class are under it: of the right shape, if any are (true)."""
    inner = {name.removeprefix(outer): tuple(shape) for name, shape in own.items()}
    same, named = Counter[str](), Counter[str]()
    for place, value in file.tensors.items():
        start = 0
        while True:
            if (shape := inner.get(place[start:])) is not None:
                named[place[:start]] += 1
                same[place[:start]] += shape == tuple(value.shape)
            start = place.find(".", start) + 1
            if not start:
                break
    return (same, True) if any(same.values()) else (named, False)


def _is_within(home: str, place: str) -> bool:
    return not place or home == place or home.startswith(f"{place}.")


def _joined(key: str | None, place: str) -> str:
    return ".".join(part for part in (key, place) if part)


def _key(key: str | None, prefix: str) -> str:
    return quote(_joined(key, prefix.rstrip(".")))
