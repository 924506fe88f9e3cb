"""Options that several commands share, groups of options as one parameter, and the sections of help."""

import inspect
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import typer
from msgspec import Struct
from msgspec.structs import fields

Provider = Literal["cpu", "cuda", "tensorrt"]
"""`runtimes.PROVIDERS`: named here, too, because help must not wait for it."""


class Panel(StrEnum):
    """The sections of help, in their order."""

    INPUT = "What goes in"
    REFERENCE = "What it is compared with"
    WEIGHTS = "How a file of weights becomes a network"
    TASK = "What the model does"
    STATE = "State"
    EXAMPLES = "How the data becomes examples"
    NETWORK = "Network"
    TRAINING = "Training"
    SEARCH = "Search for better options"
    CASES = "What is timed"
    PRECISION = "Precision"
    TEXT = "How text is generated"
    PROOF = "Proof"
    MACHINE = "Machine"
    OUTPUT = "What comes out"
    OTHER = "Options"


def argument(metavar: str, help: str, **settings: Any) -> Any:  # noqa: A002 - Typer's word
    """A `typer.Argument`; all that a command reads is in one section."""
    return typer.Argument(metavar=metavar, help=help, rich_help_panel=Panel.INPUT, show_default=False, **settings)


def option(panel: Panel, *names: str, help: str, metavar: str | None = None, **settings: Any) -> Any:  # noqa: A002
    """A `typer.Option` in a section of the help; without a `metavar`, choices are listed."""
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=panel, **settings)


JsonFlag = Annotated[bool, option(Panel.OUTPUT, "--json", help="Print one JSON document and nothing else.")]
ForceFlag = Annotated[bool, option(Panel.OUTPUT, "--force", help="Replace what is there.")]
RecordFlag = Annotated[bool, option(Panel.OUTPUT, help="Keep the result in the bundle and its report.")]
ReferenceOption = Annotated[
    Path | None,
    option(
        Panel.REFERENCE,
        metavar="FILE",
        help="PyTorch weights to compare with. [default: what the bundle was made from]",
    ),
]


class SourceOptions(Struct, frozen=True, kw_only=True):
    """How third-party weights become a network."""

    model: Annotated[
        str | None,
        option(
            Panel.WEIGHTS,
            metavar="CLASS",
            help="Class of the network, as net.py:Net or package.module:Net.",
        ),
    ] = None
    init: Annotated[
        str | None, option(Panel.WEIGHTS, metavar="JSON", help="Arguments of that class, as '{\"hidden\": 64}'.")
    ] = None
    weights_key: Annotated[
        str | None, option(Panel.WEIGHTS, metavar="KEY", help="Entry of the file that holds the weights.")
    ] = None
    inputs: Annotated[
        list[str] | None,
        option(
            Panel.WEIGHTS,
            "--input",
            metavar="SPEC,…",
            help="Arguments of forward, as x:float32[batch,seq,40]; a named size is dynamic, a number is fixed.",
        ),
    ] = None
    trust_pickle: Annotated[
        bool,
        option(
            Panel.WEIGHTS,
            "--trust-pickle",
            help="Open a pickled module. Unpickling can run any code, so use it only for files you trust.",
        ),
    ] = False


class TaskOptions(Struct, frozen=True, kw_only=True):
    """The task of a third-party model."""

    task: Annotated[
        Literal["forecast", "lm", "classify"] | None,
        option(
            Panel.TASK,
            metavar="TASK",
            help="forecast, lm or classify: for third-party models, so that run and clients can use them.",
        ),
    ] = None
    features: Annotated[
        list[str] | None, option(Panel.TASK, metavar="NAME,…", help="forecast: the columns of x, in order.")
    ] = None
    target: Annotated[
        list[str] | None,
        option(Panel.TASK, metavar="NAME,…", help="forecast: the columns of y. [default: those of x]"),
    ] = None
    window: Annotated[
        int | None, option(Panel.TASK, metavar="ROWS", min=1, help="forecast: rows in one training example.")
    ] = None
    vocabulary: Annotated[
        Path | None,
        option(
            Panel.TASK,
            metavar="FILE",
            help="lm, classify: what each token stands for, as a JSON list, or the training text.",
        ),
    ] = None
    labels: Annotated[
        list[str] | None, option(Panel.TASK, metavar="NAME,…", help="classify: the names of the classes, in order.")
    ] = None
    unit: Annotated[Literal["word", "character"], option(Panel.TASK, help="classify: what one token stands for.")] = (
        "word"
    )


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameter of a `Struct` type becomes one option for each field of the struct."""
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type[Struct]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if (metadata := get_args(kind)[1:]) and isinstance(metadata[0], type):  # a struct made at run time
            kind = metadata[0]
        if not (isinstance(kind, type) and issubclass(kind, Struct)):
            parameters.append(parameter.replace(annotation=kind))
            continue
        groups[name] = kind
        options = get_type_hints(kind, include_extras=True)
        parameters += [
            parameter.replace(name=field.name, annotation=options[field.name], default=field.default)
            for field in fields(kind)
        ]

    def flat(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        command(**given)

    flat.__name__, flat.__doc__ = command.__name__, command.__doc__
    flat.__annotations__ = {each.name: each.annotation for each in parameters}
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # Typer makes options of it
    return flat
