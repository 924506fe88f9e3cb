"""How a bundle is used: what goes into its model and comes out, and the variables of the programs in its report."""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from lstm_deploy.artifacts import FORMATS, Bundle, Manifest, read_interface, weights_file
from lstm_deploy.contract import (
    CInterface,
    Classify,
    CTensor,
    Forecast,
    LanguageModel,
    Layout,
    Signature,
    TensorSpec,
    layout_of,
    no_rollout_reason,
    sizes_of,
    state_field,
)
from lstm_deploy.embedding import LANGUAGES, languages_of
from lstm_deploy.errors import InputError

STEPS = 5
"""Of a call in the programs, where the model leaves it open."""
LISTED = 12
"""Most names that are listed in one line."""
PROMPTS = ("The ", "the ", "I ")
"""Beginnings of a text, of which the first is taken that a model has the characters for."""


def usage(bundle: Bundle) -> dict[str, Any]:
    """The variables of the templates in `templates/` that say how the bundle is used."""
    manifest, signature = bundle.manifest, bundle.signature
    layout = _layout(signature)
    way = way_of_calling(signature, layout)
    reset = way == "forecast" and signature.state_policy == "reset"
    steps = (
        layout.window or signature.task.window if reset and layout and isinstance(signature.task, Forecast) else STEPS
    )
    sizes = signature.clamp(sizes_of(signature.inputs, 1, steps))
    return {
        "signature": signature,
        "task": signature.task,
        "way": way,
        "carried": signature.streaming != "none" and not reset,
        "rolls": not no_rollout_reason(signature),
        "window": signature.task.window if isinstance(signature.task, Forecast) else None,
        "windows": reset or signature.streaming == "none",
        "layout": layout,
        "files": dict.fromkeys(FORMATS, "") | {a.format: a.path for a in manifest.artifacts if not a.evidence},
        "inputs": [_tensor(spec, sizes) for spec in signature.inputs],
        "outputs": signature.outputs,
        "states": _states(signature, sizes),
        "learned": any(spec.initial is not None for spec in signature.state_specs),
        "row": _row(signature) if way == "stream" else (),
        "numbers": ",".join(["0"] * prod(_row(signature))) if way == "stream" and signature.least_seq == 1 else "",
        "text": sample_text(signature.task),
        "example": _example_row(signature),
        "meanings": _meanings(manifest),
        "rules": [*_state_rules(signature), *_size_rules(signature), *_task_rules(signature)],
        "c": _c_program(bundle, sizes),
        "clients": [(name, LANGUAGES[name].needs) for name in languages_of(bundle)],
    }


def _layout(signature: Signature) -> Layout | None:
    try:
        return layout_of(signature)
    except InputError:
        return None


def way_of_calling(signature: Signature, layout: Layout | None) -> str:
    """How a program calls the model, from its task down to whole sequences: the first of these that it can.

    `forecast`, `lm` and `classify` are those of a task, `stream` takes one step after the other, `calls` chunks of
    several inputs with the state handed on, `whole` a sequence in one call.
    """
    task, inputs = signature.task, signature.inputs
    if layout is not None:
        if (
            isinstance(task, Forecast)
            and len(inputs) == 1
            and (layout.has_features or signature.state_policy == "reset")
        ):
            return "forecast"
        if isinstance(task, LanguageModel) and not no_rollout_reason(signature):
            return "lm"
        if isinstance(task, Classify) and layout.window is None and not layout.one_step:
            return "classify"
    if signature.streaming == "none":
        return "whole"
    streams = len(inputs) == 1 and signature.outputs and (signature.one_step or "seq" in inputs[0].shape)
    return "stream" if streams else "calls"


def sample_text(task: object) -> str:
    """A short text that a model of texts has all pieces of; empty for other models."""
    if isinstance(task, LanguageModel):
        known = set(task.vocabulary)
        plain = [entry for entry in task.vocabulary if entry.isalnum() and entry.isascii()]
        return next((text for text in PROMPTS if set(text) <= known), (plain or task.vocabulary)[0])
    if isinstance(task, Classify):
        words = [entry for entry in task.vocabulary if entry.isalnum() and entry.isascii()]
        return ("" if task.unit == "character" else " ").join((words or task.vocabulary)[:3])
    return ""


def _tensor(spec: TensorSpec, sizes: Mapping[str, int]) -> dict[str, Any]:
    """A tensor with the shape and the value of an example, in Python."""
    shape = spec.sized(sizes)
    value = "0"
    if spec.is_lengths:
        value = str(sizes.get("seq", 1))
    elif spec.tells_lengths:  # a value that is not padding
        value = str(int(spec.padding == 0))
    return {"name": spec.name, "dtype": spec.dtype, "dims": spec.shape, "shape": shape, "value": value}


