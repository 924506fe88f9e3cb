"""The rollout of a model as one ONNX graph: the model's own graph, as a function, inside the loops written below.

The texts are ONNX's own syntax (`onnx.parser`), and `rollouts` says what they compute. In them `@name` stands for
`name_0, name_1, …`, one for each tensor of the state (`@@name` with their types), and a line that begins with `each`
is repeated for each, with its number for `#`. Functions are inlined, so each call of the model becomes a copy of its
nodes; all copies share its weights.

A small LSTM takes as long as a few nodes do, so a loop has no node that it can do without: rows keep their axis of
time, the usual case (the likeliest token, no end) has a branch of its own, and the loops carry each layer's state
apart, where the model would only cut them out of one tensor and put them together again (`split_states`). What is both
carried and collected is listed twice among a loop's outputs, since a copy would cost a twentieth of the step.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from msgspec.structs import replace
from onnx import helper, inliner, numpy_helper, parser

from lstm_deploy.artifacts import CPUS_KEY, onnx_graph
from lstm_deploy.contract import (
    CONTRACT_KEY,
    LSTM,
    MIN_TEMPERATURE,
    Array,
    Dim,
    Forecast,
    LanguageModel,
    Signature,
    TensorSpec,
    carries_state,
    layout_of,
    rollout_contract,
    window_of,
)

GENERATE = """
  zero = Constant <value_int = 0> ()
  zeros = Constant <value_ints = [0]> ()
  one = Constant <value_int = 1> ()
  ones = Constant <value_ints = [1]> ()
  twos = Constant <value_ints = [2]> ()
  on = Cast <to = 9> (one)
  least = ReduceMin <keepdims = 1> (lengths)
  most = ReduceMax <keepdims = 1> (lengths)
  common = Slice (x, zeros, least, ones)
  common_said, @common = local.read (common, @in, WEIGHTS)
  difference = Sub (most, least)
  rest = Squeeze (difference)
  said, @read = Loop (rest, on, common_said, @common) <body = longer_prompts
    (int64 i, bool go_on, float[SAID] known, @@before)
    => (bool still, float[SAID] known_after, @@after)
  {
    still = Identity (go_on)
    time = Add (least, i)
    token = Gather <axis = 1> (x, time)
    further, @further = local.step (token, @before, WEIGHTS)
    reads = Less (time, lengths)
    said_axes = Constant <value_ints = SAID_AXES> ()
    reads_said = Unsqueeze (reads, said_axes)
    known_after = Where (reads_said, further, known)
    state_axes = Constant <value_ints = STATE_AXES> ()
    reads_state = Unsqueeze (reads, state_axes)
    each after_# = Where (reads_state, further_#, before_#)
  }>

  coldest = Constant <value_float = COLDEST> ()
  greedy = Less (temperature, coldest)
  endless = Less (stop, zero)
  plain = And (greedy, endless)
  vocabulary = Constant <value_int = WIDTH> ()
  no_limit = LessOrEqual (top_k, zero)
  limit = Where (no_limit, vocabulary, top_k)
  possible = Min (limit, vocabulary)
  candidates = Reshape (possible, ones)
  first = local.choose (said, noise, zeros, greedy, temperature, candidates)
  first_left = local.any_other (first, stop)
  steps = Shape <start = 1, end = 2> (noise)
  fewer = Sub (steps, ones)
  trips = Squeeze (fewer)
  last, @out, made = Loop (trips, first_left, first, @read) <body = write
    (int64 i, bool go_on, int64[batch, 1] token, @@before)
    => (bool left, int64[batch, 1] next, @@after, int64[batch, 1] next)
  {
    answer, @after = local.step (token, @before, WEIGHTS)
    next, left = If (plain) <
      then_branch = likeliest () => (int64[batch, 1] top, bool goes_on)
      {
        top = ArgMax <axis = -1, keepdims = KEEPDIMS> (answer)
        goes_on = Identity (go_on)
      },
      else_branch = any_way () => (int64[batch, 1] wanted, bool some)
      {
        following = Add (i, ones)
        chosen = local.choose (answer, noise, following, greedy, temperature, candidates)
        ended = Equal (token, stop)
        wanted = Where (ended, stop, chosen)
        some = local.any_other (wanted, stop)
      }>
  }>
  rows = Squeeze (made, twos)
  by_row = Transpose <perm = [1, 0]> (rows)
  y = Concat <axis = 1> (first, by_row)
