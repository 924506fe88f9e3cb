"""The interface of a task to the training loop: a network, batches of data, a loss and an evaluation."""

import hashlib
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from msgspec.structs import asdict
from torch import Tensor

from lstm_deploy.contract import StatePolicy, Task
from lstm_deploy.training.batches import Batch, Batches, Shard
from lstm_deploy.training.checkpoint import NetworkConfig
from lstm_deploy.training.data.splits import Part
from lstm_deploy.training.evaluation import Evaluation
from lstm_deploy.training.network import Network, State
from lstm_deploy.training.recipe import Recipe


class LearningTask(ABC):
    """A network to train for a task, and the data to train it on; one subclass per kind of task."""

    network: Network
    task: Task
    state_policy: StatePolicy = "reset"
    """`carry`: each batch starts from the state in which the one before ended."""
    low: tuple[float, ...] = (0,)
    """Smallest input in the data to fit, per feature; 0 for tokens."""
    high: tuple[float, ...]
    data_digest: str
    """Identifies the data: a run can be resumed with the same data only."""
    remarks: tuple[str, ...] = ()
    """Notes for the user about the data, one sentence each."""

    @abstractmethod
    def batches(self, part: Part, shard: Shard) -> Batches:
        """The batches of one part of the data; those to fit are shuffled."""

    @abstractmethod
    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The mean loss over examples."""

    @abstractmethod
    def evaluate(self) -> Evaluation:
        """Measure the network on the held-out part; called in evaluation mode, without gradients."""

    def run_batch(self, batch: Batch, state: State | None) -> tuple[Tensor, State | None]:
        """The loss of a batch, and the state for the next one."""
        output, state = self.network(*batch.inputs, state=state)
        return self.loss(output, batch.targets), _detached(state) if self.state_policy == "carry" else None


def _detached(state: State) -> State:
    return state.detach() if isinstance(state, Tensor) else tuple(part.detach() for part in state)


class WeightedMean:
    """The sum of values times their weights, and that of the weights."""

    total: float = 0.0
    weight: float = 0.0

    def add(self, value: float, weight: float) -> None:
        self.total += value * weight
        self.weight += weight


def new_network(recipe: Recipe, **fields: Any) -> Network:
    """An untrained network with the recipe's values for its `NetworkConfig`, except for `fields`."""
    shared = {name: value for name, value in asdict(recipe).items() if name in NetworkConfig.__struct_fields__}
    shared["window_norm"] = recipe.window if recipe.window_norm else 0
    return Network(NetworkConfig(**{**shared, **fields}))


def new_token_network(recipe: Recipe, tokens: int, outputs: int, embedding_size: int) -> Network:
    """An untrained network over tokens, which enter as vectors of `embedding_size`, or one-hot if it is 0."""
    kind = "embedding" if embedding_size else "one-hot"
    return new_network(recipe, input=kind, input_size=tokens, output_size=outputs, embedding_size=embedding_size)


def digest(*parts: object) -> str:
    """SHA-256 over arrays, by their bytes, and other values, by their `repr`."""
    total = hashlib.sha256()
    for part in parts:
        total.update(np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return total.hexdigest()
