"""How values are written in each language; a bundle may be a stranger's, so no text of it is code."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np


def python_literal(value: Any) -> str:
    """A text, number, or tuple of these in Python."""
    return repr(tuple(value) if isinstance(value, list) else value)


def js_literal(value: Any) -> str:
    """A value in JavaScript; safe in HTML too."""
    return json.dumps(value).replace("<", "\\u003c")


def c_literal(text: str) -> str:
    """A text in C or C++, as UTF-8."""
    return '"' + "".join(_c_byte(byte) for byte in text.encode("utf-8", "surrogatepass")) + '"'


def _c_byte(byte: int) -> str:
    letter = chr(byte)
    if letter in '"\\?':  # of ?, three are a trigraph
        return f"\\{letter}"
    return letter if 32 <= byte < 127 else f"\\{byte:03o}"


def shapes(tensors: Sequence[dict[str, Any]]) -> str:
    """Names and shapes, for people."""
    return ", ".join(f"`{each['name']}` [{', '.join(map(str, each['dims']))}]" for each in tensors)


def floats(values: Sequence[float]) -> str:
    """Numbers of float32 in C++."""
    return ", ".join(f"{float(np.float32(value)):.9e}f" for value in values)


FILTERS = {"py": python_literal, "js": js_literal, "c": c_literal, "shapes": shapes, "floats": floats}
