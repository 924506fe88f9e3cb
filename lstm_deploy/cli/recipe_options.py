"""The options of `train` that a recipe has: name, type, range, help and defaults are those of its fields."""

from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from msgspec import Meta, Struct, defstruct
from msgspec.structs import FieldInfo, fields

from lstm_deploy.cli.options import Panel, option
from lstm_deploy.training import DEFAULTS, ONLY, Recipe, option_name

OPTIONS = {field: option_name(field).replace("-", "_") for field in Recipe.__struct_fields__}
"""Names of the parameters of `train` by fields of the recipe."""
UNBOUNDED = 2**31
"""An upper bound that is not worth showing."""
PANELS = {
    "window": Panel.EXAMPLES,
    "cell": Panel.NETWORK,
    "epochs": Panel.TRAINING,
    "precision": Panel.MACHINE,
}
"""The section of help that begins with each of these fields."""
METAVARS: dict[type, str] = {int: "N", float: "X"}
"""What stands for a value in the help, but for choices, which are listed."""


def _option(field: FieldInfo, annotation: Any) -> tuple[str, Any, None]:
    """A field of the recipe as an option: name, annotation and default; `make_recipe` fills in what is not given."""
    kind, metadata = _unwrapped(annotation)
    bounds = {"min": metadata.get("ge"), "max": metadata.get("le")}
    shown: dict[str, Any] = {name: value for name, value in bounds.items() if value not in (None, UNBOUNDED)}
    panel = next(PANELS[name] for name in reversed(_up_to(field)) if name in PANELS)
    made = option(panel, help=_help(field, metadata), metavar=METAVARS.get(kind), **shown)
    return OPTIONS[field.name], Annotated[kind | None, made], None


def _up_to(field: FieldInfo) -> tuple[str, ...]:
    names = Recipe.__struct_fields__
    return names[: names.index(field.name) + 1]


def _unwrapped(annotation: Any) -> tuple[Any, dict[str, Any]]:
    """The type within `Annotated` and `| None`, and the metadata on the way."""
    if get_origin(annotation) is Annotated:
        inner, *found = get_args(annotation)
        kind, metadata = _unwrapped(inner)
        for meta in found:
            assert isinstance(meta, Meta)
            metadata |= {
                name: getattr(meta, name) for name in ("ge", "le", "description") if getattr(meta, name) is not None
            }
        return kind, metadata
    if get_origin(annotation) is Literal or isinstance(annotation, type):
        return annotation, {}
    (inner,) = (each for each in get_args(annotation) if each is not type(None))
    return _unwrapped(inner)


def _help(field: FieldInfo, metadata: dict[str, Any]) -> str:
    """The description, after the only task that takes the option, if there is one, and before the defaults."""
    tasks = ONLY.get(field.name, tuple(DEFAULTS))
    defaults = {task: _text(DEFAULTS[task].get(field.name, field.default)) for task in tasks}
    usual = defaults[tasks[0]]
    text = metadata["description"].removesuffix(".")
    if len(tasks) == 1:
        first, _, rest = text.partition(" ")
        text = f"{tasks[0]}: {first.lower() if first.istitle() else first} {rest}"
    others = (f"{task}: {value}" for task, value in defaults.items() if value != usual)
    return f"{text}. [default: {'; '.join((usual, *others))}]" if usual else text


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


_ANNOTATIONS = get_type_hints(Recipe, include_extras=True)
RecipeOptions: type[Struct] = defstruct(
    "RecipeOptions",
    [_option(field, _ANNOTATIONS[field.name]) for field in fields(Recipe)],
    namespace={"__doc__": "The fields of a recipe as options, each `None` where it is not given."},
    module=__name__,
    kw_only=True,
)
