"""The screen of `inspect`: what a file is, in sections."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lstm_deploy.cli import console

if TYPE_CHECKING:
    from lstm_deploy.cli.layout import Part

Document = Mapping[str, Any]

MOST_TENSORS = 40
"""More tensors than this are not all listed."""
IN_SECTIONS = {
    *("kind", "bytes", "contract", "inputs", "outputs", "functions", "artifacts", "rollouts", "tensors", "training"),
    *("versions", "source", "network", "task", "validated", "changed_files", "created", "inferred", "findings"),
    *("notes", "state", "lint", "recurrent", "settings", "unrecognized"),
}
"""Keys of the document that have a place of their own; others are fields below the heading."""

EMPTY: tuple[object, ...] = (None, [], (), {})
"""Values of fields that are not shown."""


def show(path: Path, document: Document, contract: Any) -> None:
    """All that `inspect` found out, as people read it; `contract` is that in the document."""
    console.say((str(path), console.HEADING), f": {document['kind']}, {document['bytes']:,} bytes")
    console.say_fields(*_general(document))
    if contract:
        console.say_heading("Contract")
        console.say_contract(contract)
    elif document.get("inputs") is not None:
        console.say_heading("Inputs and outputs")
        pairs = (("in", document["inputs"]), ("out", document["outputs"]))
        console.say_fields(*((kind, f"{name}: {shape}") for kind, values in pairs for name, shape in values.items()))
    if artifacts := (*document.get("artifacts", ()), *document.get("rollouts", ())):
        console.say_heading("Artifacts")
        _show_artifacts(artifacts)
    if functions := document.get("functions"):
        console.say_heading("Functions")
        for prototype in functions:
            console.say(f"  {' '.join(prototype.split())};", hang=6)
    if network := document.get("network"):
        console.say_heading("Network")
        _show_options(network)
    if training := document.get("training"):
        _show_training(training)
    _show_tensors(document)
    if versions := document.get("versions"):
        console.say_heading("Made with")
        console.say(f"  {console.flat(versions)}", hang=2)
    _show_findings(document)


def _general(document: Document) -> "list[tuple[str, Part]]":
    """What fits beside a name: where it came from, what it is for, whether it was proven."""
    fields: list[tuple[str, Part]] = []
    if source := document.get("source"):
        fields.append(("model", source["summary"]))
        if source["path"]:
            fields.append(("source", f"{source['path']} ({source['kind']}, SHA-256 {_short(source['sha256'])})"))
        else:
            fields.append(("source", source["kind"]))
    task = document.get("task") or (document.get("contract") or {}).get("task")
    if task:
        fields.append(("task", _task(task)))
    if "validated" in document:
        proven = ("passed", console.GOOD) if document["validated"] else ("not passed", console.BAD)
        fields += [("checks", proven), ("exported", document["created"])]
    fields += [
        (key.replace("_", " "), console.flat(value))
        for key, value in document.items()
        if key not in IN_SECTIONS and value not in EMPTY
    ]
    return fields


def _short(digest: str | None) -> str:
    """Enough of a SHA-256 to tell it from others; --json has all of it."""
    return f"{digest[:16]}…" if digest else "unknown"


def _task(task: Document) -> str:
    sizes = {"targets": "of", "features": "from", "labels": "into"}
    words = [f"{word} {', '.join(task[key])}" for key, word in sizes.items() if key in task]
    if "vocabulary" in task:
        words.append(f"vocabulary of {len(task['vocabulary']):,}")
    words += [f"{key} {task[key]}" for key in ("window", "horizon", "unit") if key in task]
    return f"{task['kind']}{' ' if 'labels' in task else ': '}{'; '.join(words)}"


def _show_artifacts(artifacts: Sequence[Document]) -> None:
    console.say_table(
        ["file", "format", "precision", "bytes", "lower precision"],
        [
            [each["path"], each["format"], each["precision"], f"{each['bytes']:,}", _evidence(each)]
            for each in artifacts
        ],
        optional=() if any(each["evidence"] for each in artifacts) else ("lower precision",),
    )


def _evidence(artifact: Document) -> str:
    if not (evidence := artifact["evidence"]):
        return ""
    text = f"{evidence['lowered_layers']} of {evidence['lstm_layers']} recurrent layers"
    if evidence["metric"]:
        direction = "worse" if evidence["loss"] >= 0 else "better"
        text += f", {evidence['metric'].replace('_', ' ')} {abs(evidence['loss']):.2%} {direction} than float32's"
    else:
        text += f", outputs off by {evidence['loss']:.2%} of float32's"
    if evidence["decisions_changed"] is not None:
        text += f", {evidence['decisions_changed']:.2%} of decisions changed"
    return text


def _show_training(training: Document) -> None:
    from lstm_deploy.training import result_tables

    console.say_heading("Training")
    data = training.get("data") or {}
    known = {key: value for key, value in training.items() if key not in ("metrics", "options", "data")}
    known |= {{"path": "data", "missing": "missing values"}.get(key, key): value for key, value in data.items()}
    if "sha256" in known:
        known["sha256"] = _short(known["sha256"])
    given = {key: value for key, value in known.items() if value not in EMPTY}
    console.say_fields(*((key.replace("_", " "), console.flat(value)) for key, value in given.items()))
    if metrics := training.get("metrics"):
        console.say_heading("On held-out data")
        console.say_table(*result_tables.metric_table(metrics))
    if options := training.get("options"):
        console.say_heading("Options of the training")
        _show_options(options)


def _show_options(options: Document) -> None:
    """Names and values as in a sentence, without those that are off."""
    shown = {key: value for key, value in options.items() if value not in (*EMPTY, False, 0, "", "none")}
    console.say(f"  {', '.join(f'{key} {console.flat(value)}' for key, value in shown.items())}", hang=2)


def _show_tensors(document: Document) -> None:
    if recurrent := document.get("recurrent"):
        console.say_heading("Recurrent layers")
        console.say_fields(*recurrent.items())
    if settings := document.get("settings"):
        console.say_heading("Settings in the file")
        console.say_fields(*((name, str(value)) for name, value in settings.items()))
    if tensors := document.get("tensors"):
        console.say_heading(f"{len(tensors)} tensors")
        console.say_fields(*list(tensors.items())[:MOST_TENSORS])
        if len(tensors) > MOST_TENSORS:
            console.say(f"  … and {len(tensors) - MOST_TENSORS} more; --json lists all.")


def _show_findings(document: Document) -> None:
    """What was inferred, and what is wrong: last, as it is to be acted on."""
    unrecognized, lint = document.get("unrecognized"), document.get("lint")
    findings = (
        ("inferred", console.FAINT, (*document.get("inferred", ()), *document.get("findings", ()))),
        ("note", console.FAINT, document.get("notes", ())),
        ("state", console.FAINT, [state for state in document.get("state", ()) if state not in (lint or ())]),
        ("not recognized", console.BAD, [unrecognized] if unrecognized else ()),
        ("changed since export", console.BAD, document.get("changed_files", ())),
        ("lint", console.BAD, lint or ()),
        ("lint", console.GOOD, ["no defects found"] if lint == [] else ()),
    )
    if any(entries for _, _, entries in findings):
        console.say()
    for word, style, entries in findings:
        for entry in entries:
            console.say((f"{word}: ", style), entry, hang=2)
