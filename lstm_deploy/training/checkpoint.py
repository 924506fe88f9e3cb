"""Checkpoints: `.safetensors` files whose metadata describes the network, its task and its training.

Reading one needs no PyTorch and runs no code from the file.
"""

from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lstm_deploy.artifacts import atomic_write, require_file
from lstm_deploy.contract import Array, StatePolicy, Task, decode_json
from lstm_deploy.errors import InputError, one_line
from lstm_deploy.training.recipe import CellName, Pooling

SPEC_KEY = "lstm_deploy.spec"
NETWORK_FILE = "network.json"
"""The extra file of an exported TorchScript archive that holds a `NetworkDocument`."""
SCHEMA_VERSION = 1


class NetworkConfig(Struct, frozen=True, kw_only=True, tag="lstm", tag_field="kind"):
    """The parts of a `network.Network`, from input to output; a part that is 0, false or `none` is left out."""

    input: Literal["values", "one-hot", "embedding"]
    input_size: int
    """Features, or tokens in the vocabulary."""
    embedding_size: int = 0
    """Width of a token's vector, where `input` is `embedding`."""
    window_norm: int = 0
    """Steps of a BatchNorm over the window; every call then needs exactly this many."""
    cell: CellName = "lstm"
    hidden_size: int
    num_layers: int = 1
    bidirectional: bool = False
    proj_size: int = 0
    layer_norm: bool = False
    """LayerNorm of the recurrent layers' output at each step."""
    pooling: Pooling = "none"
    dropout: float = 0.0
    """Between the recurrent layers, and before the head."""
    head_size: int = 0
    """Width of a hidden layer with a ReLU before the output."""
    output_size: int
    output_columns: tuple[int, ...] = ()
    """Forecasts only: for each output, the input column that it predicts."""
    residual: bool = False
    """Forecasts only: predict the change from the present value instead of the value itself."""


class InferredConfig(Struct, frozen=True, kw_only=True, tag="inferred", tag_field="kind"):
    """A network that is reconstructed from the names and shapes of its weights: see `lifting.recognition`."""


class CheckpointSpec(Struct, frozen=True, kw_only=True):
    """The metadata of a checkpoint."""

    schema_version: int = SCHEMA_VERSION
    network: NetworkConfig
    task: Task
    state_policy: StatePolicy
    training: dict[str, Any]
    """Options, data, best epoch, and metrics on held-out data with those of a baseline."""
    low: tuple[float, ...]
    """Smallest input seen in training, per feature; 0 for tokens."""
    high: tuple[float, ...]


class NetworkDocument(Struct, frozen=True, kw_only=True):
    """`NETWORK_FILE`: lets the network be rebuilt from an artifact's weights and contract."""

    schema_version: int = SCHEMA_VERSION
    network: NetworkConfig | InferredConfig


def save(path: Path, tensors: dict[str, Array], spec: CheckpointSpec) -> None:
    """Write a checkpoint atomically."""
    metadata = {SPEC_KEY: msgspec.json.encode(spec, order="sorted").decode()}
    with atomic_write(path) as file:
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, file, metadata)


def is_checkpoint(path: Path) -> bool:
    """Whether a `.safetensors` file has the metadata of a checkpoint."""
    try:
        with safe_open(path, framework="numpy") as file:
            return SPEC_KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def read_spec(path: Path) -> CheckpointSpec:
    """Read the metadata; raises `InputError` if the file is not a checkpoint."""
    with _opened(path) as file:
        text = (file.metadata() or {}).get(SPEC_KEY)
    if text is None:
        raise InputError(
            f"{path} holds weights without a description of their network; "
            "give a checkpoint written by lstm-deploy train, or export a live module with lstm_deploy.export."
        )
    return decode_json(text, CheckpointSpec, f"The spec in {path}")


def read_tensors(path: Path) -> dict[str, Array]:
    """Read all tensors, by name."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


def _opened(path: Path) -> Any:
    require_file(path)
    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file ({one_line(error)}); check the path.") from error
