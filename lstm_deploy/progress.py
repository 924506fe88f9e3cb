"""How long work reports how far it has come."""

from collections.abc import Callable

OnProgress = Callable[[int, int, str], None]
"""Called with the number of parts done, the number of all parts, and what is being done now."""


def silent(done: int, total: int, what: str) -> None:
    """Reports nothing."""


def part_of(on_progress: OnProgress, before: int, total: int) -> OnProgress:
    """For one part of some work of `total` parts, `before` of which are done when it begins."""
    return lambda done, _, what: on_progress(before + done, total, what)