"""

CARRY = """
  one = Constant <value_int = 1> ()
  twos = Constant <value_ints = [2]> ()
  on = Cast <to = 9> (one)
  first, @first = local.read (x, @in, WEIGHTS)
  trips = Sub (steps, one)
  last, @out, made = Loop (trips, on, first, @first) <body = predict
    (int64 i, bool go_on, float[batch, 1, WIDTH] value, @@before)
    => (bool still, float[batch, 1, WIDTH] next, @@after, float[batch, 1, WIDTH] next)
  {
    still = Identity (go_on)
    next, @after = local.step (value, @before, WEIGHTS)
  }>
  rows = Squeeze (made, twos)
  by_row = Transpose <perm = [1, 0, 2]> (rows)
  y = Concat <axis = 1> (first, by_row)
"""

RESET = """
  one = Constant <value_int = 1> ()
  ones = Constant <value_ints = [1]> ()
  twos = Constant <value_ints = [2]> ()
  on = Cast <to = 9> (one)
  latest = Constant <value_ints = [LATEST]> ()
  end = Constant <value_ints = [9223372036854775807]> ()
  window = Slice (x, latest, end, ones)
  rows = Shape <start = 0, end = 1> (x)
  by_state = Concat <axis = 0> (REPEATS)
  each start_# = Expand (initial_#, by_state)
  last, made = Loop (steps, on, window) <body = predict
    (int64 i, bool go_on, float[batch, seq, WIDTH] seen)
    => (bool still, float[batch, seq, WIDTH] slid, float[batch, 1, WIDTH] next)
  {
    still = Identity (go_on)
    next, @unused = local.read (seen, @start, WEIGHTS)
    longer = Concat <axis = 1> (seen, next)
    slid = Slice (longer, ones, end, ones)
  }>
  predicted = Squeeze (made, twos)
  y = Transpose <perm = [1, 0, 2]> (predicted)
"""

CHOOSE = """
<domain: "local", opset_import: ["": 18]>
choose (said, noise, place, greedy, temperature, candidates) => (token)
{
  token = If (greedy) <
    then_branch = likeliest () => (int64[batch, 1] top) { top = ArgMax <axis = -1, keepdims = KEEPDIMS> (said) },
    else_branch = drawn () => (int64[batch, 1] draw)
    {
      last = Constant <value_int = -1> ()
      lasts = Constant <value_ints = [-1]> ()
      nothing = Constant <value_float = 0.0> ()
      never = Log (nothing)
      largest, places = TopK <axis = -1> (said, candidates)
      least = ReduceMin <keepdims = 1> (largest, lasts)
      below = Less (said, least)
      allowed = Where (below, never, said)
      scaled = Div (allowed, temperature)
      probability = Softmax <axis = -1> (scaled)
      cumulative = CumSum (probability, last)
      total = ReduceMax <keepdims = 1> (cumulative, lasts)
      u = Gather <axis = 1> (noise, place)
      total_shape = Shape (total)
      u_like_total = Reshape (u, total_shape)
      threshold = Mul (u_like_total, total)
      passed = LessOrEqual (cumulative, threshold)
      passed_numbers = Cast <to = 7> (passed)
      number = ReduceSum <keepdims = KEEPDIMS> (passed_numbers, lasts)
      before_end = Less (cumulative, total)
      before_numbers = Cast <to = 7> (before_end)
      end = ReduceSum <keepdims = KEEPDIMS> (before_numbers, lasts)
      draw = Min (number, end)
    }>
}
"""

ANY_OTHER = """
<domain: "local", opset_import: ["": 18]>
any_other (token, stop) => (any)
{
  ends = Equal (token, stop)
  goes_on = Not (ends)
  numbers = Cast <to = 6> (goes_on)
  largest = ReduceMax <keepdims = 0> (numbers)
  any = Cast <to = 9> (largest)
}
"""


class Carried(NamedTuple):
    """One tensor that the loops carry: a state of the contract, or one layer of it."""

    spec: TensorSpec
    """Its name is that of the function's input."""
    output: str
    """Of the function."""
    initial: Array
    """`[1, 1, size]`, or as the contract has it."""


