"""From what a user points at to a lifted module: checkpoints of ours and of others, weights alone, live modules."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from torch import nn

from lstm_deploy.artifacts import Bundle, Source, sha256
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
from lstm_deploy.errors import InputError, one_line, user_line
from lstm_deploy.lifting.calling import RECURRENT_MODULES
from lstm_deploy.lifting.lifting import lift
from lstm_deploy.lifting.recognition import recognize
from lstm_deploy.lifting.recurrent import Lifted
from lstm_deploy.lifting.weight_files import extra_files, read_module, read_weights
from lstm_deploy.training import NETWORK_FILE, InferredConfig, Network, Spec, build, is_ours, read_spec


class Origin(Struct, frozen=True, kw_only=True):
    """All that says which network a file of weights belongs to."""

    path: Path
    model: str | None = None
    """`FILE.py:Class` or `package.module:Class`."""
    init: Mapping[str, Any] = {}
    """Arguments of the class."""
    weights_key: str | None = None
    inputs: tuple[TensorSpec, ...] = ()
    trust_pickle: bool = False
    task: Task | None = None
    """What the network was made to do; a checkpoint of ours says it itself."""
    state_policy: StatePolicy | None = None
    """`reset` unless given; a checkpoint of ours says it itself."""


def origin_to_json(origin: Origin) -> str:
    """For another process."""
    return msgspec.json.encode(origin, enc_hook=str).decode()


def origin_from_json(text: str) -> Origin:
    """What `origin_to_json` wrote."""
    return msgspec.json.decode(text, type=Origin, dec_hook=lambda kind, value: kind(value))


class Loaded(Struct, frozen=True, kw_only=True):
    """A lifted module and where it came from."""

    lifted: Lifted
    source: Source
    training: dict[str, Any] | None = None
    findings: tuple[str, ...] = ()
    """What was inferred, one sentence each."""


def load(origin: Origin, state_layout: StateLayout = "layers-first") -> Loaded:
    """Lift the network that a file belongs to; raises `InputError` if it cannot be told which one that is."""
    path = origin.path
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file; check the path.")
    ours = origin.model is None and path.suffix == ".safetensors" and is_ours(path)
    extra = {} if ours or origin.trust_pickle else extra_files(path)
    if (ours or (CONTRACT_FILE in extra and origin.model is None)) and (origin.task or origin.state_policy):
        raise InputError(f"{path} says itself what it is for; leave out --task and --state-policy.")
    if ours:
        return _load_checkpoint(path, state_layout)
    if CONTRACT_FILE in extra and origin.model is None:
        return _load_archive(path, extra, state_layout)
    findings: tuple[str, ...] = ()
    inputs = origin.inputs
    if CONTRACT_FILE in extra and not inputs:
        inputs = Signature.from_json(extra[CONTRACT_FILE]).inputs
    recognized = origin.model is None and not origin.trust_pickle
    if origin.trust_pickle:
        home = vars(_import(origin.model.rpartition(":")[0])) if origin.model else None
        network = read_module(path, home)
    elif origin.model is not None:
        network, findings = _instantiate(origin)
    else:
        unused: list[str] = []
        found = recognize(read_weights(path, origin.weights_key, unused), inputs)
        network, inputs, findings = found.network, found.inputs, found.findings
        if unused:
            findings = (*findings, f"{', '.join(unused[:8])} of the file are not used")
    if not inputs:
        inputs = (guess_input(network),)
        findings = (*findings, f"the input is taken to be {inputs[0]}; say otherwise with --input")
    loaded = load_module(network, inputs, state_layout, origin.task, origin.state_policy)
    source = Source(
        kind="weights" if recognized else "module", path=str(path), sha256=sha256(path), summary=loaded.source.summary
    )
    return Loaded(lifted=loaded.lifted, source=source, findings=(*findings, *loaded.findings))


def load_source_of(bundle: Bundle) -> Loaded | None:
    """What a bundle was exported from, if `Bundle.source_path` is there."""
    path = bundle.source_path
    if path is None:
        return None
    key = bundle.manifest.options.get("weights_key")
    origin = Origin(path=path, weights_key=key, inputs=bundle.signature.inputs)
    return load(origin, bundle.signature.state_layout)


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
    if not isinstance(task, Task | None):
        raise InputError(f"{task!r} is no task; give lstm_deploy.Forecast(…), LanguageModel(…) or Classify(…).")
    if state_policy not in (None, *get_args(StatePolicy)):
        raise InputError(f"{state_policy!r} is no state policy; use {' or '.join(get_args(StatePolicy))}.")
    specs = [_with_vocabulary(spec, module) for spec in inputs]
    lifted = lift(module, specs, task=task, state_policy=state_policy or "reset", state_layout=state_layout)
    if task is not None:
        layout_of(lifted.signature)
    findings = tuple(f"{dim.name} is {dim.size}: {dim.reason}" for dim in lifted.signature.fixed) + lifted.notes
    if lifted.signature.least_seq > 1:
        findings = (*findings, f"a call takes {lifted.signature.least_seq} steps or more: the module runs on no fewer")
    return Loaded(lifted=lifted, source=Source(kind="module", summary=_summary(lifted)), findings=findings)


def guess_input(network: nn.Module) -> TensorSpec:
    """What the first argument of `forward` most likely is, from the first Embedding or LSTM inside."""
    for child in network.modules():
        if isinstance(child, nn.Embedding):
            return TensorSpec(name="x", dtype="int64", shape=("batch", "seq"))
        if isinstance(child, nn.LSTM) and not child.batch_first:
            return TensorSpec(name="x", dtype="float32", shape=("seq", "batch", child.input_size))
        if isinstance(child, RECURRENT_MODULES):
            return TensorSpec(name="x", dtype="float32", shape=("batch", "seq", child.input_size))
    return TensorSpec(name="x", dtype="float32", shape=("batch", "seq", 1))


def _load_checkpoint(path: Path, state_layout: StateLayout) -> Loaded:
    spec = read_spec(path)
    network = build(spec.network, {name: value.numpy() for name, value in read_weights(path).items()})
    lifted = lift(network, _inputs(spec), task=spec.task, state_policy=spec.state_policy, state_layout=state_layout)
    source = Source(kind="checkpoint", path=str(path), sha256=sha256(path), summary=_summary(lifted))
    return Loaded(lifted=lifted, source=source, training=spec.training)


def _load_archive(path: Path, extra: Mapping[str, bytes], state_layout: StateLayout) -> Loaded:
    """The network of a TorchScript archive of ours, from weights, contract and `Network`; its code is not run."""
    if NETWORK_FILE not in extra:
        raise InputError(
            f"{path} was exported from a class of its author, whose code is not in it; name that class with --model "
            "FILE.py:Class (and its arguments with --init)."
        )
    contract = Signature.from_json(extra[CONTRACT_FILE])
    config = decode_json(extra[NETWORK_FILE], Network, f"The network in {path}").network
    weights = read_weights(path)
    if isinstance(config, InferredConfig):
        network = recognize(weights, contract.inputs).network
    else:
        network = build(config, {name: value.numpy() for name, value in weights.items()})
    lifted = lift(
        network, contract.inputs, task=contract.task, state_policy=contract.state_policy, state_layout=state_layout
    )
    found = lifted.signature
    if (found.inputs, found.outputs, found.recurrent) != (contract.inputs, contract.outputs, contract.recurrent):
        raise InputError(f"The contract of {path} is not that of the network in it; export its source again.")
    source = Source(kind="checkpoint", path=str(path), sha256=sha256(path), summary=_summary(lifted))
    return Loaded(lifted=lifted, source=source)


def _instantiate(origin: Origin) -> tuple[nn.Module, tuple[str, ...]]:
    """An instance of the user's class with the weights of the file in it, and what was left out."""
    assert origin.model is not None
    home, _, name = origin.model.rpartition(":")
    if not home or not name:
        raise InputError(f"--model {origin.model!r} names no class; write FILE.py:Class or package.module:Class.")
    namespace = _import(home)
    made = getattr(namespace, name, None)
    if not callable(made):
        there = sorted(
            key for key, value in vars(namespace).items() if isinstance(value, type) and issubclass(value, nn.Module)
        )
        raise InputError(f"{home} has no class {name!r}; it has {', '.join(there) or 'no modules'}.")
    try:
        network = made(**origin.init)
    except Exception as error:  # whatever the user's constructor raises
        raise InputError(
            f"{name} cannot be made ({one_line(error)}{user_line(error)}); give its arguments with --init JSON."
        ) from error
    if not isinstance(network, nn.Module):
        raise InputError(f"{origin.model} makes a {type(network).__name__}, not a torch.nn.Module; name its class.")
    weights = read_weights(origin.path, origin.weights_key)
    own = set(network.state_dict())
    # A class that wraps the network that was saved has one more name before each of its weights.
    wrappers = ("", *sorted({f"{key.split('.')[0]}." for key in own}))
    prefix = next((prefix for prefix in wrappers if own <= {prefix + key for key in weights}), "")
    try:
        fit = network.load_state_dict({prefix + key: value for key, value in weights.items()}, strict=False)
    except RuntimeError as error:
        raise InputError(
            f"The weights of {origin.path} do not fit {name} ({one_line(error)}); check --init and --weights-key."
        ) from error
    if fit.missing_keys:
        raise InputError(
            f"The weights of {origin.path} do not fit {name}: {fit.missing_keys[0]} is missing; "
            "check --init and --weights-key."
        )
    unused = ", ".join(fit.unexpected_keys[:5])
    return network, (f"{unused} of the file belong to no part of {name} and are left out",) if unused else ()


