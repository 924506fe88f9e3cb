"""A recipe: everything, besides the data, that decides what a training makes. No PyTorch."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

from lstm_deploy.contract import Unit
from lstm_deploy.errors import InputError

Generator = Literal["sine", "sines"]
Missing = Literal["previous", "interpolate", "drop", "refuse"]
Pooling = Literal["none", "last", "attention", "max", "mean"]
TaskName = Literal["forecast", "lm", "classify"]
Scaling = Literal["minmax", "standard", "none"]
LossOn = Literal["every", "last"]
Optimizer = Literal["adam", "adamw", "sgd"]
Schedule = Literal["constant", "plateau", "cosine"]
Strategy = Literal["auto", "ddp"]
Precision = Literal["32", "16-mixed", "bf16-mixed"]
Positive = Annotated[int, Meta(ge=1, le=2**31)]
NotNegative = Annotated[int, Meta(ge=0, le=2**31)]
Width = Annotated[int, Meta(ge=0, le=16384)]


class Recipe(Struct, frozen=True, kw_only=True):
    """The options of `train`, under the names that they have there."""

    # Examples
    window: Positive
    """Steps in one example; `classify`: pieces of a text that are read, at most."""
    horizon: Positive = 1
    """Forecasts: steps that one prediction tells."""
    stride: Positive | None = None
    """Steps from one example to the next; none: 1 for a forecast, the window for a text."""
    loss_on: LossOn = "every"
    """Steps of an example that are learned from."""
    state: Literal["reset", "carry"] = "reset"
    """`lm`: whether each example starts anew, or goes on where the one before it in the text ended."""
    scaling: Scaling = "minmax"
    """Forecasts: to (-1, 1), or to mean 0 and deviation 1, of each column in the training part."""
    season: Positive | None = None
    """Forecasts: steps of one season, for the seasonal naive forecast; none: found in the training part."""
    unit: Unit | Literal["byte"] = "character"
    """Texts: what one token is."""
    vocabulary_size: Positive = 20_000
    """`classify`: entries of the vocabulary, at most."""
    least_count: Positive = 2
    """`classify`: how often an entry of the vocabulary occurs in the training part, at least."""
    test: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    """Part of the data that is held out for the metrics."""
    validation: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    """Part of the rest that chooses the best epoch; 0: the last one is kept."""

    # Network: see `checkpoint.NetworkConfig`
    hidden_size: Annotated[int, Meta(ge=1, le=16384)]
    num_layers: Annotated[int, Meta(ge=1, le=64)] = 2
    bidirectional: bool = False
    proj_size: Width = 0
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    embedding_size: Width = 0
    """Width of a learned vector for each token; 0: one-hot."""
    freeze_vectors: bool = False
    """Whether pretrained vectors stay as they are."""
    window_norm: bool = False
    layer_norm: bool = False
    pooling: Pooling = "none"
    head_size: Width = 0
    residual: bool = False

    # Training
    epochs: Positive
    batch_size: Positive
    """Examples in one step of one process; `lm` with carried state: streams that are read side by side."""
    learning_rate: Annotated[float, Meta(gt=0)]
    optimizer: Optimizer = "adam"
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    schedule: Schedule = "constant"
    warmup: NotNegative = 0
    """Steps in which the learning rate rises to its value."""
    patience: NotNegative = 0
    """Epochs without improvement after which training ends; 0: it does not."""
    clip: Annotated[float, Meta(ge=0)] = 1.0
    """Norm that gradients are clipped to; 0: they are not."""
    accumulate: Positive = 1
    """Batches whose gradients make one step."""
    seed: NotNegative = 0

    # Machines
    precision: Precision = "32"
    devices: Positive = 1
    nodes: Positive = 1
    strategy: Strategy = "auto"

    @property
    def processes(self) -> int:
        return self.devices * self.nodes


DEFAULTS: dict[TaskName, dict[str, Any]] = {
    "forecast": {
        "hidden_size": 32,
        "epochs": 30,
        "learning_rate": 2e-3,
        "window": 20,
        "batch_size": 64,
        "residual": True,
    },
    "lm": {
        "hidden_size": 128,
        "epochs": 10,
        "learning_rate": 5e-3,
        "window": 100,
        "batch_size": 32,
        "state": "carry",
        "schedule": "cosine",
        "test": 0.1,
        "validation": 0.02,
    },
    "classify": {
        "hidden_size": 64,
        "num_layers": 1,
        "bidirectional": True,
        "pooling": "max",
        "dropout": 0.3,
        "epochs": 10,
        "learning_rate": 2e-3,
        "window": 200,
        "batch_size": 32,
        "unit": "token",
        "embedding_size": 64,
    },
}
"""What `train` uses where an option is not given, if it is not the recipe's own default."""


