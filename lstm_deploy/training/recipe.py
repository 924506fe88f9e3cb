"""The recipe: everything besides the data that determines the result of a training. No PyTorch."""

import re
from typing import Annotated, Any, Literal

import msgspec
import msgspec.inspect
from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

from lstm_deploy.contract import CELLS_BY_NAME, Unit
from lstm_deploy.errors import InputError, check_known, did_you_mean, without_effect

Generator = Literal["sine", "sines"]
Missing = Literal["previous", "interpolate", "drop", "refuse"]
CellName = Literal["lstm", "gru", "rnn"]
"""The cells that can be trained, by `Cell.name`."""
Pooling = Literal["none", "last", "attention", "max", "mean"]
TaskName = Literal["forecast", "lm", "classify"]
Positive = Annotated[int, Meta(ge=1, le=2**31)]
AtLeastTwo = Annotated[int, Meta(ge=2, le=2**31)]
NotNegative = Annotated[int, Meta(ge=0, le=2**31)]
Width = Annotated[int, Meta(ge=0, le=16384)]


class Recipe(Struct, frozen=True, kw_only=True):
    """The options of `lstm-deploy train`, under the same names (but see `option_name`).

    Each description is the option's help, to which the command line adds the defaults.
    """

    # Examples
    window: Annotated[Positive, Meta(description="Steps in one example; classify: tokens to keep of each text.")]
    horizon: Annotated[int, Meta(ge=1, le=10_000, description="Steps to predict at once.")] = 1
    stride: Annotated[
        Positive | None,
        Meta(description="Steps from the start of one example to the next. [default: 1; lm: the window]"),
    ] = None
    loss_on: Annotated[
        Literal["every", "last"], Meta(description="Steps that count in the loss: every one, or only the last.")
    ] = "every"
    state: Annotated[
        Literal["reset", "carry"],
        Meta(description="State that an example starts with: zeros (reset), or where the last one ended (carry)."),
    ] = "reset"
    scaling: Annotated[
        Literal["minmax", "standard", "none"],
        Meta(description="Scale each column to -1…1 (minmax) or to mean 0 and deviation 1 (standard)."),
    ] = "minmax"
    season: Annotated[
        AtLeastTwo | None, Meta(description="Steps in a season, for the seasonal baseline. [default: detected]")
    ] = None
    unit: Annotated[
        Literal[Unit, "byte"],
        Meta(description="What one token is; lm: character or byte; classify: token, word or character."),
    ] = "character"
    vocabulary_size: Annotated[AtLeastTwo, Meta(description="Largest size of the vocabulary.")] = 20_000
    least_count: Annotated[Positive, Meta(description="How often a token must occur to get into the vocabulary.")] = 2
    test: Annotated[
        float,
        Meta(gt=0, lt=1, description="Fraction held out for the final metrics: the end of the data, or random texts."),
    ] = 0.2
    validation: Annotated[
        float, Meta(ge=0, lt=1, description="Fraction of the rest that picks the best epoch; 0: keep the last epoch.")
    ] = 0.1

    # Network: see `checkpoint.NetworkConfig`
    cell: Annotated[CellName, Meta(description="Kind of the recurrent layers (rnn: with tanh).")] = "lstm"
    hidden_size: Annotated[int, Meta(ge=1, le=16384, description="Width of the recurrent layers.")]
    num_layers: Annotated[int, Meta(ge=1, le=64, description="Number of recurrent layers.")] = 2
    bidirectional: Annotated[bool, Meta(description="Read each example both ways; such a model cannot stream.")] = False
    proj_size: Annotated[Width, Meta(description="Width that an LSTM's h is projected to; 0: no projection.")] = 0
    dropout: Annotated[float, Meta(ge=0, le=0.9, description="Dropout between layers and before the head.")] = 0.0
    embedding_size: Annotated[Width, Meta(description="Width of each token's learned vector; 0: one-hot.")] = 0
    freeze_vectors: Annotated[bool, Meta(description="Keep the --vectors as they are.")] = False
    window_norm: Annotated[bool, Meta(description="BatchNorm over the window, which fixes its length.")] = False
    layer_norm: Annotated[bool, Meta(description="LayerNorm after the recurrent layers.")] = False
    pooling: Annotated[
        Pooling, Meta(description="How the steps of an example become one output; none: one output for each step.")
    ] = "none"
    head_size: Annotated[Width, Meta(description="Width of an extra layer (with ReLU) before the last; 0: none.")] = 0
    residual: Annotated[bool, Meta(description="Predict the change from the current value.")] = False

    # Training
    epochs: Annotated[Positive, Meta(description="Passes over the data.")]
    batch_size: Annotated[
        Positive,
        Meta(description="Examples per step and device; with --state carry: streams that are read side by side."),
    ] = 32
    learning_rate: Annotated[float, Meta(gt=0, description="Learning rate, after the warm-up.")] = 2e-3
    optimizer: Annotated[Literal["adam", "adamw", "sgd"], Meta(description="Optimizer.")] = "adam"
    weight_decay: Annotated[float, Meta(ge=0, description="Weight decay.")] = 0.0
    schedule: Annotated[
        Literal["constant", "plateau", "cosine"],
        Meta(description="How the learning rate changes; plateau: halved when validation stops improving."),
    ] = "constant"
    warmup: Annotated[NotNegative, Meta(description="Steps in which the learning rate rises to its value.")] = 0
    patience: Annotated[
        NotNegative, Meta(description="Epochs without improvement before training stops; 0: never.")
    ] = 0
    clip: Annotated[float, Meta(ge=0, description="Largest norm of the gradients; 0: any.")] = 1.0
    accumulate: Annotated[Positive, Meta(description="Batches per step of the optimizer.")] = 1
    seed: Annotated[NotNegative, Meta(description="Seed of weights, order of examples and generated data.")] = 0

    # Hardware
    precision: Annotated[
        Literal["32", "16-mixed", "bf16-mixed"],
        Meta(description="Number format of the training: float32, or mixed with float16 or bfloat16."),
    ] = "32"
    devices: Annotated[Positive, Meta(description="GPUs, or processes on the CPU.")] = 1
    nodes: Annotated[
        Positive,
        Meta(description="Machines; each runs the same command, with MASTER_ADDR, MASTER_PORT, NODE_RANK."),
    ] = 1
    strategy: Annotated[Literal["auto", "ddp"], Meta(description="How several devices train together.")] = "auto"


