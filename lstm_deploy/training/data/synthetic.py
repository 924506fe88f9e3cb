"""Generated series: with the noise known, so is the best error that a forecaster can reach. No PyTorch."""

import numpy as np

from lstm_deploy.training.data.series import Series
from lstm_deploy.training.recipe import Generator

ROWS: dict[Generator, int] = {"sine": 1000, "sines": 5000}


def generate(name: Generator, rows: int | None = None, seed: int = 0) -> Series:
    """A series of one column, `y`, with and without its noise (`Series.noiseless`).

    `sine`: sin x + N(0, 0.1²) at `rows` points from 0 to 20 π. `sines`: 3 sin t + cos 5 t + 6 + N(0, 1) at
    t = 0, 1, 2, …
    """
    rows = rows or ROWS[name]
    if name == "sine":
        noiseless, deviation = np.sin(np.linspace(0, 20 * np.pi, rows)), 0.1
    else:
        time = np.arange(rows)
        noiseless, deviation = 3 * np.sin(time) + np.cos(5 * time) + 6, 1.0
    values = noiseless + deviation * np.random.default_rng(seed).standard_normal(rows)
    labels = tuple(map(str, range(rows)))
    return Series(columns=("y",), values=values[:, None], noiseless=noiseless[:, None], labels=labels)
