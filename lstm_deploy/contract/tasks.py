"""What a model was made to do: all that a program needs to prepare its inputs and to read its outputs."""

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Literal

from msgspec import Struct

from lstm_deploy.errors import InputError

BYTES = tuple(map(chr, range(256)))
"""The vocabulary of a byte-level model: the character of each code point stands for the byte of that number."""
_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|[^\w\s]|_")
Unit = Literal["word", "token", "character"]


class Forecast(Struct, frozen=True, kw_only=True, tag="forecast", tag_field="kind"):
    """Predict the next value of each target from the values of all features so far."""

    features: tuple[str, ...]
    """Names of the columns of `x`, in order."""
    targets: tuple[str, ...]
    """Names of the columns of `y`, in order; each is also a feature."""
    window: int
    """Steps that one prediction saw in training."""
    horizon: int = 1
    """Steps that one prediction covers: all targets of the next step first, then those of the step after it."""

    def __post_init__(self) -> None:
        """Raise `InputError` for invalid columns, windows and horizons."""
        _check_names("features", self.features)
        _check_names("targets", self.targets)
        for name, size, unit in (("window", self.window, "rows"), ("horizon", self.horizon, "steps")):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise InputError(f"A forecast cannot have a {name} of {size!r} {unit}; give 1 or more.")
        if unknown := [name for name in self.targets if name not in self.features]:
            raise InputError(f"The target {unknown[0]!r} is none of the features; add it there.")

    @property
    def feeds_itself(self) -> bool:
        """Whether a prediction has all that the next input needs."""
        return self.features == self.targets and self.horizon == 1

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the numbers in one row of `y`; those of later steps end with `+2`, `+3`, …"""
        steps = range(1, self.horizon + 1)
        return tuple(name if step == 1 else f"{name}+{step}" for step in steps for name in self.targets)


class LanguageModel(Struct, frozen=True, kw_only=True, tag="lm", tag_field="kind", dict=True):
    """Predict the next character: `y` holds one logit for each entry of the vocabulary."""

    vocabulary: tuple[str, ...]
    """The character of each token."""
    unit: Literal["character", "byte"] = "character"
    """What one token is; bytes of UTF-8 text stand in the vocabulary as the characters of those numbers."""

    def __post_init__(self) -> None:
        """Raise `InputError` for an invalid vocabulary."""
        _check_names("vocabulary", self.vocabulary)
        if self.unit == "byte" and self.vocabulary != BYTES:
            raise InputError("The vocabulary of a model of bytes is the 256 bytes in order; give tasks.BYTES.")

    @cached_property
    def index(self) -> dict[str, int]:
        """The token of each character; cached, as it is used for every line of a stream."""
        return {character: token for token, character in enumerate(self.vocabulary)}

    def encode(self, text: str) -> list[int]:
        """The tokens of a text; raises `InputError` for a character that the vocabulary lacks."""
        if self.unit == "byte":
            return list(text.encode("utf-8", "surrogateescape"))
        try:
            return [self.index[character] for character in text]
        except KeyError as error:
            characters = "".join(self.vocabulary)
            raise InputError(f"The model has never seen {error.args[0]!r}; use only {characters!r}.") from error

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; invalid UTF-8 in bytes becomes the replacement character."""
        if self.unit == "byte":
            return bytes(tokens).decode("utf-8", "replace")
        return "".join(self.vocabulary[token] for token in tokens)


class Classify(Struct, frozen=True, kw_only=True, tag="classify", tag_field="kind", dict=True):
    """Classify a text: `y` holds one logit for each label."""

    labels: tuple[str, ...]
    vocabulary: tuple[str, ...]
    """The word or character of each token."""
    unit: Unit = "word"
    """What a text is split into, by `split_text`."""
    unknown: int | None = None
    """The token for anything that the vocabulary lacks; None if such a text is refused."""

    def __post_init__(self) -> None:
        """Raise `InputError` for invalid labels or an invalid vocabulary."""
        _check_names("labels", self.labels)
        _check_names("vocabulary", self.vocabulary)

    @cached_property
    def index(self) -> dict[str, int]:
        """The token of each entry of the vocabulary."""
        return {entry: token for token, entry in enumerate(self.vocabulary)}

    def encode(self, text: str) -> list[int]:
        """The tokens of a text; a word falls back to its lower case if only that is in the vocabulary.

        Raises `InputError` for an empty text, and for an unknown word if there is no token for those.
        """
        tokens = []
        for piece in split_text(text, self.unit):
            token = self.index.get(piece, self.index.get(piece.lower(), self.unknown))
            if token is None:
                raise InputError(f"The model has never seen {piece!r}; leave it out of the line.")
            tokens.append(token)
        if not tokens:
            raise InputError("There is nothing to classify in an empty line; leave it out.")
        return tokens


Task = Forecast | LanguageModel | Classify


def split_text(text: str, unit: Unit) -> list[str]:
    """Split a text into words at white space, into tokens, or into characters.

    A `token` is a run of letters and digits (with apostrophes inside) or any other single character that is not white
    space, in lower case.
    """
    match unit:
        case "word":
            return text.split()
        case "token":
            return _TOKEN.findall(text.lower())
    return list(text)


def widths(task: Task) -> tuple[int, int]:
    """How many features or tokens a network for the task takes, and how many outputs it has."""
    match task:
        case Forecast():
            return len(task.features), len(task.output_names)
        case LanguageModel():
            return len(task.vocabulary), len(task.vocabulary)
        case Classify():
            return len(task.vocabulary), len(task.labels)


def _check_names(what: str, names: object) -> None:
    if not isinstance(names, tuple) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"The {what} of a task are given as a tuple of texts, not as {names!r}.")
    if len(set(names)) != len(names):
        raise InputError(f"The {what} of a task contain one name twice; give each once.")
