"""Vocabularies: built from the texts of a training, or read from a file. No PyTorch."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from lstm_deploy.artifacts import read_text
from lstm_deploy.contract import Unit, split_text
from lstm_deploy.errors import InputError

UNKNOWN = "<unk>"
"""The entry of the vocabularies built here that stands for everything else; its token is 0."""
UNKNOWN_SPELLINGS = (UNKNOWN, "<UNK>", "[UNK]")


def build_vocabulary(texts: Iterable[str], unit: Unit, size: int, least_count: int) -> tuple[str, ...]:
    """`UNKNOWN` and the most frequent units, `size` entries at most, each with `least_count` occurrences or more.

    Raises `InputError` if no unit is that frequent.
    """
    counts = Counter(piece for text in texts for piece in split_text(text, unit))
    counts.pop(UNKNOWN, None)
    by_frequency = sorted(counts, key=lambda piece: (-counts[piece], piece))
    entries = [piece for piece in by_frequency[: size - 1] if counts[piece] >= least_count]
    if not entries:
        raise InputError(f"No {unit} occurs {least_count} times in the texts; add texts, or lower --least-count.")
    return (UNKNOWN, *entries)


def read_vocabulary(path: Path, *, characters: bool) -> tuple[tuple[str, ...], int | None]:
    """The entries of a vocabulary in the order of their tokens, and the token for unknown entries, if there is one.

    JSON: a list of entries, or an object that maps each entry to its token; `<unk>`, `[UNK]` or `<UNK>` stands for
    unknown entries. Any other file is a text: of words separated by white space, or with `characters` any text, whose
    distinct characters, sorted by code point, are the vocabulary. Raises `InputError` for anything else.
    """
    text = read_text(path)
    if path.suffix == ".json":
        entries = _entries_of_json(text, path)
    else:
        entries = sorted(set(text)) if characters else text.split()
    if len(set(entries)) != len(entries):
        raise InputError(f"{path} has an entry twice; remove one of them.")
    if characters and (long := [entry for entry in entries if len(entry) > 1 and entry not in UNKNOWN_SPELLINGS]):
        raise InputError(f"{path} has the entry {long[0]!r}, which is not one character; correct it.")
    unknown = next((token for token, entry in enumerate(entries) if entry in UNKNOWN_SPELLINGS), None)
    return tuple(entries), unknown


def _entries_of_json(text: str, path: Path) -> list[str]:
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}); give a list of entries.") from error
    if isinstance(content, dict):
        by_token = {token: entry for entry, token in content.items() if isinstance(token, int)}
        if sorted(by_token) != list(range(len(content))):
            raise InputError(f"{path} does not give the tokens 0 to {len(content) - 1}, each once; correct it.")
        content = [by_token[token] for token in range(len(content))]
    if not isinstance(content, list) or not all(isinstance(entry, str) and entry for entry in content):
        raise InputError(f'{path} is not a list of entries; write it as ["a", "b"].')
    return content
