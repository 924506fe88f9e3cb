"""How values are written in each language; a bundle may be a stranger's, so no text of it is code."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

LINE = 100
"""Letters of a line of values."""
PLAIN = " !#$%&()*+,-./:;<=>?@[]^_`|~"
"""Signs of ASCII that mean nothing in a text of Rust; braces are no part, since formats read them."""


def python_literal(value: Any) -> str:
    """A text, number, or sequence of these in Python, as formatters write it."""
    if isinstance(value, list | tuple):
        inner = ", ".join(map(python_literal, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    written = repr(value)
    return f'"{written[1:-1]}"' if written[0] == "'" and '"' not in written else written


def js_literal(value: Any) -> str:
    """A value in JavaScript; safe in HTML too."""
    return json.dumps(value).replace("<", "\\u003c")


def c_literal(text: str) -> str:
    """A text in C or C++, as UTF-8."""
    return '"' + "".join(_c_byte(byte) for byte in text.encode("utf-8", "surrogatepass")) + '"'


def cpp_literal(text: str) -> str:
    """A `std::string` in C++, which may hold any byte."""
    return f"{c_literal(text)}s"


def go_literal(text: str) -> str:
    """A text in Go, as UTF-8: written as in C, but for a question mark."""
    return c_literal(text).replace("\\?", "?")


def rust_literal(text: str) -> str:
    """A text in Rust."""
    return (
        '"'
        + "".join(c if c.isalnum() and c.isascii() else f"\\u{{{ord(c):x}}}" if c not in PLAIN else c for c in text)
        + '"'
    )


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


def lines(written: Iterable[str], indent: str) -> str:
    """Values that were written already, with commas, on lines of a usual length."""
    found: list[str] = []
    for each in written:
        if found and len(found[-1]) + len(each) + 2 <= LINE:
            found[-1] += f" {each},"
        else:
            found.append(f"{indent}{each},")
    return "\n".join(found)


FILTERS = {
    "py": python_literal,
    "js": js_literal,
    "c": c_literal,
    "cpp": cpp_literal,
    "go": go_literal,
    "rust": rust_literal,
    "shapes": shapes,
    "floats": floats,
    "lines": lines,
}
