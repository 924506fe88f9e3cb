"""The text of a C artifact held against that which `export` writes, and its weights number by number."""

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np

from lstm_deploy.artifacts import c_weights
from lstm_deploy.validation.structure import MOST
from lstm_deploy.validation.tolerances import WEIGHT

_ABOUT = re.compile(r"\A/\*(?:(?!\*/).)*\*/\n(?:/\* [^*]* \*/\n)*", re.DOTALL)
"""The contract and who wrote the file, which other checks read."""
_NUMBERS = re.compile(r"( ALIGNED = \{\n)[^}]*(\};)")
_DIGEST = re.compile(r"[0-9a-f]{64}(?=\")")
"""Of the file with the weights."""


def c_differences(path: Path, right: Path) -> list[str]:
    """One sentence for each difference of the C file at `path`, and of its header, from those at `right`."""
    sentences = list(_array_differences(path, right))
    for suffix in (".c", ".h"):
        sentences += _line_differences(path.with_suffix(suffix), right.with_suffix(suffix))
    more = len(sentences) - MOST
    return sentences[:MOST] + ([f"{more} more lines or weights differ."] if more > 0 else [])


def _array_differences(path: Path, right: Path) -> Iterator[str]:
    arrays, expected = c_weights.arrays(path), c_weights.arrays(right)
    for name in sorted({*arrays, *expected}):
        value, wanted = arrays.get(name), expected.get(name)
        if value is None or wanted is None:
            yield f"The weights {name} are {'missing' if value is None else 'in no C that export writes'}."
        elif (value.shape, value.dtype) != (wanted.shape, wanted.dtype):
            yield f"The weights {name} are {value.dtype} {list(value.shape)}, not {wanted.dtype} {list(wanted.shape)}."
        else:
            exact = value.dtype.kind != "f" or value.size == 1
            slack = 0.0 if exact else WEIGHT.relative * float(np.abs(wanted).max(initial=0.0))
            wrong = ~np.isclose(value, wanted, rtol=0, atol=slack, equal_nan=True)
            if wrong.any():
                yield f"{np.count_nonzero(wrong)} of {wrong.size} numbers of {name} differ."


def _line_differences(path: Path, right: Path) -> Iterator[str]:
    lines, wanted = _lines(path), _lines(right)
    texts = [text for _, text in lines], [text for _, text in wanted]
    for tag, a, b, c, d in SequenceMatcher(None, *texts).get_opcodes():
        if tag == "equal":
            continue
        for number, text in lines[a:b]:
            yield f"Line {number} of {path.name} is {text!r}, which export does not write."
        if tag == "delete":
            continue
        missing = texts[1][c:d]
        yield f"Instead of that, export writes {missing[0]!r}." if a < b else f"The line {missing[0]!r} is missing."


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not empty, with their numbers, without weights and descriptions."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    blank = _ABOUT.sub(lambda match: "\n" * match[0].count("\n"), text)
    blank = _NUMBERS.sub(lambda match: match[1] + "\n" * (match[0].count("\n") - 1) + match[2], blank)
    blank = _DIGEST.sub("DIGEST", blank)
    return [(number, line.strip()) for number, line in enumerate(blank.splitlines(), 1) if line.strip()]