class Range(Struct, frozen=True, kw_only=True):
    """Values of one option that a search tries: from `low` to `high`, or one of `choices`."""

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    """Whether small values are tried as often as large ones."""
    whole: bool = False
    choices: tuple[float | str, ...] = ()


RANGES: dict[str, Range] = {
    "learning_rate": Range(low=3e-4, high=2e-2, log=True),
    "hidden_size": Range(choices=(32, 64, 128, 256)),
    "num_layers": Range(low=1, high=3, whole=True),
    "dropout": Range(low=0.0, high=0.5),
}
"""What a search tries where nothing is said."""
SEARCHABLE = {
    **dict.fromkeys(("learning_rate", "weight_decay", "dropout", "clip"), float),
    **dict.fromkeys(("hidden_size", "num_layers", "batch_size", "window", "proj_size", "embedding_size"), int),
    **dict.fromkeys(("head_size", "warmup", "accumulate"), int),
    **dict.fromkeys(("optimizer", "schedule", "pooling"), str),
}
"""Options that a search can try, and what they are. Others change what the loss means."""

ONLY: dict[str, tuple[TaskName, ...]] = {
    "horizon": ("forecast",),
    "scaling": ("forecast",),
    "season": ("forecast",),
    "residual": ("forecast",),
    "window_norm": ("forecast",),
    "loss_on": ("forecast", "lm"),
    "stride": ("forecast", "lm"),
    "state": ("lm",),
    "unit": ("lm", "classify"),
    "embedding_size": ("lm", "classify"),
    "vocabulary_size": ("classify",),
    "least_count": ("classify",),
    "freeze_vectors": ("classify",),
}
"""Options that mean something for these tasks only."""


def make_recipe(task: TaskName, **given: Any) -> Recipe:
    """A recipe for a task from what was given (none: the default); raises `InputError` for what contradicts itself."""
    chosen = {name: value for name, value in given.items() if value is not None}
    for name, value in chosen.items():
        if name in ONLY and task not in ONLY[name]:
            raise InputError(f"--{option_of(name)} {value} means nothing for --task {task}; leave it out.")
    recipe = Recipe(**{**DEFAULTS[task], **chosen})
    if _sees_whole_windows(task, recipe) and not {"pooling", "loss_on"} & set(chosen):
        recipe = replace(recipe, pooling="last")
    check(task, recipe)
    return recipe


def check_values(recipe: Recipe) -> None:
    """Raise `InputError` for a value that no training can have, whatever the others are."""
    try:
        msgspec.convert(asdict(recipe), Recipe)
    except msgspec.ValidationError as error:
        what, _, field = str(error).partition(" - at `$.")
        raise InputError(f"--{option_of(field.rstrip('`'))}: {what}; give another value.") from error


def check(task: TaskName, recipe: Recipe) -> None:
    """Raise `InputError` for options that contradict each other, or the task."""
    check_values(recipe)
    if _sees_whole_windows(task, recipe) and recipe.pooling == "none":
        raise InputError(
            "A bidirectional network sees the values that it is to predict at every step but the last, and one "
            "normalised over the window takes whole windows only; give --pooling last, attention, max or mean."
        )
    if task == "lm" and recipe.bidirectional:
        raise InputError(
            "A bidirectional language model sees the character that it is to predict; leave out --bidirectional."
        )
    if task == "lm" and recipe.unit not in ("character", "byte"):
        raise InputError(f"A language model has no {recipe.unit}s; give --unit character or byte.")
    if task == "classify" and recipe.unit == "byte":
        raise InputError("A classifier reads words, tokens or characters, not bytes; give another --unit.")
    if task == "classify" and recipe.pooling == "none":
        raise InputError("A classifier tells one class for each text; give --pooling last, attention, max or mean.")
    if recipe.state == "carry" and recipe.stride:
        raise InputError("Where state is carried, each example starts where the last one ended; leave out --stride.")
    if recipe.state == "carry" and (recipe.pooling != "none" or recipe.loss_on == "last"):
        raise InputError(
            "State is carried where every step is learned from; give --state reset, or leave the other out."
        )
    if recipe.window_norm and recipe.batch_size < 2:
        raise InputError("BatchNorm has no variance of one example; give a --batch-size of 2 or more.")
    if recipe.proj_size >= recipe.hidden_size:
        raise InputError(f"A projection to {recipe.proj_size} is no smaller than --hidden-size; give a smaller one.")
    needs_validation = "--patience" if recipe.patience else "--schedule plateau" if recipe.schedule == "plateau" else ""
    if needs_validation and not recipe.validation:
        raise InputError(f"{needs_validation} needs a part to validate on; give a --validation above 0.")


def _sees_whole_windows(task: TaskName, recipe: Recipe) -> bool:
    return task == "forecast" and (recipe.bidirectional or recipe.window_norm)


def option_of(field: str) -> str:
    """What a field of a recipe is called on the command line."""
    return {"num_layers": "layers"}.get(field, field).replace("_", "-")
