"""What a training is given: a network, batches to learn from, and a way to judge the result."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from msgspec import Struct
from torch import Tensor
from torch.utils.data import DataLoader

from lstm_deploy.contract import StatePolicy, Task
from lstm_deploy.training.batches import Batch, Place
from lstm_deploy.training.checkpoint import NetworkConfig
from lstm_deploy.training.evaluation import Evaluation
from lstm_deploy.training.network import Network
from lstm_deploy.training.recipe import Recipe

Batches = Callable[[Place], "DataLoader[Batch]"]


def fingerprint(*parts: object) -> str:
    """What tells one training's data from another's: arrays by their bytes, all else by how Python writes it."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return digest.hexdigest()


LIKE_THE_RECIPE = (
    "hidden_size",
    "num_layers",
    "bidirectional",
    "proj_size",
    "layer_norm",
    "pooling",
    "dropout",
    "head_size",
    "residual",
)
"""What a network has in common with its recipe, under the same names."""


def network_of(recipe: Recipe, **of_its_data: Any) -> Network:
    """A fresh network of a recipe; its data decide the other fields of its `NetworkConfig`."""
    return Network(NetworkConfig(**{name: getattr(recipe, name) for name in LIKE_THE_RECIPE}, **of_its_data))


def tokens_enter(tokens: int, embedding_size: int) -> dict[str, Any]:
    """The fields of a `NetworkConfig` that say how tokens enter: as vectors of that width, one-hot where it is 0."""
    kind = "embedding" if embedding_size else "one-hot"
    return {"input": kind, "input_size": tokens, "embedding_size": embedding_size}


class Lesson(Struct, frozen=True, kw_only=True):
    """What is learned, and from what."""

    network: Network
    loss: Callable[[Tensor, Tensor], Tensor]
    """Of outputs and what is wanted: the mean over examples."""
    train: Batches
    validate: Batches | None
    carry: bool = False
    """Whether each batch starts from the state that the one before left."""
    data: str
    """Which data it is: a training on other data cannot be resumed."""


class Problem(Struct, frozen=True, kw_only=True):
    """A lesson, with what a checkpoint says of it besides its weights."""

    lesson: Lesson
    task: Task
    state_policy: StatePolicy
    low: tuple[float, ...]
    """Smallest input of the training part, per feature; 0 for tokens."""
    high: tuple[float, ...]
    evaluate: Callable[[], Evaluation]
    """Judge the network as it is then, on the part that was held out."""
    remarks: tuple[str, ...] = ()
    """What the user should know of the data, one sentence each."""