def export_rollout(model_path: Path, path: Path) -> None:
    """Write the rollout of an ONNX artifact of ours; weights that lie beside it stay there, for both.

    Raises `InputError` for a model that has none (see `contract.rollout_contract`).
    """
    model = onnx.load(model_path, load_external_data=False)
    signature = Signature.from_json(onnx_graph.contract_text(model) or "")
    contract = rollout_contract(signature)
    aliases = {initializer.name: f"weight_{number}" for number, initializer in enumerate(model.graph.initializer)}
    nodes = _copies(model.graph.node)
    states = split_states(nodes, signature, model)
    program = Program(signature, states, ", ".join(aliases.values()))
    rolled = parser.parse_model(program.main(contract, model))
    texts = (program.reader(single=False), program.reader(single=True), program.fill(CHOOSE), ANY_OTHER)
    rolled.functions.extend(parser.parse_function(text) for text in texts)
    for name, body in (("model", nodes), ("model_of_one", _of_one_step(nodes, model))):
        _rename(body, aliases)
        inputs = [signature.inputs[0].name, *(state.spec.name for state in states), *aliases.values()]
        outputs = [*(spec.name for spec in signature.outputs), *(state.output for state in states)]
        rolled.functions.append(helper.make_function("local", name, inputs, outputs, body, model.opset_import))
    rolled = inliner.inline_local_functions(rolled)
    _rename(rolled.graph.node, {alias: name for name, alias in aliases.items()})
    read = {name for node in rolled.graph.node for name in _reads(node)}  # not all: what cut states apart is gone
    rolled.graph.initializer.extend(weight for weight in model.graph.initializer if weight.name in read)
    if not carries_state(signature):
        for number, state in enumerate(states):
            rolled.graph.initializer.append(numpy_helper.from_array(state.initial, f"initial_{number}"))
    del rolled.opset_import[:]
    rolled.opset_import.extend(model.opset_import)
    rolled.producer_name = "lstm-deploy"
    kept = {prop.key: prop.value for prop in model.metadata_props if prop.key == CPUS_KEY}
    helper.set_model_props(rolled, {CONTRACT_KEY: contract.to_json(), **kept})
    path.write_bytes(rolled.SerializeToString())


def per_state(text: str, specs: Sequence[TensorSpec], declared: Callable[[TensorSpec], str]) -> str:
    """Write out what a text says once for all tensors of a state; `declared` is a tensor with its type."""

    def of_states(match: re.Match[str]) -> str:
        mark, name = match.groups()
        if mark == "@:":
            return ", ".join(name for _ in specs)
        names = [f"{name}_{number}" for number in range(len(specs))]
        if mark == "@@":
            names = [declared(replace(spec, name=one)) for spec, one in zip(specs, names, strict=True)]
        return ", ".join(names)

    lines = []
    for line in text.splitlines():
        indent, each, rest = line.partition("each ")
        if each and not indent.strip():
            lines += [indent + rest.replace("#", str(number)) for number in range(len(specs))]
        else:
            lines.append(re.sub(r"(@[@:]?)(\w+)", of_states, line))
    return "\n".join(lines)


def split_states(nodes: list[onnx.NodeProto], signature: Signature, model: onnx.ModelProto) -> list[Carried]:
    """Have a graph take and give each layer's state apart, where it only cuts them out of one tensor and joins them.

    Changes `nodes`; a state that is used otherwise stays whole.
    """
    carried: list[Carried] = []
    axis = 1 - signature.batch_axis_of_state
    initial = signature.initial_state(1)
    for spec, out in zip(signature.state_inputs, signature.state_outputs, strict=True):
        depth = int(spec.shape[axis])
        cuts = _cuts(nodes, spec.name, axis, model)
        joint = next((node for node in nodes if out.name in node.output), None)
        joins = joint is not None and joint.op_type == "Concat" and joint.attribute[0].i == axis
        joins &= not any(out.name in _reads(node) for node in nodes)
        if depth == 1 or set(cuts.values()) != set(range(depth)) or joint is None or not joins:
            carried.append(Carried(spec, out.name, initial[spec.name]))
            continue
        parts = [replace(spec, name=f"{spec.name}.{layer}", shape=_with(spec.shape, axis, 1)) for layer in range(depth)]
        _rename(nodes, {cut: parts[layer].name for cut, layer in cuts.items()})
        starts = np.split(initial[spec.name], depth, axis)
        carried += map(Carried, parts, joint.input, starts)
        nodes[:] = [node for node in nodes if node is not joint and not set(node.output) & set(cuts)]
    return carried


