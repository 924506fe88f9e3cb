"""`run --stream`: each line, or raw frame, of one pipe is answered at once by a line, or frame, of another.

The model decides what a line holds: numbers for one step of a series, a text to continue, a text to classify.
"""

import json
import math
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from lstm_deploy.cli import predictions
from lstm_deploy.cli.predictions import Where
from lstm_deploy.contract import Array, Classify, Forecast, LanguageModel, Outputs, sizes_of
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes import Model, check_streamable

BOM = b"\xef\xbb\xbf"
"""Some editors begin a text with it."""
FRAME = np.dtype("<f4")
"""Of raw frames: float32, little-endian."""
SEPARATORS = b",;\t"
"""Between the numbers of a line; white space, where none of these is in the first line."""


class Steps(NamedTuple):
    """A model called for one step after the other on one row, with what it takes and gives as flat numbers."""

    inputs: dict[str, int]
    """How many numbers of each input a step takes, in this order."""
    dtypes: tuple[np.dtype[Any], ...]
    """Of each input."""
    call: Callable[[list[Array]], Outputs]
    """The outputs for the numbers of each input; the state is carried from call to call."""

    @property
    def numbers(self) -> int:
        """How many numbers a step takes in all."""
        return sum(self.inputs.values())

    def answer(self, row: Array, where: str) -> Outputs:
        """One step; `where` is what an error tells of the row."""
        parts = np.split(row, np.cumsum([*self.inputs.values()])[:-1])
        converted = [part.astype(dtype, copy=False) for part, dtype in zip(parts, self.dtypes, strict=True)]
        for part, values in zip(parts, converted, strict=True):
            if values.dtype.kind == "i" and not np.array_equal(values, part):
                raise InputError(f"{where} holds {part.tolist()} and the model takes tokens; give whole numbers.")
        try:
            return self.call(converted)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error


def steps_of(model: Model, where: Where) -> Steps:
    """Steps as the model's policy has them: it carries the state, or sees the latest window at each step.

    The answer is that of the model's task; without one, all that it gives. Raises `InputError` for a model that cannot
    be streamed.
    """
    signature = model.signature
    task = signature.task
    if task is None and len(signature.inputs) + len(signature.outputs) > 2:
        return _whole_calls(model, where)
    windows = isinstance(task, Forecast) and signature.state_policy == "reset"
    stream = model.stream(**where, window=task.window if windows else None)  # type: ignore[union-attr]
    x, y = signature.inputs[0].name, signature.outputs[0].name

    def call(parts: list[Array]) -> Outputs:
        return {y: stream.step(parts[0].reshape(stream.row_shape)).reshape(-1)}

    return Steps({x: math.prod(stream.row_shape)}, (np.dtype(stream.row_dtype),), call)


def _whole_calls(model: Model, where: Where) -> Steps:
    """Steps of a model with several inputs or outputs, which streams do not have; lengths are the one step."""
    signature = model.runtime(**where).signature
    check_streamable(signature)
    sizes = signature.clamp(sizes_of(signature.inputs, 1, 1))
    shapes = {spec.name: spec.sized(sizes) for spec in signature.inputs}
    fed = [spec for spec in signature.inputs if not spec.is_lengths]
    lengths = {spec.name: np.ones(shapes[spec.name], spec.dtype) for spec in signature.inputs if spec.is_lengths}
    state = signature.initial_state(sizes["batch"])

    def call(parts: list[Array]) -> Outputs:
        feeds = {spec.name: part.reshape(shapes[spec.name]) for spec, part in zip(fed, parts, strict=True)}
        outputs = model.run({**feeds, **lengths, **state}, **where)
        state.update(signature.next_state(outputs))
        return {spec.name: outputs[spec.name].reshape(-1) for spec in signature.outputs}

    numbers = {spec.name: math.prod(shapes[spec.name]) for spec in fed}
    return Steps(numbers, tuple(np.dtype(spec.dtype) for spec in fed), call)


def pipe_frames(model: Model, source: BinaryIO, sink: BinaryIO, where: Where) -> None:
    """Raw float32 frames of one step each, until the end of `source`; several inputs or outputs follow each other.

    Raises `InputError` for a frame of another length or with NaN, and for a model of tokens.
    """
    steps = steps_of(model, where)
    if any(dtype != FRAME for dtype in steps.dtypes):
        raise InputError("Raw frames are of float32 and this model takes tokens; give lines.")
    size, number = steps.numbers * FRAME.itemsize, 1
    while frame := source.read(size):
        if len(frame) != size:
            raise InputError(f"Frame {number} has {len(frame)} bytes, not {size}; write whole frames of float32.")
        outputs = steps.answer(np.frombuffer(frame, FRAME), f"Frame {number}")
        sink.write(b"".join(y.astype(FRAME, copy=False).tobytes() for y in outputs.values()))
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

    The numbers of several inputs or outputs follow each other in the order of the contract; with `as_json` several
    outputs are an object, by their names.

    Raises `InputError` as `pipe_texts` does.
    """
    steps, task = steps_of(model, where), model.signature.task
    names = task.features if isinstance(task, Forecast) else ()
    order: Sequence[int] = range(steps.numbers)
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
            several = [f"{size} of {name}" for name, size in steps.inputs.items()] if len(steps.inputs) > 1 else []
            named = f", {','.join(names) or ', then '.join(several)}" if names or several else ""
            raise InputError(f"Line {number} has {len(cells)} cells, not {cells_in_line}; give one step a line{named}.")
        chosen = [cells[index] for index in order]
        if wrong := [cell.decode(errors="replace") for cell in chosen if not _is_number(cell)]:
            raise InputError(f"Line {number} has the cell {wrong[0]!r}, which is not a number; correct it.")
        with np.errstate(over="ignore"):  # what overflows is infinite, and refused as such
            row = np.array([float(cell) for cell in chosen], np.float32)
        sink.write(_written(steps.answer(row, f"Line {number}"), as_json))
        sink.flush()


def _order(columns: Sequence[str], names: Sequence[str]) -> list[int]:
    """Where in a line each of the model's features stands."""
    if not names:
        raise InputError(f"Line 1 is {','.join(columns)}, and the model has no names for its columns; leave it out.")
    if twice := [name for name in names if columns.count(name) > 1]:
        raise InputError(f"Line 1 names the column {twice[0]!r} twice; name each once.")
    if missing := [name for name in names if name not in columns]:
        raise InputError(f"Line 1 names no column {missing[0]!r}; the model needs {','.join(names)}.")
    return [columns.index(name) for name in names]


def _written(outputs: Outputs, as_json: bool) -> bytes:
    """A line of all numbers; as JSON a list of them, or, of several outputs, an object of lists."""
    if not as_json:
        numbers = [number for values in outputs.values() for number in values.tolist()]
        return (",".join(f"{number:.7g}" for number in numbers) + "\n").encode()
    lists = {
        name: [number if math.isfinite(number) else None for number in values.tolist()]
        for name, values in outputs.items()
    }
    return (json.dumps(lists if len(lists) > 1 else next(iter(lists.values()))) + "\n").encode()


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
        (text,) = predictions.generate(model, task, [line], where=where, **{**options, "seed": seed})
        return json.dumps({"prompt": line, "text": text}, ensure_ascii=False) if as_json else text

    return answer


def classification(model: Model, task: Classify, where: Where, *, as_json: bool) -> Callable[[str], str]:
    """The class of a line, and its probability."""

    def answer(line: str) -> str:
        found = predictions.classify(model, task, line, where)
        return json.dumps(found._asdict(), ensure_ascii=False) if as_json else str(found)

    return answer
