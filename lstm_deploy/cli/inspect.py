"""`lstm-deploy inspect`: a description of a file."""

from pathlib import Path
from typing import Annotated

from lstm_deploy.cli import completion, console, inspect_screen, next_steps
from lstm_deploy.cli.options import JsonFlag, argument

PathArgument = Annotated[
    Path,
    argument("PATH", "Bundle, checkpoint, file of weights, ONNX, TorchScript or C.", autocompletion=completion.targets),
]


def inspect(
    path: PathArgument,
    json: JsonFlag = False,
) -> None:
    """Show what a file or bundle is: its contract, sizes and defects.

    Nothing of the file is run.
    """
    from lstm_deploy.cli import file_descriptions

    document = file_descriptions.describe(path)
    if json:
        console.say_json(document)
        return
    inspect_screen.show(path, document, file_descriptions.contract_of(document))
    console.note()
    console.say_next(*next_steps.after_inspect(path, document))
