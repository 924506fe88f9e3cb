"""The folder that a training run writes: its files, its log, and which process writes them. No PyTorch."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict

from lstm_deploy.artifacts import replacing

LAST_STATE = "last.ckpt"
"""Everything that a run needs to continue."""
BEST = "best.safetensors"
"""The best checkpoint so far, without metrics."""
LOG = "log.csv"
"""One row per epoch."""
SEARCH_LOG = "search.log"
"""All trials of a hyper-parameter search, so that it can continue."""


class Epoch(Struct, frozen=True, kw_only=True):
    """One row of the log."""

    epoch: int
    step: int
    train_loss: float
    validation_loss: float | None
    learning_rate: float
    """At the end of the epoch."""
    seconds: float


def write_log(path: Path, history: Sequence[Epoch]) -> None:
    """Write the log as CSV."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, Epoch.__struct_fields__)
        writer.writeheader()
        writer.writerows(asdict(epoch) for epoch in history)


def is_rank_zero() -> bool:
    """Whether this is the first process, not a further one started by Lightning or a cluster."""
    ranks = ("LOCAL_RANK", "RANK", "NODE_RANK", "SLURM_PROCID")
    return not any(os.environ.get(name, "0").strip("0") for name in ranks)
