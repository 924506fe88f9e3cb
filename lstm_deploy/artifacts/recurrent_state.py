"""Where the recurrent nodes of an ONNX graph take their state from, and where it goes after the last step."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from lstm_deploy.artifacts.value_flow import FIRST_STATE, RecurrentNode, Source, ValueFlow

SINGULAR = {"leave": "leaves", "go": "goes"}
SHOWN = 3
"""Names of nodes, inputs or outputs that a sentence gives before it counts the others."""


class StatePath(NamedTuple):
    """The way of one state of a node through the graph, or of several that go the same way."""

    verdict: str
    """`carried`, `hidden`, `zero at each call`, `frozen`, `random`, `not returned` or `not returned as it is`."""
    states: str
    """Letters: `h`, `c` or `hc`."""
    start: str
    ends: tuple[tuple[str, str], ...]
    """A verb and where to, such as `leave`, `in the output hn`."""

    def __str__(self) -> str:
        several = len(self.states) > 1
        starts, nowhere = ("start", "no output returns them") if several else ("starts", "no output returns it")
        ends = " and ".join(f"{verb if several else SINGULAR[verb]} {where}" for verb, where in self.ends)
        return f"{' and '.join(self.states)} {starts} from {self.start} and {ends or nowhere}"


class NodeState(NamedTuple):
    """The ways of all states of a node."""

    label: str
    paths: tuple[StatePath, ...]
    in_branch: bool
    """Whether the node lies in a branch of an `If`, so that it may not run."""

    @property
    def is_carried(self) -> bool:
        """Whether a caller can hand all of it in, and gets it back."""
        return all(path.verdict == "carried" for path in self.paths)


def node_states(flow: ValueFlow) -> list[NodeState]:
    """The state of each recurrent node of a graph."""
    states = []
    for node in flow.recurrent:
        paths: list[StatePath] = []
        for number, letter in enumerate(node.states):
            path = _path(flow, node, number, letter)
            alike = next((other for other in paths if other._replace(states=letter) == path), None)
            if alike is None:
                paths.append(path)
            else:
                paths[paths.index(alike)] = path._replace(states=alike.states + letter)
        states.append(NodeState(node.label, tuple(paths), node.in_branch))
    return states


def sentences(states: Iterable[NodeState]) -> Iterator[str]:
    """One sentence for all nodes whose states go the same ways."""
    groups: dict[tuple[tuple[StatePath, ...], bool], list[str]] = {}
    for state in states:
        groups.setdefault((state.paths, state.in_branch), []).append(state.label)
    for (paths, in_branch), labels in groups.items():
        where = " (in a branch of an If)" if in_branch else ""
        verdicts = " and ".join(dict.fromkeys(path.verdict for path in paths))
        yield f"The state of {listed(labels)}{where} is {verdicts}: {'; '.join(map(str, paths))}."


def _path(flow: ValueFlow, node: RecurrentNode, number: int, letter: str) -> StatePath:
    value, final = node.input(FIRST_STATE + number), node.output(1 + number)
    sources = set() if value is None or flow.is_zero(value) else flow.sources(value)
    ends = flow.ends(final) if final else {}
    every_step = node.output(0)
    if letter == "h" and not any(ends.values()) and every_step and node.attribute("direction") in (None, b"forward"):
        ends = {**ends, **{name: moved for name, moved in flow.ends(every_step).items() if moved and name}}
    kinds = {source.kind for source in sources}
    returned = any(ends.values())
    if not kinds or kinds == {"zeros"}:
        verdict = "zero at each call" if returned else "hidden"
    elif kinds == {"constant"}:
        verdict = "frozen"
    elif kinds & {"random"}:
        verdict = "random"
    elif returned:
        verdict = "carried"
    else:
        verdict = "not returned as it is" if ends else "not returned"
    return StatePath(verdict, letter, _start(sources), _ways_out(ends))


def _start(sources: set[Source]) -> str:
    """What a state starts from, in words."""
    kinds = {source.kind for source in sources}
    if kinds <= {"zeros"}:
        return "zeros on every call"
    if kinds <= {"zeros", "constant"}:
        return "the same constant on every call"
    parts = []
    if "random" in kinds:
        parts.append("random numbers")
    for moved, words in ((True, "the input"), (False, "what is computed from the input")):
        if names := sorted(source.name for source in sources if source.kind == "input" and source.moved == moved):
            parts.append(f"{words}{'s'[: len(names) > 1]} {listed(names)}")
    if "recurrent" in kinds:
        parts.append("what another recurrent node gives")
    return " and ".join(parts)


def _ways_out(ends: dict[str, bool]) -> tuple[tuple[str, str], ...]:
    """Where a state goes, in words; empty where nothing that leaves the graph depends on it."""
    parts = []
    if given := sorted(name for name, moved in ends.items() if moved and name):
        parts.append(("leave", f"in {_outputs(given)}"))
    if "" in ends:
        parts.append(("go", "on to another recurrent node"))
    if not parts and ends:
        parts.append(("leave", f"only within what is computed for {_outputs(sorted(ends))}"))
    return tuple(parts)


def _outputs(names: list[str]) -> str:
    return f"the output{'s'[: len(names) > 1]} {listed(names)}"


def listed(names: list[str]) -> str:
    """The names as a sentence has them: `a, b, c and 5 more`."""
    more = len(names) - SHOWN
    shown = names if more <= 1 else names[:SHOWN]
    tail = [f"{more} more"] if more > 1 else []
    *first, last = [*shown, *tail]
    return f"{', '.join(first)} and {last}" if first else last
