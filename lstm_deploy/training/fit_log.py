"""What a training writes while it runs: the names of its files, and its log. No PyTorch."""

import csv
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict

from lstm_deploy.artifacts import atomic_write

LAST, LOG = "last.ckpt", "log.csv"
"""Files of a training's folder: all that it needs to go on; a row for each epoch."""


class Epoch(Struct, frozen=True, kw_only=True):
    """What the log says of one epoch."""

    epoch: int
    step: int
    train_loss: float
    validation_loss: float | None
    learning_rate: float
    """At its end."""
    seconds: float


def write_log(path: Path, history: Sequence[Epoch]) -> None:
    """A CSV row for each epoch."""
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, Epoch.__struct_fields__)
        writer.writeheader()
        writer.writerows(asdict(epoch) for epoch in history)
