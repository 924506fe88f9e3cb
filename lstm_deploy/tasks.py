"""What a network was made to do: all that a program needs to feed it and to read its answers."""

from msgspec import Struct


class Forecast(Struct, frozen=True, kw_only=True, tag="forecast", tag_field="kind"):
    """Predict the next value of each target from the values of all features so far."""

    features: tuple[str, ...]
    """Names of the columns of `x`, in order."""
    targets: tuple[str, ...]
    """Names of the columns of `y`, in order; each is also a feature."""
    window: int
    """Steps that one prediction saw in training."""

    @property
    def feeds_itself(self) -> bool:
        """Whether a prediction has all that the next input needs."""
        return self.features == self.targets


class LanguageModel(Struct, frozen=True, kw_only=True, tag="lm", tag_field="kind"):
    """Predict the next character: `y` holds one logit for each entry of the vocabulary."""

    vocabulary: tuple[str, ...]
    """The character that each token stands for."""


Task = Forecast | LanguageModel
