"""`lstm-deploy inspect`: a description of a file."""

from pathlib import Path
from typing import Annotated

import typer

from lstm_deploy.cli import console, description, next_steps
from lstm_deploy.cli.options import JsonFlag


def inspect(
    path: Annotated[Path, typer.Argument(help="Bundle, checkpoint, weights, ONNX, TorchScript or C.")],
    json: JsonFlag = False,
) -> None:
    """Show what a file is: contract, sizes, operators, and defects."""
    from lstm_deploy.cli import inspection

    document = inspection.inspect(path)
    if json:
        console.say_json(document)
        return
    description.show(path, document, inspection.contract_of(document))
    console.note()
    console.say_next(*next_steps.after_inspect(path, document))