def _states(signature: Signature, sizes: Mapping[str, int]) -> list[dict[str, Any]]:
    """The state: its names before and after a call, its shape, and where the contract has its first value."""
    states = []
    prefixes = [module.prefix for module in signature.recurrent]
    specs = zip(signature.state_inputs, signature.state_outputs, signature.state_specs, strict=True)
    for number, (before, after, spec) in enumerate(specs):
        place: tuple[str | int, ...] = ("states", number, "initial")
        if not signature.states:  # those of the recurrent modules themselves
            prefix, letter = spec.name[:-1], spec.name[-1]
            place = ("recurrent", prefixes.index(prefix), f"initial_{letter}")
        first = None if spec.initial is None else "".join(f"[{_quoted(key)}]" for key in place)
        states.append(
            {"name": before.name, "out": after.name, "shape": before.sized(sizes), "initial": first, "spec": before}
        )
    return states


def _quoted(key: str | int) -> str:
    return f'"{key}"' if isinstance(key, str) else str(key)


def _row(signature: Signature) -> tuple[int, ...]:
    """The shape of one step of one row, as streams take it."""
    over_time = signature.over_time(signature.inputs[0])
    return tuple(dim if isinstance(dim, int) else 1 for dim in over_time.shape if dim != "seq")


def _example_row(signature: Signature) -> str:
    """A row of a forecaster's features in Python: the middle of what training saw, or zeros."""
    task, x = signature.task, signature.inputs[0]
    if not isinstance(task, Forecast):
        return ""
    width = len(task.features)
    if x.low is None or x.high is None or len(x.low) not in (1, width) or width > LISTED:
        return f"np.zeros({width}, np.float32)"
    middles = [(low + high) / 2 for low, high in zip(x.low, x.high, strict=True)] * (width // len(x.low))
    return f"np.float32([{', '.join(f'{value:.4g}' for value in middles)}])"


def listed(names: Sequence[str]) -> str:
    """Names in code, the first few of many."""
    shown = ", ".join(map(code, names[:LISTED]))
    return shown if len(names) <= LISTED else f"{shown}, … ({len(names):,} in all)"


def code(text: str) -> str:
    """A text as code in Markdown, inside a table too."""
    plain = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    return f"`{plain.replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def _meanings(manifest: Manifest) -> list[tuple[str, str]]:
    """Each tensor of a call with its meaning: inputs, outputs, and each state with what it becomes."""
    signature = manifest.contract
    ours = manifest.source.kind == "checkpoint"
    rows = [(code(str(spec)), _meaning_of_input(signature, spec, ours)) for spec in signature.inputs]
    rows += [(code(str(spec)), _meaning_of_output(signature, spec, ours)) for spec in signature.outputs]
    for before, after, spec in zip(signature.state_inputs, signature.state_outputs, signature.state_specs, strict=True):
        start = "zeros" if spec.initial is None else "what the model has learned (in the contract)"
        rows.append((code(str(before)), f"state before the first step of the call; a sequence starts from {start}"))
        rows.append((code(str(after)), f"the same after the last step: the next {code(before.name)}"))
    return rows


def _meaning_of_input(signature: Signature, spec: TensorSpec, ours: bool) -> str:
    task = signature.task
    if spec.is_lengths:
        return "the number of valid steps of each row; what comes after them is padding"
    if spec.tells_lengths:
        return f"steps of {spec.padding:g} at the end of a row are padding"
    if isinstance(task, Forecast) and spec == signature.inputs[0]:
        units = "raw units, as scaling is in the model" if ours else "the units of the module itself"
        return f"{listed(task.features)}, in this order, in {units}; steps in order of time"
    if task is not None and spec == signature.inputs[0]:
        kind = (
            "token: its number in the vocabulary, from 0" if spec.dtype.startswith("int") else "token as a one-hot row"
        )
        return f"one {kind}"
    return "as the module's own `forward` takes it"


def _meaning_of_output(signature: Signature, spec: TensorSpec, ours: bool) -> str:
    task = signature.task
    if task is None or spec != signature.outputs[0]:
        return "as the module's own `forward` returns it"
    when = "after each step" if "seq" in spec.shape else "after the last step"
    if isinstance(task, Forecast):
        units = "raw units" if ours else "units of the module"
        return f"the prediction of what follows, {when}, in {units}: {listed(task.output_names)}"
    if isinstance(task, LanguageModel):
        return f"a logit for each entry of the vocabulary, {when}: how likely it comes next"
    return f"a logit for each label, {when}: {listed(task.labels)}; softmax makes them probabilities"


def _state_rules(signature: Signature) -> list[str]:
    """When the state is carried and when it starts anew, and how a sequence may be cut."""
    pairs = zip(signature.state_inputs, signature.state_outputs, strict=True)
    fed = ", ".join(f"{code(after.name)} as {code(before.name)}" for before, after in pairs)
    reason = signature.streaming_reason or "it is so in PyTorch, too"
    match signature.streaming:
        case "none":
            return [f"**No streaming**: give whole sequences, each from the initial state ({reason})."]
        case "state-only":
            rules = [f"**State**: feed {fed} to go on with a sequence, and the initial state to begin another."]
            rules.append(
                f"**Streaming**: the state can be carried, but outputs depend on where a sequence is cut ({reason})."
            )
        case _:
            rules = [f"**State**: feed {fed} to go on with a sequence, and the initial state to begin another."]
            unit = (
                "a call is one step" if signature.one_step else "a sequence may be cut anywhere, down to single steps"
            )
            rules.append(
                f"**Streaming**: {unit}; with the state carried, the results are those of the whole (measured)."
            )
    if signature.task is not None and signature.state_policy == "carry":
        rules.append("**Training** carried the state on: reset it only where a new series or text begins.")
    elif isinstance(signature.task, Forecast):
        window = signature.task.window
        rules.append(
            f"**Training** began each window of {window} rows from the initial state: forecasts are best made so, from "
            f"the latest {window} rows, not from a state that was carried for long."
        )
    return rules


def _size_rules(signature: Signature) -> list[str]:
    """The sizes that a call may have."""
    named = dict.fromkeys(dim for spec in signature.inputs for dim in spec.shape if isinstance(dim, str))
    fixed = {dim.name for dim in signature.fixed}
    rules = []
    if free := [code(dim) for dim in named if dim not in fixed]:
        rules.append(f"**Sizes**: {' and '.join(free)} may be any size, and another in each call.")
    rules += [f"**Sizes**: {code(dim.name)} is {dim.size} ({dim.reason})." for dim in signature.fixed]
    if signature.least_seq > 1:
        rules.append(f"**Sizes**: a call takes {signature.least_seq} steps or more.")
    return rules


def _task_rules(signature: Signature) -> list[str]:
    """The vocabulary and the labels."""
    task, rules = signature.task, []
    if isinstance(task, Classify):
        rules.append(f"**Labels**, in the order of the outputs: {listed(task.labels)}.")
    if isinstance(task, LanguageModel | Classify):
        kind = "the 256 bytes of UTF-8" if task.unit == "byte" else listed(task.vocabulary)
        rules.append(f"**Vocabulary**: {kind}; all of it is in `manifest.json` (`contract.task.vocabulary`).")
    if isinstance(task, Classify) and task.unknown is not None:
        rules.append(f"**Unknown {task.unit}s** are token {task.unknown}.")
    return rules


def _c_program(bundle: Bundle, sizes: Mapping[str, int]) -> dict[str, Any] | None:
    """The variables of the program in C; None where the bundle has no C that can be read."""
    try:
        artifact = bundle.find("c")
        interface = read_interface(bundle.file(artifact))
    except InputError:
        return None
    if artifact.path != FORMATS["c"].file_name():  # a manifest may come from anyone, and this name goes into code
        return None
    mode = interface.mode
    takes_steps = mode.one_step or mode.dynamic
    arguments = [*(["STEPS"] if takes_steps else []), *(each.name for each in (*interface.inputs, *interface.outputs))]
    return {
        "prefix": interface.name,
        "file": artifact.path,
        "header": Path(artifact.path).with_suffix(".h").name,
        "weights": weights_file(Path(artifact.path)).name if interface.mapped else None,
        "steps": sizes.get("seq", 1) if takes_steps else None,
        "workspace": "" if mode.one_step else interface.workspace_macro.replace("(steps)", "(STEPS)"),
        "has_step": interface.has_step,
        "arrays": [_c_array(interface, each, sizes) for each in (*interface.inputs, *interface.outputs)],
        "arguments": ", ".join(arguments),
        "result": interface.outputs[0].name if interface.outputs else f"state.{state_field(interface.states_in[0])}",
    }


def _c_array(interface: CInterface, tensor: CTensor, sizes: Mapping[str, int]) -> str:
    """The declaration of an array of an input or output."""
    size = f"{interface.name.upper()}_{tensor.name.upper()}_SIZE"
    several = tensor.has_time and (interface.mode.one_step or interface.mode.dynamic)
    value = f" = {{{sizes.get('seq', 1)}}}" if tensor.spec.is_lengths else ""
    return f"static {tensor.c_type} {tensor.name}[{'STEPS * ' * several}{size}]{value};"
