"""Loads a source as a lifted module: a checkpoint, a file of weights, a TorchScript archive, or a live module."""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec
import torch
from msgspec import Struct
from msgspec.structs import force_setattr, replace
from torch import Tensor, nn

from lstm_deploy.artifacts import MANIFEST, Bundle, Source, as_path, extra_files, require_file, sha256
from lstm_deploy.contract import (
    CONTRACT_FILE,
    Classify,
    Forecast,
    Signature,
    StateLayout,
    StatePolicy,
    Task,
    TensorSpec,
    decode_json,
    layout_of,
)
from lstm_deploy.errors import InputError, describe, one_line, refuse_unused
from lstm_deploy.lifting.file_contents import SHARD, WEIGHT_SUFFIXES, distributed, joining
from lstm_deploy.lifting.lifting import lift
from lstm_deploy.lifting.recognition import Inferred, recognize
from lstm_deploy.lifting.recurrent import Lifted
from lstm_deploy.lifting.recurrent_modules import RECURRENT_MODULES
from lstm_deploy.lifting.user_code import instantiate, unpickle_module
from lstm_deploy.lifting.weight_choice import choose, find_names, not_used, read_weights, why_missing
from lstm_deploy.lifting.weight_files import is_training, listed, open_weights
from lstm_deploy.training import (
    NETWORK_FILE,
    CheckpointSpec,
    InferredConfig,
    NetworkConfig,
    NetworkDocument,
    is_checkpoint,
    load_network,
    read_spec,
)

_OF_TRAINING = re.compile(r"training_args|scaler|random_states")
"""In the names of files in which trainers keep their own state."""
_COMPARED = ("inputs", "outputs", "recurrent", "state_inputs", "state_outputs")
"""What the contract of an archive must have in common with that of the network in it."""


class Origin(Struct, frozen=True, kw_only=True):
    """A file of weights, and the network that they belong to."""

    path: Path
    model: str | None = None
    """`FILE.py:Class` or `package.module:Class`."""
    init: Mapping[str, Any] = {}
    """Arguments of the class."""
    weights_key: str | None = None
    inputs: tuple[TensorSpec, ...] = ()
    trust_pickle: bool = False
    task: Task | None = None
    """What the network was trained for; a checkpoint of `lstm-deploy train` says it itself."""
    state_policy: StatePolicy | None = None
    """`reset` unless given; a checkpoint of `lstm-deploy train` says it itself."""

    def __post_init__(self) -> None:
        """Raise `InputError` for what is no path, and for a class in the place of its name."""
        force_setattr(self, "path", as_path(self.path))
        if not isinstance(self.model, str | None):
            raise InputError(
                f"A class is named by a text, not by {describe(self.model)}; write FILE.py:Class or "
                "package.module:Class, or make an instance, load its weights, and give that."
            )
        if not isinstance(self.inputs, tuple) or not all(isinstance(spec, TensorSpec) for spec in self.inputs):
            raise InputError(
                f"inputs is {self.inputs!r}; give a tuple, as (TensorSpec.parse('x:float32[batch,seq,40]'),)."
            )
        if not isinstance(self.init, Mapping):
            raise InputError(f"init is {self.init!r}; give the arguments of the class by name, as {{'hidden': 64}}.")


def origin_to_json(origin: Origin) -> str:
    """Encode for another process."""
    return msgspec.json.encode(origin, enc_hook=str).decode()


def origin_from_json(text: str) -> Origin:
    """Decode the text of `origin_to_json`."""
    return msgspec.json.decode(text, type=Origin, dec_hook=lambda kind, value: kind(value))


class Loaded(Struct, frozen=True, kw_only=True):
    """A lifted module and where it came from."""

    lifted: Lifted
    source: Source
    training: dict[str, Any] | None = None
    findings: tuple[str, ...] = ()
    """What was inferred, one sentence each."""


