"""Typer's errors of usage as sentences of ours, with what was probably meant."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lstm_deploy.errors import InputError, did_you_mean, nearest

REASONS = {
    "Value error, ": "",
    "Input should be less than or equal to": "it must be at most",
    "Input should be greater than or equal to": "it must be at least",
    "Input should be a valid integer, unable to parse string as an integer": "it must be a whole number",
    "Input should be a valid number, unable to parse string as a number": "it must be a number",
}
"""Typer's reasons against a value, and ours."""


@contextmanager
def explained(context: Any) -> Iterator[None]:
    """Turn an error of Typer's parser into an `InputError`; `context` is that of the command."""
    try:
        yield
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        raise InputError(_sentence(error, context)) from error


def _sentence(error: Any, context: Any) -> str:
    see_help = f"see {context.command_path} --help."
    if unknown := re.match(r"No such command '(.*?)'", error.message):
        return f"There is no command {unknown[1]!r}; {did_you_mean(unknown[1], context.command.commands)}"
    if hasattr(error, "possibilities"):  # an option that does not exist
        options = [name for each in context.command.get_params(context) for name in (*each.opts, *each.secondary_opts)]
        near = nearest(error.option_name, [name for name in options if name.startswith("--")])
        return f"There is no option {error.option_name}; {f'did you mean {near}?' if near else see_help}"
    if parameter := getattr(error, "param", None):
        return _about(parameter, error)
    return f"{error.message.rstrip('.')}; {see_help}"


def _about(parameter: Any, error: Any) -> str:
    """Why the value of a parameter cannot be used."""
    if type(error).__name__ == "MissingParameter":
        return f"Missing {parameter.metavar}: {parameter.help[0].lower()}{parameter.help[1:]}"
    name = parameter.metavar if parameter.param_type_name == "argument" else max(parameter.opts, key=len)
    if choice := re.search(r"(?P<quote>['\"])(?P<wrong>.*?)(?P=quote) is not one of (?P<known>.*)", error.message):
        known = re.findall("'(.*?)'", choice["known"])
        return f"{name} cannot be {choice['wrong']!r}; {did_you_mean(choice['wrong'], known)}"
    reason = error.message.rstrip(".")
    for theirs, ours in REASONS.items():
        reason = reason.replace(theirs, ours)
    details: list[Any] = getattr(error.__cause__, "errors", list)()  # of Pydantic, with the value
    return f"{name} cannot be {details[0]['input']!r}; {reason}." if details else f"{name}: {reason}."
