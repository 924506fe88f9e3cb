"""`lstm-deploy embed`: a client of a bundle in another language."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from lstm_deploy.cli import completion, console, next_steps
from lstm_deploy.cli.options import ForceFlag, JsonFlag, Panel, argument, option
from lstm_deploy.errors import InputError

Language = Literal["python", "node", "web", "cpp", "c", "go", "rust"]
"""`embedding.LANGUAGES`: named here, too, because help must not wait for it."""

BundleArgument = Annotated[
    Path | None, argument("BUNDLE", "Bundle to write a client for.", autocompletion=completion.bundles)
]
LanguageOption = Annotated[
    Language | None,
    option(
        Panel.OUTPUT,
        metavar="LANGUAGE",
        help=f"Language of the client: {', '.join(get_args(Language))}.",
    ),
]
OutputOption = Annotated[
    Path | None,
    option(Panel.OUTPUT, "-o", "--output", metavar="FOLDER", help="Folder to write. [default: BUNDLE-LANGUAGE, here]"),
]
PrecisionOption = Annotated[
    Literal["float32", "int8"], option(Panel.OUTPUT, help="Artifact of the bundle that the client runs.")
]
ListFlag = Annotated[
    bool, option(Panel.OUTPUT, "--list", help="List the languages and what each needs, and write nothing.")
]


def embed(
    bundle: BundleArgument = None,
    lang: LanguageOption = None,
    output: OutputOption = None,
    precision: PrecisionOption = "float32",
    force: ForceFlag = False,
    list_: ListFlag = False,
    json: JsonFlag = False,
) -> None:
    """Write a client for a bundle in Python, JS, C, C++, Go or Rust.

    A client is a small program with the model beside it. It carries the state, knows the task, and can replay recorded
    calls of the PyTorch model to show that it is right.
    """
    from lstm_deploy.artifacts import int8_saturation
    from lstm_deploy.embedding import LANGUAGES, generate

    if list_:
        _show_languages(LANGUAGES, json)
        return
    if bundle is None:
        raise InputError("Missing BUNDLE; name the bundle to write a client for.")
    if lang is None:
        raise InputError(f"Missing --lang; give one of {', '.join(LANGUAGES)}.")
    folder = output or Path(f"{bundle.resolve().name}-{lang}")
    files, kept = generate.write_client(bundle, folder, lang, precision=precision, force=force)
    if generate.needs_vnni(bundle, files):
        console.note(f"{folder} holds a model {int8_saturation.VNNI_ONLY}.")
    if json:
        document = {"folder": str(folder), "language": lang, "precision": precision}
        console.say_json({**document, "files": files, "kept": kept})
        return
    console.say((f"wrote {folder}", console.HEADING), f": {', '.join(files)}", hang=2)
    for name in kept:
        console.note(
            f"kept {folder / name}, which you changed; to have it written, move it away and use --force again."
        )
    language = LANGUAGES[lang]
    if line := next_steps.replay(language, folder, files):
        console.say_next(line)
    else:  # what a person has to get first is nowhere that we know, so there is no line that would run
        libraries = [name for kind, name in language.libraries.items() if any(file.endswith(kind) for file in files)]
        console.note(f"{folder / 'README.md'} says where to get {' or '.join(libraries)}, and how to build with that.")


def _show_languages(languages: Any, json: bool) -> None:
    if json:
        console.say_json({name: {"formats": each.formats, "needs": each.needs} for name, each in languages.items()})
        return
    rows = [(name, " or ".join(each.formats), each.needs) for name, each in languages.items()]
    console.say_table(("language", "artifact", "needs"), rows)