def load(origin: Origin, state_layout: StateLayout = "layers-first", known_inputs: Sequence[TensorSpec] = ()) -> Loaded:
    """Lift the network that a file belongs to, whose inputs are those of `origin`, or else `known_inputs`.

    Raises `InputError` if that network cannot be determined, and for a part of `origin` that has no effect on the file.
    """
    path = origin.path
    check_file(path)
    own_checkpoint = origin.model is None and path.suffix == ".safetensors" and is_checkpoint(path)
    extra = {} if own_checkpoint or origin.trust_pickle else extra_files(path)
    own_archive = origin.model is None and CONTRACT_FILE in extra
    _refuse_unused(origin, says_all=own_checkpoint or own_archive)
    if own_checkpoint:
        return _load_checkpoint(path, state_layout)
    if own_archive:
        return _load_archive(path, extra, state_layout)
    inputs = origin.inputs or tuple(known_inputs)
    if CONTRACT_FILE in extra and not inputs:
        inputs = Signature.from_json(extra[CONTRACT_FILE]).inputs
    findings: tuple[str, ...] = ()
    kind = "module"
    if origin.trust_pickle:
        network = unpickle_module(path, origin.model, origin.weights_key)
    elif origin.model is not None:
        network = instantiate(origin.model, origin.init, lambda: open_weights(path).made_with())
        findings = _load_weights(network, origin)
    else:
        kind = "weights"
        choice = choose(path, origin.weights_key)
        recognized = recognize(choice.weights, inputs, path, choice.key)
        network, inputs, findings = recognized.network, recognized.inputs, (*choice.findings, *recognized.findings)
    if not inputs:
        inputs = (_guess_input(network),)
        findings = (*findings, f"the input is assumed to be {inputs[0]}; change it with --input")
    loaded = load_module(network, inputs, state_layout, origin.task, origin.state_policy)
    return _from_file(path, kind, loaded.lifted, findings=(*findings, *loaded.findings))


def save_module(module: nn.Module, folder: Path) -> Origin:
    """Save a live module to a folder, so that other processes can load it from there.

    Raises `InputError` for one that they cannot: whose class is not in a file that they can import.
    """
    _check_module(module)
    name, home = type(module).__name__, type(module).__module__
    if any(type(child).__module__ == "__main__" for child in module.modules()):
        raise InputError(
            f"{name} is of a class of this script or notebook, which other processes cannot import; put the class into "
            "a file such as net.py, and import it from there."
        )
    path = folder / "module.pt"
    try:
        torch.save(module, path)
    except Exception as error:  # whatever the attributes of the user's module raise
        raise InputError(
            f"{name} cannot be handed to other processes ({one_line(error)}); give the file of its weights and its "
            "class, as lstm_deploy.Origin(path=…, model='net.py:Net')."
        ) from error
    file = getattr(sys.modules.get(home), "__file__", None)
    place = file if file and file.endswith(".py") and "." not in home else home  # parts of packages go by their names
    return Origin(path=path, model=f"{place}:{name}", trust_pickle=True)


def load_source_of(bundle: Bundle) -> Loaded | None:
    """Lift the source that a bundle was exported from; none if `Bundle.source_path` is gone."""
    if (path := bundle.source_path) is None:
        return None
    key = bundle.manifest.options.get("weights_key") if bundle.manifest.source.kind == "weights" else None
    return load(Origin(path=path, weights_key=key), bundle.signature.state_layout, bundle.signature.inputs)


def load_module(
    module: nn.Module,
    inputs: Sequence[TensorSpec],
    state_layout: StateLayout = "layers-first",
    task: Task | None = None,
    state_policy: StatePolicy | None = None,
) -> Loaded:
    """Lift a live module; `inputs` are the arguments of its `forward`, in order.

    Raises `InputError` for a task that its inputs and outputs do not fit.
    """
    _check_module(module)
    if not isinstance(task, Task | None):
        raise InputError(f"{task!r} is not a task; give lstm_deploy.Forecast(…), LanguageModel(…) or Classify(…).")
    if state_policy not in (None, *get_args(StatePolicy)):
        raise InputError(f"{state_policy!r} is not a state policy; use {' or '.join(get_args(StatePolicy))}.")
    specs = [_with_vocabulary(spec, module) for spec in inputs]
    lifted = lift(module, specs, task=task, state_policy=state_policy, state_layout=state_layout)
    signature = lifted.signature
    if task is not None:
        layout_of(signature)
    findings = tuple(f"{dim.name} is {dim.size}: {dim.reason}" for dim in signature.fixed) + lifted.notes
    if signature.least_seq > 1:
        findings = (*findings, f"a call takes {signature.least_seq} steps or more: the module runs on no fewer")
    return Loaded(lifted=lifted, source=Source(kind="module", summary=_summary(lifted)), findings=findings)


