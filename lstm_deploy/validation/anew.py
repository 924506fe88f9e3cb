"""The check `structure`: an artifact held against the one that the reference is written as anew."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import onnx

from lstm_deploy.artifacts import CrashError, environment, producer_of, run_isolated
from lstm_deploy.errors import InputError, one_line
from lstm_deploy.progress import OnProgress
from lstm_deploy.validation.c_structure import c_differences
from lstm_deploy.validation.conditions import SIZES, Condition, conditions, numbers_of
from lstm_deploy.validation.masking import masked_inputs
from lstm_deploy.validation.onnx_structure import onnx_structure
from lstm_deploy.validation.structure import differences

if TYPE_CHECKING:
    from lstm_deploy.lifting import Lifted
    from lstm_deploy.validation.checks import Subject


class Written(NamedTuple):
    """What the artifacts of a model are written as today."""

    files: Mapping[str, Path | str]
    """The new file for the name of each artifact, or why there is none."""
    graph: Path | None = None
    """The ONNX graph in float32, from which all but TorchScript is made, if it could be written."""


WriteAnew = Callable[["Lifted", Sequence["Subject"], Path, OnProgress], Written]
"""Writes each artifact anew into a folder, from a lifted module that it leaves as it was.

The writers stand above this room, so they are handed in.
"""
SAME = "the same nodes, wiring and weights as export writes for the reference"
BY_EXAMPLES = "proven by examples only"
NAMED = 4
"""Nodes that are named in a report of what passes."""


class Anew:
    """An artifact, and what `export` writes in its place today."""

    subject: "Subject"
    right: Path | str
    of_source: bool

    def __init__(self, subject: "Subject", right: Path | str, *, of_source: bool = False) -> None:
        """`right` is the new file, or why there is none; `of_source` says whether it was exported from the reference.

        Where it was not, the reference may be another program that computes the same.
        """
        self.subject, self.right, self.of_source = subject, right, of_source

    @cached_property
    def differences(self) -> list[str] | None:
        """One sentence for each difference; none where nothing can be compared."""
        path, right = self.subject.path, self.right
        if isinstance(right, str):
            return None
        if path.suffix == ".onnx":
            return differences(onnx_structure(path), onnx_structure(right))
        if path.suffix == ".c":
            return c_differences(path, right)
        from lstm_deploy.validation.torchscript_structure import torchscript_structure

        return differences(torchscript_structure(path), torchscript_structure(right))

    @cached_property
    def conditions(self) -> list[Condition]:
        """What an ONNX graph, unless it is the one that `export` writes, does at some sizes or values only."""
        if self.subject.path.suffix != ".onnx" or self.subject.model is not None:
            return []  # a rollout is called in other ways than its model
        try:
            if self.differences == []:
                return []
            return conditions(onnx.load(self.subject.path, load_external_data=False))
        except Exception:  # of a file that other checks refuse
            return []

    @property
    def numbers(self) -> list[float]:
        """At which the artifact may begin to do something else."""
        return numbers_of(self.conditions)

    def findings(self) -> tuple[list[str], str]:
        """The problems, one sentence each; if there are none, what was found."""
        try:
            different = self.differences
        except InputError as error:
            return [], f"{BY_EXAMPLES}: {str(error).rstrip('.')}"
        except Exception as error:  # whatever a library raises on a file that was changed
            return [f"The graph cannot be read ({one_line(error)})."], ""
        if different == []:
            return [], SAME
        if different is None:
            return [], "; ".join([f"{BY_EXAMPLES}: {self.right}", *self._conditions()])
        now, then = environment.writers(), self._written_with()
        if then == now and self.of_source:
            return ["It is not what export writes for the reference.", *different], ""
        named = " ".join(different[:NAMED]).rstrip(".")
        why = f"it was written with {then}, and this is {now}" if then else "another program wrote it"
        if then == now:
            why = "the reference is not what it was exported from"
        found = [f"{BY_EXAMPLES}: {why}; export writes another graph here ({named})", *self._conditions()]
        return self._masked(), "; ".join(found)

    def _masked(self) -> list[str]:
        """One sentence for each input whose NaN is taken for a number, where the graph looks at inputs at all."""
        if isinstance(self.right, str) or not any(condition.of not in ("", SIZES) for condition in self.conditions):
            return []
        try:
            return run_isolated(masked_inputs, self.subject.path, self.right, self.numbers)
        except (CrashError, InputError):  # of which other checks tell
            return []

    def _written_with(self) -> str:
        bundle = self.subject.bundle
        return environment.writers(bundle.manifest.versions) if bundle else producer_of(self.subject.path)

    def _conditions(self) -> list[str]:
        """What is done at some sizes or values only, in words."""
        found = self.conditions
        if not found:
            return []
        listed = ", ".join(map(str, found[:NAMED]))
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        what = "sizes" if self.subject.precision == "int8" else "sizes, inputs and states"
        numbers = ", ".join(f"{number:g}" for number in self.numbers)
        tried = f"; {what} around {numbers} were tried, as far as a call can have them" if numbers else ""
        return [f"these nodes compare, choose or clip: {listed}{more}{tried}"]
