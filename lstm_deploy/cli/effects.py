"""Options that would have no effect are refused, for all commands in one way, before anything is done.

An option counts as given where it is on the command line, also with its default. What only permits something
(`--force`, `--trust-c`, `--unvalidated`, `--no-record`) may be given where nothing needs the permission. Where only a
file tells that an option has no effect, the code that reads it refuses the option with the same sentence.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lstm_deploy.cli.arguments import listed
from lstm_deploy.errors import without_effect

Given = Mapping[str, Any]
"""The values of a command's parameters, by name."""
SOURCE = ("model", "init", "weights_key", "inputs", "trust_pickle")
MEASURING = (
    *("provider", "scenario", "scope", "batch", "seq_len", "threads", "baseline", "reference", *SOURCE),
    *("rounds", "seed", "roofline", "unvalidated", "record"),
)


class Rule(NamedTuple):
    """Parameters that have no effect where something holds; the reason may name values of parameters."""

    parameters: tuple[str, ...]
    reason: str
    holds: Callable[[Given], object]


def _is_artifact(path: Any) -> bool:
    from lstm_deploy.artifacts import SUFFIXES

    return path is not None and (Path(path).is_dir() or Path(path).suffix in SUFFIXES)


def _is_document(given: Given) -> bool:
    return Path(given["targets"][0]).suffix == ".json"


RULES: dict[str, tuple[Rule, ...]] = {
    "train": (
        Rule(
            ("data", "rows", "target", "features", "missing"),
            "for --task {task}",
            lambda given: given["task"] not in (None, "forecast"),
        ),
        Rule(
            ("text_column", "label_column", "vectors"),
            "for --task {task}",
            lambda given: given["task"] not in (None, "classify"),
        ),
        Rule(("target", "features", "missing"), "with --data", lambda given: given["data"]),
        Rule(("rows",), "without --data", lambda given: not given["data"]),
        Rule(("freeze_vectors",), "without --vectors", lambda given: not given["vectors"]),
        Rule(("embedding_size",), "with --vectors, which have a width", lambda given: given["vectors"]),
        Rule(("range", "search_epochs"), "without --search", lambda given: not given["search"]),
    ),
    "export": (
        Rule(("features", "target", "window"), "without --task forecast", lambda given: given["task"] != "forecast"),
        Rule(("vocabulary",), "without --task lm or classify", lambda given: given["task"] not in ("lm", "classify")),
        Rule(("labels", "unit"), "without --task classify", lambda given: given["task"] != "classify"),
        Rule(("int8_cpus",), "without --quantize", lambda given: not given["quantize"]),
        Rule(("state_dtype",), "without --half", lambda given: not given["half"]),
    ),
    "validate": (
        Rule(SOURCE, "without --reference", lambda given: not given["reference"]),
        Rule(SOURCE, "with --reference {reference}, an artifact", lambda given: _is_artifact(given["reference"])),
        Rule(
            ("record",),
            "on {target}, which is no bundle",
            lambda given: given["record"] and not Path(given["target"]).is_dir(),
        ),
    ),
    "bench": (
        Rule(MEASURING, "on {targets[0]}, which is shown and not measured", _is_document),
        Rule(SOURCE, "without --reference", lambda given: not given["reference"]),
        Rule(
            ("seq_len",),
            "with --scenario stream, one step a call",
            lambda given: listed(given["scenario"]) == ("stream",),
        ),
        Rule(
            ("record",),
            "on anything but one bundle",
            lambda given: given["record"] and not (len(given["targets"]) == 1 and Path(given["targets"][0]).is_dir()),
        ),
    ),
    "run": (
        Rule(("raw",), "without --stream", lambda given: not given["stream"]),
        Rule(
            ("input", "prompt", "output", "plot"),
            "with --stream, which reads standard input and writes standard output",
            lambda given: given["stream"],
        ),
        Rule(("json",), "with --raw", lambda given: given["raw"]),
    ),
    "embed": (Rule(("bundle", "lang", "output", "precision", "force"), "with --list", lambda given: given["list_"]),),
}
"""By the name of the command; the first that holds is reported."""


def check(context: Any) -> None:
    """Raise `InputError` for an option of this call that would have no effect."""
    for rule in RULES.get(context.command.name, ()):
        if rule.holds(context.params):
            refuse(context, rule.reason.format(**context.params), *rule.parameters)


def refuse(context: Any, reason: str, *names: str) -> None:
    """Raise `InputError` for the first of these parameters that is given: it has no effect, for this reason."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name)
        if parameter.name in names and source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT"):
            raise without_effect(_spelling(parameter, context.params[parameter.name]), reason)


def _spelling(parameter: Any, value: Any) -> str:
    """An option as it is written: `--no-record` where that is what was given."""
    names: list[str] = parameter.secondary_opts if value is False and parameter.secondary_opts else parameter.opts
    return max(names, key=len)