def _check_module(module: object) -> None:
    if not isinstance(module, nn.Module):
        raise InputError(
            f"A torch.nn.Module is needed, not {describe(module)}; make an instance, load its weights, and give that."
        )


def _refuse_unused(origin: Origin, *, says_all: bool) -> None:
    """Raise `InputError` for a part of an origin that has no effect; `says_all` is true of our own files."""
    read = {"--weights-key": origin.weights_key, "--input": origin.inputs, "--trust-pickle": origin.trust_pickle}
    meant = {"--task": origin.task, "--state-policy": origin.state_policy}
    if says_all:
        refuse_unused(f"on {origin.path}, which says itself what it is", **read, **meant)
    if origin.trust_pickle:
        refuse_unused("with --trust-pickle, which opens a whole module", **{"--init": origin.init})
    if origin.model is None:
        refuse_unused("without --model, the class that it is for", **{"--init": origin.init})


def _load_checkpoint(path: Path, state_layout: StateLayout) -> Loaded:
    spec = read_spec(path)
    network = _build(spec.network, path)
    lifted = lift(network, _inputs(spec), task=spec.task, state_policy=spec.state_policy, state_layout=state_layout)
    return _from_file(path, "checkpoint", lifted, training=spec.training)


def _load_archive(path: Path, extra: Mapping[str, bytes], state_layout: StateLayout) -> Loaded:
    """Load a TorchScript archive of this package from its weights, contract and `Network`; its code is not run."""
    if NETWORK_FILE not in extra:
        raise InputError(
            f"{path} was exported from a class of its author, whose code is not in it; name that class with --model "
            "FILE.py:Class (and its arguments with --init)."
        )
    contract = Signature.from_json(extra[CONTRACT_FILE])
    config = decode_json(extra[NETWORK_FILE], NetworkDocument, f"The network in {path}").network
    if isinstance(config, InferredConfig):
        network = recognize(read_weights(path), contract.inputs).network
    else:
        network = _build(config, path)
    task, state_policy = contract.task, contract.state_policy
    lifted = lift(network, contract.inputs, task=task, state_policy=state_policy, state_layout=state_layout)
    if any(getattr(lifted.signature, part) != getattr(contract, part) for part in _COMPARED):
        raise InputError(f"The contract of {path} is not that of the network in it; export its source again.")
    return _from_file(path, "checkpoint", lifted)


def _build(config: NetworkConfig, path: Path) -> nn.Module:
    return load_network(config, {name: value.numpy() for name, value in read_weights(path).items()})


def _from_file(path: Path, kind: Any, lifted: Lifted, **rest: Any) -> Loaded:
    source = Source(kind=kind, path=str(path), sha256=sha256(path), summary=_summary(lifted))
    return Loaded(lifted=lifted, source=source, **rest)


def check_file(path: Path) -> None:
    """Raise `InputError`, with what to give instead, unless there is a file."""
    if (path / MANIFEST).is_file():
        raise InputError(f"{path} is a bundle; give the checkpoint or the weights that it was exported from.")
    if path.is_dir():
        levels = ([child for child in path.glob(depth) if child.suffix in WEIGHT_SUFFIXES] for depth in ("*", "*/*"))
        inside = [str(child.relative_to(path)) for level in levels for child in sorted(level)]
        found = [name for name in inside if not is_training(name) and not _OF_TRAINING.search(name)]
        if (path / ".metadata").is_file() and any(path.glob("*.distcp")):
            raise InputError(distributed(path))
        if found and all(map(SHARD.search, found)):
            raise InputError(
                f"{path} is a folder with a network in several files; {joining([path / name for name in found])}."
            )
        there = f", as {listed(found)}" if found else ""
        raise InputError(f"{path} is a folder; give the file of the weights{there}.")
    require_file(path)
    if not path.is_file():
        raise InputError(f"{path} is a pipe or a device; save what comes from it to a file first.")


