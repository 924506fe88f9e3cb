"""`lstm-deploy embed`: a client of a bundle in another language."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lstm_deploy.cli import console, next_steps
from lstm_deploy.cli.options import ForceFlag, JsonFlag
from lstm_deploy.errors import InputError


def embed(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle to write a client of.")] = None,
    lang: Annotated[str | None, typer.Option(help="Language of the client; --list shows the languages.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder to write to [default: BUNDLE-LANG, here].")
    ] = None,
    precision: Annotated[str, typer.Option(help="float32 or int8.")] = "float32",
    force: ForceFlag = False,
    list_: Annotated[bool, typer.Option("--list", help="List the languages and what each needs.")] = False,
    json: JsonFlag = False,
) -> None:
    """Write a client of a bundle in another language, with its state, its task and a golden trace to replay."""
    from lstm_deploy.artifacts import int8_saturation
    from lstm_deploy.embedding import LANGUAGES, generate

    if list_:
        _show_languages(LANGUAGES, json)
        return
    if bundle is None or lang is None:
        missing = "a bundle" if bundle is None else f"--lang, one of {', '.join(LANGUAGES)}"
        raise InputError(f"embed needs {missing}; lstm-deploy embed --list shows the languages.")
    folder = output or Path(f"{bundle.resolve().name}-{lang}")
    files = generate.embed(bundle, folder, lang, precision=precision, force=force)
    if generate.needs_vnni(bundle, files):
        console.note(f"{folder} holds a model {int8_saturation.VNNI_ONLY}.")
    if json:
        console.say_json({"folder": str(folder), "language": lang, "precision": precision, "files": files})
        return
    console.say((f"wrote {folder}", console.HEADING), f": {', '.join(files)}", hang=2)
    if line := next_steps.replay(LANGUAGES[lang], folder, files):
        console.say_next(line)
    else:
        console.note(f"{folder / 'README.md'} says how to build it.")


def _show_languages(languages: Any, json: bool) -> None:
    if json:
        console.say_json({name: {"formats": each.formats, "needs": each.needs} for name, each in languages.items()})
        return
    rows = [(name, " or ".join(each.formats), each.needs) for name, each in languages.items()]
    console.say_table(("language", "artifact", "needs"), rows)
