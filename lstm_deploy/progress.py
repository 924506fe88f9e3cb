"""How long work reports how far it has come."""

from collections.abc import Callable

OnProgress = Callable[[int, int, str], None]
"""Called with the number of parts done, the number of all parts, and what is being done now."""


def silent(done: int, total: int, what: str) -> None:
    """Reports nothing."""
