"""The description that a C artifact contains: its contract, its precision and the names of its functions."""

import re
from pathlib import Path

from lstm_deploy.contract import CONTRACT_KEY, CInterface, Signature
from lstm_deploy.errors import InputError, one_line

_NAMES = re.compile(r"/\* precision (\w+), functions (\w+)_\* \*/")
_CONTRACT = re.compile(rf"\A/\* {re.escape(CONTRACT_KEY)}\n(.*?)\n\*/\n", re.DOTALL)


def read_interface(path: Path) -> CInterface:
    """The interface of a C artifact; raises `InputError` for any other file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text ({one_line(error)}); check the path.") from error
    contract, names = _CONTRACT.match(text), _NAMES.search(text)
    if contract is None or names is None:
        raise InputError(f"{path} carries no contract, so its state is unknown; export it with lstm-deploy.")
    mapped = f"int {names[2]}_fits(const void *weights, size_t bytes)" in text
    return CInterface(names[2], Signature.from_json(contract[1]), names[1], mapped=mapped)
