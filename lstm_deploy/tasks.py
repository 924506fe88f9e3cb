"""What a network was made to do: all that a program needs to feed it and to read its answers."""

from functools import cached_property
from typing import Literal

from msgspec import Struct

from lstm_deploy.errors import InputError


class Forecast(Struct, frozen=True, kw_only=True, tag="forecast", tag_field="kind"):
    """Predict the next value of each target from the values of all features so far."""

    features: tuple[str, ...]
    """Names of the columns of `x`, in order."""
    targets: tuple[str, ...]
    """Names of the columns of `y`, in order; each is also a feature."""
    window: int
    """Steps that one prediction saw in training."""

    def __post_init__(self) -> None:
        """Raise `InputError` for columns and windows that no series has."""
        _check_names("features", self.features)
        _check_names("targets", self.targets)
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 1:
            raise InputError(f"A forecast cannot have a window of {self.window!r} rows; give 1 or more.")
        if unknown := [name for name in self.targets if name not in self.features]:
            raise InputError(f"The target {unknown[0]!r} is none of the features; add it there.")

    @property
    def feeds_itself(self) -> bool:
        """Whether a prediction has all that the next input needs."""
        return self.features == self.targets


class LanguageModel(Struct, frozen=True, kw_only=True, tag="lm", tag_field="kind", dict=True):
    """Predict the next character: `y` holds one logit for each entry of the vocabulary."""

    vocabulary: tuple[str, ...]
    """The character that each token stands for."""

    def __post_init__(self) -> None:
        """Raise `InputError` for what is no vocabulary."""
        _check_names("vocabulary", self.vocabulary)

    @cached_property
    def index(self) -> dict[str, int]:
        """The token of each character; made once, as pipes ask for it at each line."""
        return {character: token for token, character in enumerate(self.vocabulary)}


class Classify(Struct, frozen=True, kw_only=True, tag="classify", tag_field="kind", dict=True):
    """Tell which class a text is of: `y` holds one logit for each label."""

    labels: tuple[str, ...]
    vocabulary: tuple[str, ...]
    """The word or character that each token stands for."""
    unit: Literal["word", "character"] = "word"
    """What a text is cut into; words end where there is white space."""
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
            return len(task.features), len(task.targets)
        case LanguageModel():
            return len(task.vocabulary), len(task.vocabulary)
        case Classify():
            return len(task.vocabulary), len(task.labels)
