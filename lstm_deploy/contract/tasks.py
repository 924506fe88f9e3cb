"""What a network was made to do: all that a program needs to feed it and to read its answers."""

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Literal

from msgspec import Struct

from lstm_deploy.errors import InputError

BYTES = tuple(map(chr, range(256)))
"""The vocabulary of a model of bytes: the character of each code point stands for the byte of that number."""
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
    """Steps that one prediction tells, all targets of the next step first, then those of the one after."""

    def __post_init__(self) -> None:
        """Raise `InputError` for columns and windows that no series has."""
        _check_names("features", self.features)
        _check_names("targets", self.targets)
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 1:
            raise InputError(f"A forecast cannot have a window of {self.window!r} rows; give 1 or more.")
        if isinstance(self.horizon, bool) or not isinstance(self.horizon, int) or self.horizon < 1:
            raise InputError(f"A forecast cannot have a horizon of {self.horizon!r} steps; give 1 or more.")
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
    """The character that each token stands for."""
    unit: Literal["character", "byte"] = "character"
    """What one token is; the bytes of a text in UTF-8 stand in the vocabulary as the characters of those numbers."""

    def __post_init__(self) -> None:
        """Raise `InputError` for what is no vocabulary."""
        _check_names("vocabulary", self.vocabulary)
        if self.unit == "byte" and self.vocabulary != BYTES:
            raise InputError("The vocabulary of a model of bytes is the 256 bytes in order; give tasks.BYTES.")

    @cached_property
    def index(self) -> dict[str, int]:
        """The token of each character; made once, as pipes ask for it at each line."""
        return {character: token for token, character in enumerate(self.vocabulary)}

    def encode(self, text: str) -> list[int]:
        """The tokens of a text; raises `InputError` for a character that the vocabulary lacks."""
        if self.unit == "byte":
            return list(text.encode("utf-8", "surrogateescape"))
        try:
            return [self.index[character] for character in text]
        except KeyError as error:
            known = "".join(self.vocabulary)
            raise InputError(
                f"The model has never seen {error.args[0]!r}; write the text with its characters, {known!r}."
            ) from error

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; of bytes, what is no UTF-8 becomes the sign for an unknown character."""
        if self.unit == "byte":
            return bytes(tokens).decode("utf-8", "replace")
        return "".join(self.vocabulary[token] for token in tokens)


class Classify(Struct, frozen=True, kw_only=True, tag="classify", tag_field="kind", dict=True):
    """Tell which class a text is of: `y` holds one logit for each label."""

    labels: tuple[str, ...]
    vocabulary: tuple[str, ...]
    """The word or character that each token stands for."""
    unit: Unit = "word"
    """What a text is cut into: `word`, what stands between white space, `token`, as `pieces` says, or `character`."""
    unknown: int | None = None
    """The token for what the vocabulary lacks; none if that is refused."""

    def __post_init__(self) -> None:
        """Raise `InputError` for what are no labels or no vocabulary."""
        _check_names("labels", self.labels)
        _check_names("vocabulary", self.vocabulary)

    @cached_property
    def index(self) -> dict[str, int]:
        """The token of each entry of the vocabulary."""
        return {entry: token for token, entry in enumerate(self.vocabulary)}

    def encode(self, text: str) -> list[int]:
        """The tokens of a text; in lower case where the vocabulary has a word only so.

        Raises `InputError` for an empty text, and for what the vocabulary lacks where it has no entry for that.
        """
        tokens = []
        for piece in pieces(text, self.unit):
            token = self.index.get(piece, self.index.get(piece.lower(), self.unknown))
            if token is None:
                raise InputError(f"The model has never seen {piece!r}; leave it out of the line.")
            tokens.append(token)
        if not tokens:
            raise InputError("There is nothing to classify in an empty line; leave it out.")
        return tokens


def pieces(text: str, unit: Unit) -> list[str]:
    """What a classifier reads of a text.

    A `token` is a run of letters and digits (with apostrophes inside) or any other single character that is not white
    space, in lower case.
    """
    match unit:
        case "word":
            return text.split()
        case "token":
            return _TOKEN.findall(text.lower())
    return list(text)


def _check_names(what: str, names: object) -> None:
    if not isinstance(names, tuple) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"The {what} of a task are given as a tuple of texts, not as {names!r}.")
    if len(set(names)) != len(names):
        raise InputError(f"The {what} of a task name one of them twice; each stands for one.")


Task = Forecast | LanguageModel | Classify


def widths(task: Task) -> tuple[int, int]:
    """How many features, or tokens, a network for the task takes, and how many outputs it has."""
    match task:
        case Forecast():
            return len(task.features), len(task.output_names)
        case LanguageModel():
            return len(task.vocabulary), len(task.vocabulary)
        case Classify():
            return len(task.vocabulary), len(task.labels)