def _import(home: str) -> Any:
    """A module by file or by dotted name. This runs the user's own code, as importing does."""
    try:
        if not home.endswith(".py"):
            sys.path.insert(0, str(Path.cwd()))
            try:
                return importlib.import_module(home)
            finally:
                sys.path.pop(0)
        path = Path(home)
        if not path.is_file():
            raise InputError(f"{path} does not exist; check --model.")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module  # so that pickles and dataclasses in it find themselves
        sys.path.insert(0, str(path.parent.resolve()))  # its siblings, as when it is run
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.pop(0)
        return module
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's file does when it is imported
        raise InputError(f"{home} cannot be imported ({one_line(error)}{user_line(error)}); check --model.") from error


def _with_vocabulary(spec: TensorSpec, module: nn.Module) -> TensorSpec:
    """Tokens go up to the end of the smallest embedding."""
    sizes = [child.num_embeddings for child in module.modules() if isinstance(child, nn.Embedding)]
    if not spec.dtype.startswith("int") or spec.is_lengths or spec.high is not None or not sizes:
        return spec
    return replace(spec, low=(0,), high=(min(sizes) - 1,))


def _inputs(spec: Spec) -> tuple[TensorSpec, ...]:
    if isinstance(spec.task, Forecast):
        shape: tuple[int | str, ...] = ("batch", "seq", len(spec.task.features))
        return (TensorSpec(name="x", dtype="float32", shape=shape, low=spec.low, high=spec.high),)
    x = TensorSpec(name="x", dtype="int64", shape=("batch", "seq"), low=spec.low, high=spec.high)
    if isinstance(spec.task, Classify):
        return (x, TensorSpec(name="lengths", dtype="int64", shape=("batch",), is_lengths=True))
    return (x,)


def _summary(lifted: Lifted) -> str:
    recurrent = ", ".join(
        f"LSTM({spec.input_size}, {spec.hidden_size}, {spec.num_layers} layers)" for spec in lifted.signature.recurrent
    )
    return f"{type(lifted.module).__name__} with {recurrent}"
