"""Our checkpoint: a `.safetensors` file whose metadata says which network the weights belong to.

Reading one needs no PyTorch and runs no code from the file.
"""

from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lstm_deploy.artifacts import atomic_write
from lstm_deploy.contract import Array, StatePolicy, Task, decode_json
from lstm_deploy.errors import InputError
from lstm_deploy.training.recipe import Pooling

SPEC_KEY = "lstm_deploy.spec"
NETWORK_FILE = "network.json"
"""Name of a `Network` among the extra files of a TorchScript archive of ours."""
SCHEMA_VERSION = 1
Input = Literal["values", "one-hot", "embedding"]


class NetworkConfig(Struct, frozen=True, kw_only=True, tag="lstm", tag_field="kind"):
    """What `models.Network` is made of, from input to output; what is 0, false or `none` is not there."""

    input: Input
    input_size: int
    """Features of one row, or tokens of the vocabulary."""
    embedding_size: int = 0
    """Width of the vector of each token, where `input` is `embedding`."""
    window_norm: int = 0
    """BatchNorm over the window: of each of so many steps, which a call must then have."""
    hidden_size: int
    num_layers: int = 1
    bidirectional: bool = False
    proj_size: int = 0
    layer_norm: bool = False
    """LayerNorm of what the LSTM gives at each step."""
    pooling: Pooling = "none"
    dropout: float = 0.0
    """Between layers of the LSTM, and before the head."""
    head_size: int = 0
    """Width of a layer with a ReLU before the last one."""
    output_size: int
    output_columns: tuple[int, ...] = ()
    """Forecasts only: for each output, the input column of which it is a later value."""
    residual: bool = False
    """Forecasts only: predict the change from the present value rather than the value."""


class InferredConfig(Struct, frozen=True, kw_only=True, tag="inferred", tag_field="kind"):
    """An LSTM, and before and after it what its weights tell: see `recognition`."""


class Spec(Struct, frozen=True, kw_only=True):
    """All that the weights alone do not tell."""

    schema_version: int = SCHEMA_VERSION
    network: NetworkConfig
    task: Task
    state_policy: StatePolicy
    training: dict[str, Any]
    """What the training reported: data, options, metrics on held-out data beside a baseline's."""
    low: tuple[float, ...]
    """Smallest input seen in training, per feature; 0 for tokens."""
    high: tuple[float, ...]


class Network(Struct, frozen=True, kw_only=True):
    """What an artifact with weights and a contract says besides, so that its network can be built again."""

    schema_version: int = SCHEMA_VERSION
    network: NetworkConfig | InferredConfig


def save(path: Path, tensors: dict[str, Array], spec: Spec) -> None:
    """Write a checkpoint, whole or not at all."""
    metadata = {SPEC_KEY: msgspec.json.encode(spec, order="sorted").decode()}
    with atomic_write(path) as file:
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, file, metadata)


def is_ours(path: Path) -> bool:
    """Whether a `.safetensors` file says that it is a checkpoint of ours."""
    try:
        with safe_open(path, framework="numpy") as file:
            return SPEC_KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def read_spec(path: Path) -> Spec:
    """The spec of a checkpoint; raises `InputError` if the file is not one of ours."""
    with _opened(path) as file:
        text = (file.metadata() or {}).get(SPEC_KEY)
    if text is None:
        raise InputError(
            f"{path} holds weights but does not say which network they belong to; "
            "export a checkpoint made by lstm-deploy train, or a live module with lstm_deploy.export."
        )
    return decode_json(text, Spec, f"The spec in {path}")


def read_tensors(path: Path) -> dict[str, Array]:
    """All tensors by name."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file; check the path.")
    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file ({error}); check the path.") from error
