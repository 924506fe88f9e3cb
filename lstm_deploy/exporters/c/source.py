"""The texts of `model.c` and `model.h`: state, step, sequence and rollout around the translated graph."""

import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lstm_deploy.artifacts import environment
from lstm_deploy.contract import (
    C_BYTES,
    CONTRACT_KEY,
    STEPS,
    CInterface,
    Classify,
    CTensor,
    Forecast,
    LanguageModel,
    state_field,
)
from lstm_deploy.errors import InputError
from lstm_deploy.exporters.c.kernels import kernel_source
from lstm_deploy.exporters.c.literals import literal
from lstm_deploy.exporters.c.rollout import rollout_source
from lstm_deploy.exporters.c.sizes import Size
from lstm_deploy.exporters.c.templating import render
from lstm_deploy.exporters.c.translator import Translator
from lstm_deploy.exporters.c.values import Value
from lstm_deploy.exporters.c.weights import MAGIC

LARGEST_ON_STACK = 500_000
"""Bytes: threads have half a megabyte on some systems."""


class SourceFiles:
    """The two files of one model; where it is `mapped`, its weights are in a third."""

    interface: CInterface
    translator: Translator
    declarations: list[str]
    workspace: Size
    rollout: str

    def __init__(self, interface: CInterface, translator: Translator) -> None:
        """Raises `InputError` where a call would need more on the stack than threads have."""
        self.interface, self.translator = interface, translator
        mode = interface.mode
        self.declarations, self.workspace = _memory(translator.temporaries, on_stack=mode.one_step)
        self.rollout, rollout_stack = rollout_source(interface, self.workspace) if interface.has_rollout else ("", 0)
        stack = self.workspace.at(1) if mode.one_step or interface.has_step else 0
        if max(stack, rollout_stack) > LARGEST_ON_STACK:
            raise InputError(
                f"A call of this model needs {max(stack, rollout_stack) / 1e6:.1f} MB for what it computes on the way, "
                "too much for the stack of a C program; leave out --format c."
            )

    def source(self, header: str, weights_path: Path) -> str:
        """The text of `model.c`, which includes `header`; mapped weights are written to `weights_path`."""
        interface, translator = self.interface, self.translator
        digest = ""
        if interface.mapped:
            weights, digest = translator.weights.as_file(weights_path)
        else:
            weights = translator.weights.as_text()
        return render(
            "model.c",
            interface=interface,
            contract_key=CONTRACT_KEY,
            producer=environment.writers(),
            contract=interface.signature.to_json().replace("/", "\\/"),  # so that nothing in it ends the comment
            header=header,
            helpers=translator.helpers,
            kernels=kernel_source(translator.kernels, translator.weights.longest),
            weights=weights,
            states=self._states(),
            inputs=[_tensor(each) for each in interface.inputs],
            outputs=[_tensor(each) for each in interface.outputs],
            prototypes={function: head for function, (_, head) in interface.prototypes().items()},
            rollout=self.rollout,
            magic=MAGIC.decode(),
            digest=digest,
            weights_bytes=weights_path.stat().st_size if interface.mapped else 0,
            **self._call(),
        )

    def header(self, weights_path: Path) -> str:
        """The text of `model.h`."""
        task = self.interface.signature.task
        return render(
            "model.h",
            interface=self.interface,
            version=version("lstm-deploy"),
            about=self._about(),
            states=self._states(),
            workspace=str(self.workspace).replace(STEPS, f"(size_t)({STEPS})"),
            weights_file=weights_path.name,
            weights_bytes=weights_path.stat().st_size if self.interface.mapped else 0,
            window=task.window if isinstance(task, Forecast) else None,
        )

    def _call(self) -> dict[str, list[str]]:
        """The graph as a function of its inputs and outputs, state included: statements, parameters and arguments."""
        interface, mode, lines = self.interface, self.interface.mode, self.translator.lines
        read, written = (*interface.inputs, *interface.states_in), (*interface.outputs, *interface.states_out)
        unused = [each.name for each in read if not any(re.search(rf"\b{each.name}\b", line) for line in lines)]
        steps, workspace = [STEPS] if mode.dynamic else [], [] if mode.one_step else ["workspace"]
        return {
            "statements": [*self.declarations, *lines, *(f"(void){name};" for name in unused)],
            "call_parameters": [
                *(f"size_t {name}" for name in steps),
                *(f"const {each.c_type} *{each.name}" for each in read),
                *(f"{each.c_type} *{each.name}" for each in written),
                *(f"char *{name}" for name in workspace),
            ],
            "call_arguments": [
                *steps,
                *(each.name for each in interface.inputs),
                *(f"state->{state_field(each)}" for each in interface.states_in),
                *(each.name for each in interface.outputs),
                *(f"next.{state_field(each)}" for each in interface.states_in),
                *(f"(char *){name}" for name in workspace),
            ],
        }

    def _states(self) -> list[dict[str, Any]]:
        signature = self.interface.signature
        initial = signature.initial_state(1)
        states = []
        for before, after in zip(self.interface.states_in, self.interface.states_out, strict=True):
            start = initial[before.spec.name].reshape(-1)
            batch = signature.batch_axis_of_state
            states.append(
                {
                    "field": state_field(before),
                    "c_type": before.c_type,
                    "size": before.size,
                    "shape": [size for axis, size in enumerate(before.spec.shape) if axis != batch],
                    "before": before.spec.name,
                    "after": after.spec.name,
                    "initial": [literal(number) for number in start] if start.any() else [],
                }
            )
        return states

    def _about(self) -> list[str]:
        """Lines that describe the model to a reader of the header."""
        signature, task = self.interface.signature, self.interface.signature.task
        lines = [str(each.spec) for each in (*self.interface.inputs, *self.interface.outputs)]
        if isinstance(task, Forecast):
            features, targets = ", ".join(task.features), ", ".join(task.targets)
            lines.append(f"takes {features} and predicts the next {targets}, in raw units")
        elif isinstance(task, LanguageModel):
            lines.append("takes tokens, places in the vocabulary, and gives a logit for each that may be next")
        elif isinstance(task, Classify):
            lines.append(f"gives a logit for each of {', '.join(task.labels)}")
        began = "went on from the end of the one before" if signature.state_policy == "carry" else "began anew"
        lines += [
            "all for one row of the batch; nothing is checked: NaN stays in the state for good, and a token that",
            "is not in the vocabulary is taken for another one or for none",
            f"in training each sequence {began}",
        ]
        if signature.streaming != "exact":
            lines.append(f"chunks with carried state are NOT the whole sequence: {signature.streaming_reason}")
        return lines


def _tensor(tensor: CTensor) -> dict[str, Any]:
    """An input or output; `is_gathered` where the numbers of one step do not lie together."""
    return {
        "name": tensor.name,
        "c_type": tensor.c_type,
        "size": tensor.size,
        "outer": tensor.outer,
        "inner": tensor.inner,
        "has_time": tensor.has_time,
        "is_gathered": tensor.has_time and tensor.outer != 1,
    }


def _memory(temporaries: Sequence[Value], *, on_stack: bool) -> tuple[list[str], Size]:
    """Declarations of all temporaries, on the stack or in a workspace, and the bytes they take."""
    lines, offset = [], Size.of()
    for array in temporaries:
        c_type, name, size = array.c_type, array.buffer, array.size
        if on_stack:
            lines.append(f"{c_type} {name}[{max(1, size.number or 0)}];")
        else:
            lines.append(f"{c_type} *{name} = ({c_type} *)(void *)(workspace + {offset});")
        # Every array takes a multiple of 8 bytes, whatever the number of steps.
        offset = offset + Size.of(*(-(-factor * C_BYTES[c_type] // 8) * 8 for factor in size.coefficients))
    return [*lines, *([] if on_stack else ["(void)workspace;"])], offset