def _load_weights(network: nn.Module, origin: Origin) -> tuple[str, ...]:
    """Load the weights of a file into an instance of the user's class; says which of them were left out."""
    name = (origin.model or "").rpartition(":")[2]
    file = open_weights(origin.path)
    if file.is_without_network:
        raise InputError(file.nothing())
    part = file.under(origin.weights_key)
    weights = {key: value for key, value in network.state_dict().items() if isinstance(value, Tensor)}
    own = {key: value.shape for key, value in weights.items()}
    fit = find_names(part, origin.weights_key, own)
    mismatch = f"The weights of {origin.path} do not fit {name}"
    remedy = why_missing(part)
    places = {place: key for key, place in fit.names.items()}
    if len(fit.names) < len(own):  # a hook of the class may look for it under another name
        places |= {place: place.removeprefix(fit.key) for place in part.tensors if place.startswith(fit.key)}
    try:
        loaded = network.load_state_dict(part.load(places), strict=False)
    except RuntimeError as error:
        sizes = (
            f"{key} is {list(part.tensors[place].shape)} in the file and {list(own[key])} in {name}"
            for place, key in places.items()
            if key in own and part.tensors[place].shape != own[key]
        )
        raise InputError(f"{mismatch} ({next(sizes, one_line(error))}); {remedy}{part.made_with()}.") from error
    # Of tied weights, safetensors keeps one name.
    absent = set(loaded.missing_keys)
    there = [value for key, value in weights.items() if key not in absent]
    for key in loaded.missing_keys:
        if key not in weights or not any(weights[key].is_set_to(value) for value in there):
            raise InputError(f"{mismatch}: {key} is missing; {remedy}.")
    above = f"{origin.weights_key}." if origin.weights_key else ""
    unused = file.unused([above + place for place in fit.names.values()])
    findings = list(fit.findings)
    if unused:
        findings.append(not_used(unused))
    if left_out := file.left_out():
        findings.append(left_out)
    return tuple(findings)


def _guess_input(network: nn.Module) -> TensorSpec:
    """The most likely first argument of `forward`, from the first Embedding or recurrent module inside."""
    recurrent = next((child for child in network.modules() if isinstance(child, RECURRENT_MODULES)), None)
    axes = ("seq", "batch") if isinstance(recurrent, nn.RNNBase) and not recurrent.batch_first else ("batch", "seq")
    for child in network.modules():
        if isinstance(child, nn.Embedding):
            return TensorSpec(name="x", dtype="int64", shape=axes)
        if isinstance(child, RECURRENT_MODULES):
            return TensorSpec(name="x", dtype="float32", shape=(*axes, child.input_size))
    return TensorSpec(name="x", dtype="float32", shape=("batch", "seq", 1))


def _with_vocabulary(spec: TensorSpec, module: nn.Module) -> TensorSpec:
    """Limit tokens to the size of the smallest embedding."""
    sizes = [child.num_embeddings for child in module.modules() if isinstance(child, nn.Embedding)]
    if not spec.dtype.startswith("int") or spec.is_lengths or spec.high is not None or not sizes:
        return spec
    return replace(spec, low=(0,), high=(min(sizes) - 1,))


def _inputs(spec: CheckpointSpec) -> tuple[TensorSpec, ...]:
    x = TensorSpec(name="x", dtype="int64", shape=("batch", "seq"), low=spec.low, high=spec.high)
    if isinstance(spec.task, Forecast):
        x = replace(x, dtype="float32", shape=("batch", "seq", len(spec.task.features)))
    lengths = TensorSpec(name="lengths", dtype="int64", shape=("batch",), is_lengths=True)
    return (x, lengths) if isinstance(spec.task, Classify) else (x,)


def _summary(lifted: Lifted) -> str:
    recurrent = ", ".join(
        spec.cell.describe(spec.input_size, spec.hidden_size, spec.num_layers) for spec in lifted.signature.recurrent
    )
    if isinstance(lifted.module, Inferred):
        return f"{recurrent}, inferred from the weights"
    return f"{type(lifted.module).__name__} with {recurrent}"
