"""The commands that a command prints under `next:`."""

BEGINNING = "next: "


def next_lines(printed: str) -> list[str]:
    """Each of them, as it can be typed into a shell."""
    lines, found = printed.splitlines(), []
    for number, line in enumerate(lines):
        if line.startswith(BEGINNING):
            following = [*lines[number + 1 :], ""]
            end = next(n for n, other in enumerate(following) if not other.startswith(" " * len(BEGINNING)))
            found += [each[len(BEGINNING) :] for each in [line, *following[:end]]]
    return found
