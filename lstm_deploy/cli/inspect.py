"""`lstm-deploy inspect`: a description of a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from lstm_deploy.cli import completion, console
from lstm_deploy.cli.options import JsonFlag, argument

ONE_A_LINE = {"inferred": "inferred", "findings": "inferred", "notes": "note", "changed_files": "changed since export"}
"""Keys of the document whose entries are all shown, each on a line, and what the line begins with."""
SHOWN_APART = {"kind", "bytes", "contract", "lint", "artifacts", "rollouts", "functions", "state", *ONE_A_LINE}
"""Keys of the document that are not simply printed."""

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
    console.say(f"{path}: {document['kind']}, {document['bytes']:,} bytes")
    contract = file_descriptions.contract_of(document)
    if contract:
        console.say_contract(contract)
    for key, beginning in ONE_A_LINE.items():
        for entry in document.get(key, ()):
            console.say(f"{beginning}: {entry}")
    for prototype in document.get("functions", ()):
        console.say(f"  {' '.join(prototype.split())};")
    shown_apart = SHOWN_APART | ({"inputs", "outputs"} if contract else set())
    for key, value in document.items():
        if key not in shown_apart and value not in (None, [], (), {}):
            console.say(f"{key}: {console.flat(value)}")
    for artifact in (*document.get("artifacts", ()), *document.get("rollouts", ())):
        console.say(_artifact_line(artifact))
    for state in document.get("state", ()):
        if state not in document["lint"]:
            console.say(f"state: {state}")
    for defect in document.get("lint", ()):
        console.say(f"lint: {defect}")
    if document.get("lint") == []:
        console.say("lint: no defects found")


def _artifact_line(artifact: Mapping[str, Any]) -> str:
    line = f"{artifact['path']}: {artifact['format']} {artifact['precision']}, {artifact['bytes']:,} bytes"
    if evidence := artifact["evidence"]:
        layers = f"{evidence['lowered_layers']} of {evidence['lstm_layers']} recurrent layers"
        line += f", {layers}, {evidence['metric'] or 'outputs'} off by {evidence['loss']:.2%} of float32's"
        if evidence["decisions_changed"] is not None:
            line += f", {evidence['decisions_changed']:.2%} of decisions changed"
    return line
