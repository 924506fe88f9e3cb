"""Training data as whole batches, and the part of each that one of several processes gets."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

WITHOUT_GRADIENT = 512
"""Examples of a batch that nothing is learned from: whatever its size, the result is the same."""
BUCKET = 32
"""Batches whose examples are sorted by length together."""


class Batch(NamedTuple):
    """What a network is called with, and what it should give."""

    inputs: tuple[Tensor, ...]
    """`x`, and `lengths` where rows are padded."""
    wanted: Tensor
    weight: float = 1.0
    """How many examples this process has of the batch of all processes, as a part of an equal share."""


class Place(NamedTuple):
    """Which of several processes this is."""

    rank: int = 0
    processes: int = 1

    def share(self, whole: Tensor) -> tuple[Tensor, float]:
        """The part of a batch of examples that falls to this process, and its weight.

        The mean over processes of weight × mean over the part is then the mean over the whole. A process for which
        nothing is left gets one example of weight 0, since all processes must take part in each step.
        """
        part = whole[self.rank :: self.processes]
        return (part, len(part) * self.processes / len(whole)) if len(part) else (whole[:1], 0.0)


Item = tuple[Tensor, float]


class Order(Sampler[Item]):
    """Numbers of examples, batch by batch: as they come, or shuffled anew in each epoch."""

    def __init__(
        self,
        examples: int,
        batch_size: int,
        place: Place = Place(),  # noqa: B008 - it is immutable
        *,
        seed: int | None = None,
        lengths: Tensor | None = None,
        least: int = 1,
    ) -> None:
        """`seed` shuffles; `lengths` of the examples puts those of like length into one batch.

        A last batch in which a process would get fewer than `least` examples is left out, if it is not the only one.
        """
        self.examples, self.batch_size, self.place = examples, batch_size * place.processes, place
        self.seed, self.lengths, self.epoch = seed, lengths, 0
        rest = examples % self.batch_size
        self.left_out = rest if least > 1 and rest < least * place.processes and rest < examples else 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning tells it before each epoch, also of one that is resumed."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil((self.examples - self.left_out) / self.batch_size)

    def __iter__(self) -> Iterator[Item]:
        for batch in self._batches()[: len(self)]:
            yield self.place.share(batch)

    def _batches(self) -> Sequence[Tensor]:
        size = self.batch_size
        if self.seed is None:
            return torch.split(torch.arange(self.examples), size)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.examples, generator=generator)
        if self.lengths is None:
            return torch.split(order, size)
        buckets = torch.split(order, size * BUCKET)
        order = torch.cat([bucket[self.lengths[bucket].argsort(stable=True)] for bucket in buckets])
        batches = torch.split(order, size)
        return [batches[index] for index in torch.randperm(len(batches), generator=generator)]


class Windows(Dataset[Batch]):
    """Windows of a series or a text, each with what follows its steps."""

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

        What is wanted after each step is `[horizon * columns]` values, or a token; with `last`, after the last only.
        """
        self.rows, self.columns, self.stride, self.last = rows, columns, stride, last
        self.window, self.horizon = torch.arange(window), torch.arange(1, horizon + 1)

    def __len__(self) -> int:
        starts = len(self.rows) - len(self.window) - len(self.horizon) + 1
        return max(0, math.ceil(starts / self.stride))

    def __getitem__(self, item: Item) -> Batch:
        numbers, weight = item
        rows = numbers[:, None] * self.stride + self.window
        ends = rows[:, -1] if self.last else rows
        if self.columns is None:
            return Batch((self.rows[rows],), self.rows[ends + 1], weight)
        wanted = self.rows[ends[..., None] + self.horizon][..., list(self.columns)]
        return Batch((self.rows[rows],), wanted.flatten(-2), weight)


class Streams(Dataset[Batch]):
    """A text cut into equal streams that are read side by side; an item is the next stretch of each."""

    def __init__(self, tokens: Tensor, streams: int, stretch: int, place: Place = Place()) -> None:  # noqa: B008
        streams = max(1, min(streams * place.processes, (len(tokens) - 1) // stretch))
        length = (len(tokens) - 1) // streams
        mine, self.weight = place.share(torch.arange(streams))
        self.x = tokens[: streams * length].view(streams, length)[mine]
        self.y = tokens[1 : streams * length + 1].view(streams, length)[mine]
        self.stretch = stretch

    def __len__(self) -> int:
        return math.ceil(self.x.shape[1] / self.stretch)

    def __getitem__(self, item: int) -> Batch:
        if item >= len(self):
            raise IndexError(item)
        part = slice(item * self.stretch, (item + 1) * self.stretch)
        return Batch((self.x[:, part],), self.y[:, part], self.weight)


class Padded(Dataset[Batch]):
    """Sequences of tokens of unequal length, each of one class; shorter ones are filled with 0."""

    def __init__(self, sequences: Sequence[Tensor], classes: Tensor) -> None:
        self.sequences, self.classes = sequences, classes
        self.lengths = torch.tensor([len(sequence) for sequence in sequences])

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, item: Item) -> Batch:
        numbers, weight = item
        chosen = [self.sequences[number] for number in numbers.tolist()]
        x = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True)
        return Batch((x, self.lengths[numbers]), self.classes[numbers], weight)


def loader(dataset: Dataset[Batch], order: Order | None = None) -> "DataLoader[Batch]":
    """Items are whole batches (gathered at once, far faster than row by row), so none is collated."""
    return DataLoader(dataset, sampler=order, batch_size=None)
