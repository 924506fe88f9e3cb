"""`run --stream`: each line, or raw frame, of one pipe is answered at once by a line, or frame, of another.

The model decides what a line holds: numbers for one step of a series, a text to continue, a text to classify.
"""

import json
import math
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, BinaryIO

import numpy as np

from lstm_deploy.cli import inference
from lstm_deploy.cli.inference import Where
from lstm_deploy.contract import Array, Classify, Forecast, LanguageModel
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes import Model, Stream

BOM = b"\xef\xbb\xbf"
"""Some editors begin a text with it."""
FRAME = np.dtype("<f4")
"""Of raw frames: float32, little-endian."""
SEPARATORS = b",;\t"
"""Between the numbers of a line; white space, where none of these is in the first line."""


def stream_of(model: Model, where: Where) -> Stream:
    """A stream that follows the model's policy: it carries the state, or sees the latest window at each step."""
    signature = model.signature
    task = signature.task
    windows = isinstance(task, Forecast) and signature.state_policy == "reset"
    return model.stream(**where, window=task.window if windows else None)  # type: ignore[union-attr]


def pipe_frames(model: Model, source: BinaryIO, sink: BinaryIO, where: Where) -> None:
    """Raw float32 frames of one step each, until the end of `source`.

    Raises `InputError` for a frame of another length or with NaN, and for a model of tokens.
    """
    stream = stream_of(model, where)
    if stream.row_dtype != FRAME:
        raise InputError("Raw frames are of float32 and this model takes tokens; give lines.")
    size, number = math.prod(stream.row_shape) * FRAME.itemsize, 1
    while frame := source.read(size):
        if len(frame) != size:
            raise InputError(f"Frame {number} has {len(frame)} bytes, not {size}; write whole frames of float32.")
        y = _step(stream, np.frombuffer(frame, FRAME), f"Frame {number}")
        sink.write(y.astype(FRAME, copy=False).tobytes())
        sink.flush()
        number += 1


def pipe_texts(answer: Callable[[str], str], source: BinaryIO, sink: BinaryIO) -> None:
    """Lines of text until the end of `source`, each with its answer on a line.

    Raises `InputError` for a line that the model cannot take, with its number; what was written before stays.
    """
    for number, line in enumerate(source, 1):
        try:
            text = _text(line, first=number == 1).rstrip("\r\n")
            result = answer(text) if text.strip() else ""
        except InputError as error:
            raise InputError(f"Line {number}: {error}") from error
        sink.write(f"{result}\n".encode())
        sink.flush()


def pipe_values(model: Model, source: BinaryIO, sink: BinaryIO, where: Where, *, as_json: bool = False) -> None:
    """Lines of numbers, one step each, until the end of `source`; the first may name the columns, in any order.

    Raises `InputError` as `pipe_texts` does.
    """
    stream, task = stream_of(model, where), model.signature.task
    names = task.features if isinstance(task, Forecast) else ()
    order: Sequence[int] = range(math.prod(stream.row_shape))
    separator, cells_in_line, first = None, len(order), True
    for number, encoded in enumerate(source, 1):
        line = encoded.removeprefix(BOM) if number == 1 else encoded
        if not line.strip():
            continue
        if first:
            separator = next((bytes([mark]) for mark in SEPARATORS if mark in line), None)
        cells = line.strip().split(separator)
        if first and not any(map(_is_number, cells)):
            columns = [_text(cell).strip().strip('"') for cell in cells]
            order, cells_in_line, first = _order(columns, names), len(columns), False
            if isinstance(task, Forecast) and not as_json:
                sink.write((",".join(task.output_names) + "\n").encode())
            continue
        first = False
        if len(cells) != cells_in_line:
            named = f", {','.join(names)}" if names else ""
            raise InputError(f"Line {number} has {len(cells)} cells, not {cells_in_line}; give one step a line{named}.")
        chosen = [cells[index] for index in order]
        if wrong := [cell.decode(errors="replace") for cell in chosen if not _is_number(cell)]:
            raise InputError(f"Line {number} has the cell {wrong[0]!r}, which is no number; correct it.")
        with np.errstate(over="ignore"):  # what overflows is infinite, and refused as such
            row = np.array([float(cell) for cell in chosen], np.float32)
        sink.write(_written(_step(stream, row, f"Line {number}"), as_json))
        sink.flush()


def _step(stream: Stream, row: Array, where: str) -> Array:
    """One step of a stream of one row: numbers in, numbers out."""
    x = row.reshape(stream.row_shape).astype(stream.row_dtype, copy=False)
    if x.dtype.kind == "i" and not np.array_equal(x.reshape(-1), row):
        raise InputError(f"{where} holds {row.tolist()} and the model takes tokens; give whole numbers.")
    try:
        return stream.step(x).reshape(-1)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _order(columns: Sequence[str], names: Sequence[str]) -> list[int]:
    """Where in a line each of the model's features stands."""
    if not names:
        raise InputError(f"Line 1 is {','.join(columns)}, and the model has no names for its columns; leave it out.")
    if twice := [name for name in names if columns.count(name) > 1]:
        raise InputError(f"Line 1 names the column {twice[0]!r} twice; name each once.")
    if missing := [name for name in names if name not in columns]:
        raise InputError(f"Line 1 names no column {missing[0]!r}; the model needs {','.join(names)}.")
    return [columns.index(name) for name in names]


def _written(values: Array, as_json: bool) -> bytes:
    if not as_json:
        return (",".join(f"{value:.7g}" for value in values.tolist()) + "\n").encode()
    numbers: list[Any] = [value if math.isfinite(value) else None for value in values.tolist()]
    return (json.dumps(numbers) + "\n").encode()


def _is_number(cell: bytes) -> bool:
    if b"_" in cell:
        return False  # Python would take 1_000 for a number
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _text(line: bytes, *, first: bool = False) -> str:
    try:
        return (line.removeprefix(BOM) if first else line).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"It is not UTF-8 text ({error.reason}); convert it first.") from error


def continuation(
    model: Model, task: LanguageModel, where: Where, *, as_json: bool, **options: Any
) -> Callable[[str], str]:
    """Continues a line; with `as_json` the line itself is part of the answer."""
    numbers = count()

    def answer(line: str) -> str:
        seed = [options["seed"], next(numbers)]  # or each line would be drawn from the same noise
        (text,) = inference.generate(model, task, [line], where=where, **{**options, "seed": seed})
        return json.dumps({"prompt": line, "text": text}, ensure_ascii=False) if as_json else text

    return answer


def classification(model: Model, task: Classify, where: Where, *, as_json: bool) -> Callable[[str], str]:
    """The class of a line, and its probability."""

    def answer(line: str) -> str:
        found = inference.classify(model, task, line, where)
        return json.dumps(found._asdict(), ensure_ascii=False) if as_json else str(found)

    return answer
