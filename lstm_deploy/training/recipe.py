"""The recipe: everything besides the data that determines the result of a training. No PyTorch."""

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
    """The options of `lstm-deploy train`, under the same names (but see `option_name`)."""

    # Examples
    window: Positive
    """Steps in one example; `classify`: the number of tokens that a text is cut to."""
    horizon: Positive = 1
    """Forecasts: steps that are predicted at once."""
    stride: Positive | None = None
    """Steps from one example to the next; by default 1 for a forecast, the window for a text."""
    loss_on: LossOn = "every"
    """Steps of an example that contribute to the loss."""
    state: Literal["reset", "carry"] = "reset"
    """`lm`: whether each example starts from a zero state, or from where the one before it in the text ended."""
    scaling: Scaling = "minmax"
    """Forecasts: of each column, to (-1, 1) or to mean 0 and deviation 1 over the rows to fit."""
    season: Positive | None = None
    """Forecasts: steps in one season, for the seasonal naive forecast; by default found in the rows to fit."""
    unit: Unit | Literal["byte"] = "character"
    """Texts: what one token stands for."""
    vocabulary_size: Positive = 20_000
    """`classify`: the largest number of entries in the vocabulary."""
    least_count: Positive = 2
    """`classify`: occurrences in the texts to fit below which an entry is left out of the vocabulary."""
    test: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    """Fraction of the data that is held out for the metrics."""
    validation: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    """Fraction of the rest that selects the best epoch; 0: the last one is kept."""

    # Network: see `checkpoint.NetworkConfig`
    hidden_size: Annotated[int, Meta(ge=1, le=16384)]
    num_layers: Annotated[int, Meta(ge=1, le=64)] = 2
    bidirectional: bool = False
    proj_size: Width = 0
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    embedding_size: Width = 0
    """Width of a learned vector per token; 0: one-hot."""
    freeze_vectors: bool = False
    """Whether pretrained vectors are not trained further."""
    window_norm: bool = False
    layer_norm: bool = False
    pooling: Pooling = "none"
    head_size: Width = 0
    residual: bool = False

    # Training
    epochs: Positive
    batch_size: Positive
    """Examples per step and process; `lm` with carried state: streams that are read side by side."""
    learning_rate: Annotated[float, Meta(gt=0)]
    optimizer: Optimizer = "adam"
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    schedule: Schedule = "constant"
    warmup: NotNegative = 0
    """Steps over which the learning rate rises linearly."""
    patience: NotNegative = 0
    """Epochs without improvement after which training stops; 0: it runs all epochs."""
    clip: Annotated[float, Meta(ge=0)] = 1.0
    """Norm that gradients are clipped to; 0: no clipping."""
    accumulate: Positive = 1
    """Batches whose gradients are accumulated into one step."""
    seed: NotNegative = 0

    # Hardware
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
"""Defaults that depend on the task."""

ONLY: dict[str, tuple[TaskName, ...]] = {
    **dict.fromkeys(("horizon", "scaling", "season", "residual", "window_norm"), ("forecast",)),
    **dict.fromkeys(("loss_on", "stride"), ("forecast", "lm")),
    "state": ("lm",),
    **dict.fromkeys(("unit", "embedding_size"), ("lm", "classify")),
    **dict.fromkeys(("vocabulary_size", "least_count", "freeze_vectors"), ("classify",)),
}
"""Options that apply to these tasks only."""


def make_recipe(task: TaskName, **options: Any) -> Recipe:
    """A recipe from options, of which `None` means the default; raises `InputError` for options that conflict."""
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if name in ONLY and task not in ONLY[name]:
            raise InputError(f"--{option_name(name)} {value} means nothing for --task {task}; leave it out.")
    recipe = Recipe(**{**DEFAULTS[task], **given})
    if _needs_whole_windows(task, recipe) and not {"pooling", "loss_on"} & set(given):
        recipe = replace(recipe, pooling="last")
    check_recipe(task, recipe)
    return recipe


def check_values(recipe: Recipe) -> None:
    """Raise `InputError` for a value that is invalid whatever the other options are."""
    try:
        msgspec.convert(asdict(recipe), Recipe)
    except msgspec.ValidationError as error:
        message, _, field = str(error).partition(" - at `$.")
        raise InputError(f"--{option_name(field.rstrip('`'))}: {message}; give another value.") from error


def check_recipe(task: TaskName, recipe: Recipe) -> None:
    """Raise `InputError` for options that conflict with each other or with the task."""
    check_values(recipe)
    if _needs_whole_windows(task, recipe) and recipe.pooling == "none":
        raise InputError(
            "A bidirectional network sees the values to predict at every step but the last, and --window-norm needs "
            "whole windows; give --pooling last, attention, max or mean."
        )
    if task == "lm" and recipe.bidirectional:
        raise InputError("A bidirectional language model sees the character to predict; leave out --bidirectional.")
    if task == "lm" and recipe.unit not in ("character", "byte"):
        raise InputError(f"A language model has no {recipe.unit}s; give --unit character or byte.")
    if task == "classify" and recipe.unit == "byte":
        raise InputError("A classifier reads words, tokens or characters, not bytes; give another --unit.")
    if task == "classify" and recipe.pooling == "none":
        raise InputError("A classifier predicts one class for each text; give --pooling last, attention, max or mean.")
    if recipe.state == "carry" and recipe.stride:
        raise InputError("With --state carry each example starts where the last one ended; leave out --stride.")
    if recipe.state == "carry" and (recipe.pooling != "none" or recipe.loss_on == "last"):
        raise InputError(
            "--state carry computes the loss at every step; give --state reset, or leave out --pooling and --loss-on."
        )
    if recipe.window_norm and recipe.batch_size < 2:
        raise InputError("--window-norm needs several examples per batch; give a --batch-size of 2 or more.")
    if recipe.proj_size >= recipe.hidden_size:
        raise InputError(f"A projection to {recipe.proj_size} is no smaller than --hidden-size; give a smaller one.")
    needs_validation = "--patience" if recipe.patience else "--schedule plateau" if recipe.schedule == "plateau" else ""
    if needs_validation and not recipe.validation:
        raise InputError(f"{needs_validation} needs a part to validate on; give a --validation above 0.")


def _needs_whole_windows(task: TaskName, recipe: Recipe) -> bool:
    return task == "forecast" and (recipe.bidirectional or recipe.window_norm)


def option_name(field: str) -> str:
    """The name of a recipe's field on the command line."""
    return {"num_layers": "layers"}.get(field, field).replace("_", "-")
