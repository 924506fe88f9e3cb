"""Filters that all templates share; how a language writes a text is among `languages`."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from lstm_deploy.contract import comment_safe

LINE = 100
"""Characters of a line of values."""


def shapes(tensors: Sequence[dict[str, Any]]) -> str:
    """Names and shapes, for people."""
    return ", ".join(f"`{each['name']}` [{', '.join(map(str, each['dims']))}]" for each in tensors)


def names(texts: Sequence[str]) -> str:
    """Any texts as code in Markdown, on one line."""
    return ", ".join(f"`{comment_safe(text).replace('`', chr(39))}`" for text in texts)


def floats(values: Sequence[float]) -> str:
    """Numbers of float32 in C++."""
    return ", ".join(f"{float(np.float32(value)):.9e}f" for value in values)


def lines(literals: Iterable[str], indent: str, suffix: str = "") -> str:
    """Literals, with commas and a `suffix` of each, on lines of a usual length."""
    written: list[str] = []
    for literal in literals:
        item = f"{literal}{suffix},"
        if written and len(written[-1]) + len(item) + 1 <= LINE:
            written[-1] += f" {item}"
        else:
            written.append(f"{indent}{item}")
    return "\n".join(written)


FILTERS: dict[str, Callable[..., str]] = {"shapes": shapes, "names": names, "floats": floats, "lines": lines}
