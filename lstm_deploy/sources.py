"""From what a user points at to a lifted module: checkpoints by path, and live modules."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from torch import nn

from lstm_deploy.bundle import Source
from lstm_deploy.checkpoint import Spec, read_spec, read_tensors
from lstm_deploy.errors import InputError
from lstm_deploy.files import sha256
from lstm_deploy.lifting import Lifted, lift
from lstm_deploy.models import build
from lstm_deploy.runtimes.torchrt import EagerRuntime
from lstm_deploy.signature import StateLayout, TensorSpec
from lstm_deploy.tasks import Forecast, LanguageModel


class Loaded(Struct, frozen=True, kw_only=True):
    """A lifted module and where it came from."""

    lifted: Lifted
    source: Source
    training: dict[str, Any] | None = None


def load_checkpoint(path: Path, state_layout: StateLayout = "layers-first") -> Loaded:
    """Lift the network of a checkpoint of ours; raises `InputError` if the file is not one."""
    spec = read_spec(path)
    tensors = read_tensors(path)
    for name, value in tensors.items():
        if not np.isfinite(value).all():
            raise InputError(f"The weight {name} in {path} is not a number or infinite; train again.")
    network = build(spec.network, tensors)
    lifted = lift(network, [_input(spec)], task=spec.task, state_policy=spec.state_policy, state_layout=state_layout)
    source = Source(kind="checkpoint", path=str(path), sha256=sha256(path), summary=_summary(lifted))
    return Loaded(lifted=lifted, source=source, training=spec.training)


def load_module(module: nn.Module, inputs: Sequence[TensorSpec], state_layout: StateLayout = "layers-first") -> Loaded:
    """Lift a live module; `inputs` are the arguments of its `forward`, in order."""
    lifted = lift(module, inputs, state_layout=state_layout)
    return Loaded(lifted=lifted, source=Source(kind="module", summary=_summary(lifted)))


def reference(lifted: Lifted) -> EagerRuntime:
    """The lifted module in float64, as that which artifacts are held against; it takes over `lifted`."""
    return EagerRuntime(lifted, dtype="float64")


def _input(spec: Spec) -> TensorSpec:
    match spec.task:
        case Forecast(features=features):
            shape: tuple[int | str, ...] = ("batch", "seq", len(features))
            return TensorSpec(name="x", dtype="float32", shape=shape, low=spec.low, high=spec.high)
        case LanguageModel():
            return TensorSpec(name="x", dtype="int64", shape=("batch", "seq"), low=spec.low, high=spec.high)


def _summary(lifted: Lifted) -> str:
    recurrent = ", ".join(
        f"LSTM({spec.input_size}, {spec.hidden_size}, {spec.num_layers} layers)" for spec in lifted.signature.recurrent
    )
    return f"{type(lifted.module).__name__} with {recurrent}"
