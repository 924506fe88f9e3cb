"""Options that several commands share, and groups of options as one parameter."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import typer
from msgspec import Struct
from msgspec.structs import fields

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
ForceFlag = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
RecordFlag = Annotated[bool, typer.Option(help="Keep the result in the bundle and its report.")]
ReferenceOption = Annotated[
    Path | None,
    typer.Option(help="Checkpoint or weights to compare with [default: the source of the bundle]."),
]


class SourceOptions(Struct, frozen=True, kw_only=True):
    """How third-party weights become a network."""

    model: Annotated[
        str | None, typer.Option(help="Class that the weights belong to: FILE.py:Class or package.module:Class.")
    ] = None
    init: Annotated[str | None, typer.Option(help="Arguments of the class, as a JSON object.")] = None
    weights_key: Annotated[str | None, typer.Option(help="Entry of the file that holds the weights.")] = None
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", help="NAME:DTYPE[DIMS] of an argument of forward, as x:float32[batch,seq,40]; repeatable."
        ),
    ] = None
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Open a pickle of a whole module, which can run any code.")
    ] = False


class TaskOptions(Struct, frozen=True, kw_only=True):
    """The task of a third-party model."""

    task: Annotated[
        Literal["forecast", "lm", "classify"] | None,
        typer.Option(help="What a third-party model is for, so that run and clients can use it."),
    ] = None
    features: Annotated[str | None, typer.Option(help="For --task forecast: columns of x, comma-separated.")] = None
    target: Annotated[str | None, typer.Option(help="For --task forecast: columns of y [default: all].")] = None
    window: Annotated[int | None, typer.Option(min=1, help="For --task forecast: rows of one example.")] = None
    vocabulary: Annotated[
        Path | None,
        typer.Option(help="For --task lm and classify: JSON list of the tokens' meanings, or the training text."),
    ] = None
    labels: Annotated[str | None, typer.Option(help="For --task classify: names of the classes.")] = None
    unit: Annotated[
        Literal["word", "character"], typer.Option(help="For --task classify: what one token stands for.")
    ] = "word"


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
