"""Training data in batches, and the part of each batch that one of several processes gets."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lstm_deploy.training.data.splits import parallel_streams

BATCHES_PER_BUCKET = 32
"""Batches whose examples are sorted by length together."""


class Batch(NamedTuple):
    """The arguments of a network, and the targets for its output."""

    inputs: tuple[Tensor, ...]
    """`x`, and `lengths` where rows are padded."""
    targets: Tensor
    weight: float = 1.0
    """This process's number of examples, relative to an equal share of the whole batch."""


class Shard(NamedTuple):
    """One of several processes that share each batch."""

    rank: int = 0
    processes: int = 1

    def part_of(self, batch: Tensor) -> tuple[Tensor, float]:
        """The examples of a batch for this process, and their weight.

        The mean over processes of weight × mean over the part is the mean over the batch. A process for which no
        example is left gets one with weight 0, since all processes must take part in each step.
        """
        part = batch[self.rank :: self.processes]
        return (part, len(part) * self.processes / len(batch)) if len(part) else (batch[:1], 0.0)


WHOLE = Shard()
Batches = DataLoader[Batch]
Indices = tuple[Tensor, float]
"""Numbers of the examples in a batch, and the weight of the batch."""


class ShardedBatchSampler(Sampler[Indices]):
    """The examples of each batch, in order or shuffled anew in each epoch."""

    examples: int
    batch_size: int
    shard: Shard
    seed: int | None
    lengths: Tensor | None
    epoch: int

    def __init__(
        self,
        examples: int,
        batch_size: int,
        shard: Shard = WHOLE,
        *,
        seed: int | None = None,
        lengths: Tensor | None = None,
        minimum: int = 1,
    ) -> None:
        """`seed` shuffles; with `lengths`, examples of similar length share a batch.

        A last batch in which a process would get fewer than `minimum` examples is dropped, unless it is the only one.
        """
        self.examples, self.batch_size, self.shard = examples, batch_size * shard.processes, shard
        self.seed, self.lengths, self.epoch = seed, lengths, 0
        rest = examples % self.batch_size
        self.dropped: int = rest if minimum > 1 and rest < minimum * shard.processes and rest < examples else 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, also when a run is resumed."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil((self.examples - self.dropped) / self.batch_size)

    def __iter__(self) -> Iterator[Indices]:
        for batch in self._batches()[: len(self)]:  # drawn at the first step: on a resumed run `set_epoch` comes late
            yield self.shard.part_of(batch)

    def _batches(self) -> Sequence[Tensor]:
        size = self.batch_size
        if self.seed is None:
            return torch.split(torch.arange(self.examples), size)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.examples, generator=generator)
        if self.lengths is None:
            return torch.split(order, size)
        buckets = torch.split(order, size * BATCHES_PER_BUCKET)
        order = torch.cat([bucket[self.lengths[bucket].argsort(stable=True)] for bucket in buckets])
        batches = torch.split(order, size)
        return [batches[index] for index in torch.randperm(len(batches), generator=generator)]


class Windows(Dataset[Batch]):
    """Windows of a series or a text, with the values or tokens that follow."""

    rows: Tensor
    columns: Sequence[int] | None
    stride: int
    last: bool
    window: Tensor
    horizon: Tensor

    def __init__(
        self,
        rows: Tensor,
        window: int,
        *,
        columns: Sequence[int] | None = None,
        horizon: int = 1,
        stride: int = 1,
        last: bool = False,
    ) -> None:
        """`rows` are values `[rows, features]`, of which `columns` are predicted, or tokens `[rows]`.

        The targets of a step are `[horizon * columns]` values, or a token; with `last`, only the last step has any.
        """
        self.rows, self.columns, self.stride, self.last = rows, columns, stride, last
        self.window, self.horizon = torch.arange(window), torch.arange(1, horizon + 1)

    def __len__(self) -> int:
        starts = len(self.rows) - len(self.window) - len(self.horizon) + 1
        return max(0, math.ceil(starts / self.stride))

    def __getitem__(self, indices: Indices) -> Batch:
        numbers, weight = indices
        rows = numbers[:, None] * self.stride + self.window
        ends = rows[:, -1] if self.last else rows
        if self.columns is None:
            return Batch((self.rows[rows],), self.rows[ends + 1], weight)
        targets = self.rows[ends[..., None] + self.horizon][..., list(self.columns)]
        return Batch((self.rows[rows],), targets.flatten(-2), weight)


class TokenStreams(Dataset[Batch]):
    """A text cut into equal streams that are read side by side; an item is the next `steps` tokens of each."""

    weight: float
    x: Tensor
    y: Tensor
    steps: int

    def __init__(self, tokens: Tensor, streams: int, steps: int, shard: Shard = WHOLE) -> None:
        x, y = map(torch.from_numpy, parallel_streams(tokens.numpy(), streams * shard.processes, steps))
        own, self.weight = shard.part_of(torch.arange(len(x)))
        self.x, self.y, self.steps = x[own], y[own], steps

    def __len__(self) -> int:
        return math.ceil(self.x.shape[1] / self.steps)

    def __getitem__(self, item: int) -> Batch:
        if item >= len(self):
            raise IndexError(item)
        part = slice(item * self.steps, (item + 1) * self.steps)
        return Batch((self.x[:, part],), self.y[:, part], self.weight)


class PaddedSequences(Dataset[Batch]):
    """Token sequences of different lengths, padded with 0, and the class of each."""

    sequences: Sequence[Tensor]
    classes: Tensor

    def __init__(self, sequences: Sequence[Tensor], classes: Tensor) -> None:
        self.sequences, self.classes = sequences, classes
        self.lengths: Tensor = torch.tensor([len(sequence) for sequence in sequences])

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, indices: Indices) -> Batch:
        numbers, weight = indices
        sequences = [self.sequences[number] for number in numbers.tolist()]
        x = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        return Batch((x, self.lengths[numbers]), self.classes[numbers], weight)


def make_loader(examples: Windows | PaddedSequences, batch_size: int, shard: Shard = WHOLE, **order: Any) -> Batches:
    """The batches of a `ShardedBatchSampler`, each of which is gathered at once, far faster than row by row."""
    return DataLoader(examples, sampler=ShardedBatchSampler(len(examples), batch_size, shard, **order), batch_size=None)