def _cuts(nodes: Sequence[onnx.NodeProto], state: str, axis: int, model: onnx.ModelProto) -> dict[str, int]:
    """Values that are one layer cut out of a state, and which; none if the state is used in another way, too."""
    constants = _constants(model)
    cuts = {}
    for node in nodes:
        if state not in _reads(node):
            continue
        start, *rest = (constants.get(name) for name in node.input[1:]) if node.op_type == "Slice" else [None]
        if start is None or rest not in ([start + 1, axis, 1], [start + 1, axis]):
            return {}
        cuts[node.output[0]] = start
    return cuts


class Program:
    """The texts above, filled in for one model."""

    def __init__(self, signature: Signature, states: Sequence[Carried], weights: str) -> None:
        self._signature, self._states, self._weights = signature, states, weights
        self._layout = layout_of(signature)

    def main(self, contract: Signature, model: onnx.ModelProto) -> str:
        """The whole rollout but for its functions."""
        signature = self._signature
        text = GENERATE if isinstance(signature.task, LanguageModel) else CARRY if carries_state(signature) else RESET
        before, after = self._ends() if carries_state(signature) else ("", "")
        imports = ", ".join(f'"{opset.domain}": {opset.version}' for opset in model.opset_import)
        takes = ", ".join(_typed(spec) for spec in (*contract.inputs, *contract.state_inputs))
        gives = ", ".join(_typed(spec) for spec in (*contract.outputs, *contract.state_outputs))
        return self.fill(
            f'<ir_version: {model.ir_version}, opset_import: [{imports}, "local": 1]>\n'
            f"rollout ({takes}) => ({gives})\n{{\n{before}{text}{after}}}"
        )

    def reader(self, *, single: bool) -> str:
        """`local.read`: rows as every rollout has them, made such as this model takes them, and what it says last.

        `local.step` is the same for single rows, where nothing has to be picked.
        """
        layout, lines, rows, said = self._layout, [], "rows", "output_0"

        def then(value: str, line: str, name: str) -> str:
            lines.append(f"{name} = {line.format(value)}")
            return name

        if layout.one_hot:
            lines.append(f"width = Constant <value_int = {layout.width}> ()")
            lines.append("off_on = Constant <value_floats = [0.0, 1.0]> ()")
            rows = then(rows, "OneHot <axis = -1> ({}, width, off_on)", "encoded")
        elif self._signature.inputs[0].dtype == "int32":
            rows = then(rows, "Cast <to = 6> ({})", "narrow")
        elif isinstance(self._signature.task, Forecast) and not layout.has_features:
            lines.append("features = Constant <value_ints = [2]> ()")
            rows = then(rows, "Squeeze ({}, features)", "flat")
        if layout.batch_axis:
            rows = then(rows, f"Transpose <perm = [1, 0{', 2' if layout.has_features else ''}]> ({{}})", "turned")
        outputs = ", ".join(f"output_{number}" for number in range(len(self._signature.outputs)))
        name, function = ("step", "model_of_one") if single else ("read", "model")
        lines.append(f"{outputs}, @after = local.{function} ({rows}, @before, WEIGHTS)")
        if layout.y_time_axis is not None and not single:
            lines.append("last = Constant <value_ints = [-1]> ()")
            said = then(said, f"Gather <axis = {layout.y_time_axis}> ({{}}, last)", "latest")
        missing = [1] * (layout.y_time_axis is None and not self._says_flat()) + [2] * (not layout.y_has_features)
        if missing:
            lines.append(f"missing = Constant <value_ints = {missing}> ()")
            said = then(said, "Unsqueeze ({}, missing)", "whole")
        if layout.y_time_axis in (0, 2):
            order = "[1, 0, 2]" if layout.y_time_axis == 0 else "[0, 2, 1]"
            said = then(said, f"Transpose <perm = {order}> ({{}})", "by_row")
        lines.append(f"said = Identity ({said})")
        return self.fill(
            '<domain: "local", opset_import: ["": 18, "local": 1]>\n'
            f"{name} (rows, @before, WEIGHTS) => (said, @after) {{\n" + "\n".join(lines) + "\n}"
        )

    def fill(self, text: str) -> str:
        """A text with this model's names and numbers in it."""
        signature, flat = self._signature, self._says_flat()
        batch_first = signature.batch_axis_of_state == 0
        words = {
            "WEIGHTS": self._weights,
            "WIDTH": str(self._layout.width),
            "COLDEST": repr(MIN_TEMPERATURE),
            "SAID": f"batch, {self._layout.width}" if flat else f"batch, 1, {self._layout.width}",
            "SAID_AXES": "[1]" if flat else "[1, 2]",
            "KEEPDIMS": str(int(flat)),
            "STATE_AXES": "[1, 2]" if batch_first else "[0, 2]",
            "REPEATS": "rows, ones, ones" if batch_first else "ones, rows, ones",
        }
        if not carries_state(signature):
            words["LATEST"] = str(-window_of(signature))
        for word, value in words.items():
            text = re.sub(rf"\b{word}\b", value, text)
        return per_state(text, [state.spec for state in self._states], _typed)

    def _says_flat(self) -> bool:
        """Whether logits come as `[batch, vocabulary]`, from a model that tells the last step only."""
        return isinstance(self._signature.task, LanguageModel) and self._layout.y_time_axis is None

    def _ends(self) -> tuple[str, str]:
        """What makes `@in` of the state inputs, and the state outputs of `@out`."""
        signature, before, after = self._signature, "", ""
        axis = 1 - signature.batch_axis_of_state
        for spec, out in zip(signature.state_inputs, signature.state_outputs, strict=True):
            parts = [n for n, state in enumerate(self._states) if state.spec.name.partition(".")[0] == spec.name]
            ins, outs = (", ".join(f"{name}_{part}" for part in parts) for name in ("in", "out"))
            if len(parts) == 1:
                before += f"  {ins} = Identity ({spec.name})\n"
                after += f"  {out.name} = Identity ({outs})\n"
            else:
                before += f"  {ins} = Split <axis = {axis}, num_outputs = {len(parts)}> ({spec.name})\n"
                after += f"  {out.name} = Concat <axis = {axis}> ({outs})\n"
        return before, after