DEFAULTS: dict[TaskName, dict[str, Any]] = {
    "forecast": {"hidden_size": 32, "epochs": 30, "window": 20, "batch_size": 64, "residual": True},
    "lm": {
        "hidden_size": 128,
        "epochs": 10,
        "learning_rate": 5e-3,
        "window": 100,
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
        "window": 200,
        "unit": "token",
        "embedding_size": 64,
    },
}
"""Defaults that depend on the task."""

BOUNDS = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}
"""Comparisons in words."""
ONLY: dict[str, tuple[TaskName, ...]] = {
    **dict.fromkeys(("horizon", "scaling", "season", "residual", "window_norm"), ("forecast",)),
    **dict.fromkeys(("loss_on", "stride"), ("forecast", "lm")),
    "state": ("lm",),
    **dict.fromkeys(("unit", "embedding_size"), ("lm", "classify")),
    **dict.fromkeys(("vocabulary_size", "least_count", "freeze_vectors"), ("classify",)),
}
"""Options that apply to these tasks only."""


def make_recipe(task: TaskName, **options: Any) -> Recipe:
    """A recipe from options, of which `None` means the default.

    Raises `InputError` for an unknown task, unknown options, and for those that conflict.
    """
    check_known(task, DEFAULTS, "a task")
    if unknown := [name for name in options if name not in Recipe.__struct_fields__]:
        raise InputError(f"A recipe has no {unknown[0]!r}; {did_you_mean(unknown[0], Recipe.__struct_fields__)}")
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if name in ONLY and task not in ONLY[name]:
            option = f"no-{option_name(name)}" if value is False else option_name(name)
            shown = "" if isinstance(value, bool) else f" {value}"
            raise without_effect(f"--{option}{shown}", f"for --task {task}")
    recipe = Recipe(**{**DEFAULTS[task], **given})
    if _needs_whole_windows(task, recipe) and not {"pooling", "loss_on"} & set(given):
        recipe = replace(recipe, pooling="last")
    check_recipe(task, recipe)
    if given.get("loss_on") == "every" and recipe.pooling != "none":
        raise without_effect("--loss-on every", f"with --pooling {recipe.pooling}, which gives one output per window")
    return recipe


def check_values(recipe: Recipe) -> None:
    """Raise `InputError` for a value that is invalid whatever the other options are."""
    try:
        msgspec.convert(asdict(recipe), Recipe)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        field = place.rstrip("`")
        value = getattr(recipe, field)
        if bound := re.search(r"(>=|<=|>|<) (\S+)$", reason):
            remedy = f"it must be {BOUNDS[bound[1]]} {bound[2].removesuffix('.0')}."
        else:
            remedy = did_you_mean(value, _choices(field)) if "enum" in reason else f"{reason[0].lower()}{reason[1:]}."
        raise InputError(f"--{option_name(field)} cannot be {value!r}; {remedy}") from error


def _choices(field: str) -> tuple[Any, ...]:
    """The values that a field can have, if they can be listed."""
    info = msgspec.inspect.type_info(Recipe)
    assert isinstance(info, msgspec.inspect.StructType)
    kind = next(each.type for each in info.fields if each.name == field)
    if isinstance(kind, msgspec.inspect.Metadata):
        kind = kind.type
    return kind.values if isinstance(kind, msgspec.inspect.LiteralType) else ()


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
        raise InputError("--state carry needs the loss of each step; give --state reset, or no --pooling or --loss-on.")
    if recipe.window_norm and recipe.batch_size < 2:
        raise InputError("--window-norm needs several examples per batch; give a --batch-size of 2 or more.")
    if recipe.proj_size and not CELLS_BY_NAME[recipe.cell].has_projection:
        raise InputError(f"PyTorch's {CELLS_BY_NAME[recipe.cell].title} has no projection; leave out --proj-size.")
    if recipe.proj_size >= recipe.hidden_size:
        raise InputError(f"A projection to {recipe.proj_size} is no smaller than --hidden-size; give a smaller one.")
    needs_validation = "--patience" if recipe.patience else "--schedule plateau" if recipe.schedule == "plateau" else ""
    if needs_validation and not recipe.validation:
        raise InputError(f"{needs_validation} needs validation data; give a --validation above 0.")


def _needs_whole_windows(task: TaskName, recipe: Recipe) -> bool:
    return task == "forecast" and (recipe.bidirectional or recipe.window_norm)


def option_name(field: str) -> str:
    """The name of a recipe's field on the command line."""
    return {"num_layers": "layers"}.get(field, field).replace("_", "-")