def _constants(model: onnx.ModelProto) -> dict[str, int]:
    """The initializers that hold one integer: axes, and where slices begin and end."""
    return {
        tensor.name: int(numpy_helper.to_array(tensor)[0])
        for tensor in model.graph.initializer
        if list(tensor.dims) == [1] and tensor.data_type == onnx.TensorProto.INT64
    }


def _copies(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The same nodes, to be changed."""
    graph = onnx.GraphProto()
    graph.node.extend(nodes)
    return list(graph.node)


def _of_one_step(nodes: Sequence[onnx.NodeProto], model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The same for one step a call: there an LSTM's whole output is its last, which comes without a node to shape it.

    `Y` is `[1, directions, batch, size]` then, and `Y_h` `[directions, batch, size]`.
    """
    constants = _constants(model)
    whole = {node.output[0]: node.output[1] for node in nodes if node.op_type in LSTM.operators and _forward(node)}
    last = {
        node.output[0]: whole[node.input[0]]
        for node in nodes
        if node.op_type == "Squeeze" and node.input[0] in whole and constants.get(node.input[1]) == 1
    }
    kept = _copies(node for node in nodes if node.output[0] not in last)
    _rename(kept, last)
    return kept


def _forward(node: onnx.NodeProto) -> bool:
    """Whether an LSTM reads in one direction, and names its last output."""
    directions = [attribute.s for attribute in node.attribute if attribute.name == "direction"]
    return directions in ([], [b"forward"]) and len(node.output) > 1 and bool(node.output[1])


def _typed(spec: TensorSpec) -> str:
    """A tensor as the syntax declares it."""
    kind = {"float32": "float"}.get(spec.dtype, spec.dtype)
    return f"{kind}[{', '.join(map(str, spec.shape))}] {spec.name}" if spec.shape else f"{kind} {spec.name}"


def _with(shape: tuple[Dim, ...], axis: int, size: int) -> tuple[Dim, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _reads(node: onnx.NodeProto) -> set[str]:
    """What a node reads, in the graphs of loops and branches too."""
    inner = [name for attribute in node.attribute for each in attribute.g.node for name in _reads(each)]
    return {*node.input, *inner}


def _rename(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    """Give values other names wherever nodes read them, in the graphs of loops and branches too."""
    for node in nodes:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
        for attribute in node.attribute:
            _rename(attribute.g.node, names)
