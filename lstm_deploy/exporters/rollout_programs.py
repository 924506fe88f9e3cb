"""The loops of a rollout, in ONNX's own syntax (`onnx.parser`), and how they are filled in for a model.

`contract.rollouts` says what they compute. In the texts `@name` stands for `name_0, name_1, …`, one for each tensor of
the state (`@@name` with their types); a line that begins with `each` is repeated for each, with its number for `#`.
`local.read` and `local.step` call the model, on rows and on a single row.

A small LSTM takes as long as a few nodes do, so a loop has no node that it can do without: rows keep their axis of
time, and the usual case (the likeliest token, no end) has a branch of its own. What is both carried and collected is
listed twice among a loop's outputs, since a copy would cost a twentieth of the step.
"""

import re
from collections.abc import Sequence

import onnx
from msgspec.structs import replace

from lstm_deploy.contract import (
    MIN_TEMPERATURE,
    Forecast,
    LanguageModel,
    Signature,
    TensorSpec,
    carries_state,
    layout_of,
    window_of,
)

GENERATE = """
  zero = Constant <value_int = 0> ()
  zeros = Constant <value_ints = [0]> ()
  one = Constant <value_int = 1> ()
  ones = Constant <value_ints = [1]> ()
  twos = Constant <value_ints = [2]> ()
  always = Cast <to = 9> (one)
  least = ReduceMin <keepdims = 1> (lengths)
  longest = ReduceMax <keepdims = 1> (lengths)
  common = Slice (x, zeros, least, ones)
  common_logits, @common = local.read (common, @in, WEIGHTS)
  difference = Sub (longest, least)
  rest = Squeeze (difference)
  logits, @read = Loop (rest, always, common_logits, @common) <body = longer_prompts
    (int64 i, bool go_on, float[LOGITS] logits_before, @@before)
    => (bool still, float[LOGITS] logits_after, @@after)
  {
    still = Identity (go_on)
    time = Add (least, i)
    token = Gather <axis = 1> (x, time)
    next_logits, @further = local.step (token, @before, WEIGHTS)
    reads = Less (time, lengths)
    logits_axes = Constant <value_ints = LOGITS_AXES> ()
    reads_logits = Unsqueeze (reads, logits_axes)
    logits_after = Where (reads_logits, next_logits, logits_before)
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
  first = local.choose (logits, noise, zeros, greedy, temperature, candidates)
  first_left = local.any_other (first, stop)
  steps = Shape <start = 1, end = 2> (noise)
  fewer = Sub (steps, ones)
  trips = Squeeze (fewer)
  last, @out, collected = Loop (trips, first_left, first, @read) <body = write
    (int64 i, bool go_on, int64[batch, 1] token, @@before)
    => (bool left, int64[batch, 1] next, @@after, int64[batch, 1] next)
  {
    step_logits, @after = local.step (token, @before, WEIGHTS)
    next, left = If (plain) <
      then_branch = likeliest () => (int64[batch, 1] top, bool goes_on)
      {
        top = ArgMax <axis = -1, keepdims = KEEPDIMS> (step_logits)
        goes_on = Identity (go_on)
      },
      else_branch = sampled () => (int64[batch, 1] token_or_stop, bool any_left)
      {
        following = Add (i, ones)
        chosen = local.choose (step_logits, noise, following, greedy, temperature, candidates)
        ended = Equal (token, stop)
        token_or_stop = Where (ended, stop, chosen)
        any_left = local.any_other (token_or_stop, stop)
      }>
  }>
  rows = Squeeze (collected, twos)
  by_row = Transpose <perm = [1, 0]> (rows)
  y = Concat <axis = 1> (first, by_row)
"""

CARRY = """
  one = Constant <value_int = 1> ()
  twos = Constant <value_ints = [2]> ()
  always = Cast <to = 9> (one)
  first, @first = local.read (x, @in, WEIGHTS)
  trips = Sub (steps, one)
  last, @out, collected = Loop (trips, always, first, @first) <body = predict
    (int64 i, bool go_on, float[batch, 1, WIDTH] value, @@before)
    => (bool still, float[batch, 1, WIDTH] next, @@after, float[batch, 1, WIDTH] next)
  {
    still = Identity (go_on)
    next, @after = local.step (value, @before, WEIGHTS)
  }>
  rows = Squeeze (collected, twos)
  by_row = Transpose <perm = [1, 0, 2]> (rows)
  y = Concat <axis = 1> (first, by_row)
"""

RESET = """
  one = Constant <value_int = 1> ()
  ones = Constant <value_ints = [1]> ()
  twos = Constant <value_ints = [2]> ()
  always = Cast <to = 9> (one)
  latest = Constant <value_ints = [LATEST]> ()
  end = Constant <value_ints = [9223372036854775807]> ()
  window = Slice (x, latest, end, ones)
  rows = Shape <start = 0, end = 1> (x)
  by_state = Concat <axis = 0> (REPEATS)
  each start_# = Expand (initial_#, by_state)
  last, collected = Loop (steps, always, window) <body = predict
    (int64 i, bool go_on, float[batch, seq, WIDTH] seen)
    => (bool still, float[batch, seq, WIDTH] slid, float[batch, 1, WIDTH] next)
  {
    still = Identity (go_on)
    next, @unused = local.read (seen, @start, WEIGHTS)
    longer = Concat <axis = 1> (seen, next)
    slid = Slice (longer, ones, end, ones)
  }>
  predicted = Squeeze (collected, twos)
  y = Transpose <perm = [1, 0, 2]> (predicted)
"""

READ_BY_STEPS = """
<domain: "local", opset_import: ["": 18, "local": 1]>
read (rows, @before, WEIGHTS) => (y, @after)
{
  zeros = Constant <value_ints = [0]> ()
  one = Constant <value_int = 1> ()
  always = Cast <to = 9> (one)
  first_row = Gather <axis = 1> (rows, zeros)
  first, @first = local.step (first_row, @before, WEIGHTS)
  count = Shape <start = 1, end = 2> (rows)
  all = Squeeze (count)
  rest = Sub (all, one)
  y, @after = Loop (rest, always, first, @first) <body = read_on
    (int64 i, bool go_on, float[LOGITS] y_before, @@seen)
    => (bool still, float[LOGITS] y_then, @@read)
  {
    still = Identity (go_on)
    number = Add (i, one)
    place = Unsqueeze (number, zeros)
    row = Gather <axis = 1> (rows, place)
    y_then, @read = local.step (row, @seen, WEIGHTS)
  }>
}
"""
"""`local.read` of a model whose call is one step."""

CHOOSE = """
<domain: "local", opset_import: ["": 18]>
choose (logits, noise, place, greedy, temperature, candidates) => (token)
{
  token = If (greedy) <
    then_branch = likeliest () => (int64[batch, 1] top) { top = ArgMax <axis = -1, keepdims = KEEPDIMS> (logits) },
    else_branch = sampled () => (int64[batch, 1] draw)
    {
      last = Constant <value_int = -1> ()
      lasts = Constant <value_ints = [-1]> ()
      nothing = Constant <value_float = 0.0> ()
      impossible = Log (nothing)
      largest, places = TopK <axis = -1> (logits, candidates)
      least = ReduceMin <keepdims = 1> (largest, lasts)
      below = Less (logits, least)
      allowed = Where (below, impossible, logits)
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


class Program:
    """The programs above, filled in for one model."""

    def __init__(self, signature: Signature, states: Sequence[TensorSpec], weights: Sequence[str]) -> None:
        """`states` are the tensors that the loops carry: the states of the contract, or `NAME.LAYER` of each."""
        self._signature, self._states, self._weights = signature, states, ", ".join(weights)
        self._layout = layout_of(signature)
        # A model of the last step only gives its logits as `[batch, vocabulary]`.
        self._flat_logits = isinstance(signature.task, LanguageModel) and self._layout.y_time_axis is None

    def main(self, contract: Signature, model: onnx.ModelProto) -> str:
        """The rollout of a model, without the functions that it calls."""
        signature = self._signature
        text = GENERATE if isinstance(signature.task, LanguageModel) else CARRY if carries_state(signature) else RESET
        before, after = self._ends() if carries_state(signature) else ("", "")
        imports = ", ".join(f'"{opset.domain}": {opset.version}' for opset in model.opset_import)
        inputs = ", ".join(_typed(spec) for spec in (*contract.inputs, *contract.state_inputs))
        outputs = ", ".join(_typed(spec) for spec in (*contract.outputs, *contract.state_outputs))
        return self._filled(
            f'<ir_version: {model.ir_version}, opset_import: [{imports}, "local": 1]>\n'
            f"rollout ({inputs}) => ({outputs})\n{{\n{before}{text}{after}}}"
        )

    def functions(self) -> list[str]:
        """The functions that the rollout calls, but for the model itself."""
        return [self._reader(single=False), self._reader(single=True), self._filled(CHOOSE), ANY_OTHER]

    def _reader(self, *, single: bool) -> str:
        """`local.read`: calls the model on rows, in its own layout, and gives its last output.

        `local.step` is the same for single rows, where nothing has to be picked.
        """
        layout, lines, rows, y = self._layout, [], "rows", "output_0"
        if layout.one_step and not single:
            return self._filled(READ_BY_STEPS)

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
        if layout.time_axis is None:
            lines.append("time = Constant <value_ints = [1]> ()")
            rows = then(rows, "Squeeze ({}, time)", "now")
        elif layout.batch_axis:
            rows = then(rows, f"Transpose <perm = [1, 0{', 2' if layout.has_features else ''}]> ({{}})", "turned")
        outputs = ", ".join(f"output_{number}" for number in range(len(self._signature.outputs)))
        name, function = ("step", "model_of_one") if single else ("read", "model")
        lines.append(f"{outputs}, @after = local.{function} ({rows}, @before, WEIGHTS)")
        if layout.y_time_axis is not None and not single:
            lines.append("last = Constant <value_ints = [-1]> ()")
            y = then(y, f"Gather <axis = {layout.y_time_axis}> ({{}}, last)", "latest")
        missing = [1] * (layout.y_time_axis is None and not self._flat_logits) + [2] * (not layout.y_has_features)
        if missing:
            lines.append(f"missing = Constant <value_ints = {missing}> ()")
            y = then(y, "Unsqueeze ({}, missing)", "whole")
        if layout.y_time_axis in (0, 2):
            order = "[1, 0, 2]" if layout.y_time_axis == 0 else "[0, 2, 1]"
            y = then(y, f"Transpose <perm = {order}> ({{}})", "by_row")
        lines.append(f"y = Identity ({y})")
        return self._filled(
            '<domain: "local", opset_import: ["": 18, "local": 1]>\n'
            f"{name} (rows, @before, WEIGHTS) => (y, @after) {{\n" + "\n".join(lines) + "\n}"
        )

    def _ends(self) -> tuple[str, str]:
        """The nodes that make `@in` of the state inputs, and the state outputs of `@out`."""
        signature, before, after = self._signature, "", ""
        axis = 1 - signature.batch_axis_of_state
        for spec, out in zip(signature.state_inputs, signature.state_outputs, strict=True):
            parts = [number for number, state in enumerate(self._states) if state.name.partition(".")[0] == spec.name]
            ins, outs = (", ".join(f"{name}_{part}" for part in parts) for name in ("in", "out"))
            split = join = "Identity"
            if len(parts) > 1:
                split, join = f"Split <axis = {axis}, num_outputs = {len(parts)}>", f"Concat <axis = {axis}>"
            before += f"  {ins} = {split} ({spec.name})\n"
            after += f"  {out.name} = {join} ({outs})\n"
        return before, after

    def _filled(self, text: str) -> str:
        """A program with this model's names and sizes filled in."""
        signature, flat, width = self._signature, self._flat_logits, self._layout.width
        batch_first = signature.batch_axis_of_state == 0
        words = {
            "WEIGHTS": self._weights,
            "WIDTH": str(width),
            "COLDEST": repr(MIN_TEMPERATURE),
            "LOGITS": f"batch, {width}" if flat else f"batch, 1, {width}",
            "LOGITS_AXES": "[1]" if flat else "[1, 2]",
            "KEEPDIMS": str(int(flat)),
            "STATE_AXES": "[1, 2]" if batch_first else "[0, 2]",
            "REPEATS": "rows, ones, ones" if batch_first else "ones, rows, ones",
        }
        if not carries_state(signature):
            words["LATEST"] = str(-window_of(signature))
        for word, value in words.items():
            text = re.sub(rf"\b{word}\b", value, text)
        return self._per_state(text)

    def _per_state(self, text: str) -> str:
        """Expand `@name`, `@@name` and `each` for the tensors of the state."""

        def names(match: re.Match[str]) -> str:
            mark, name = match.groups()
            specs = [replace(spec, name=f"{name}_{number}") for number, spec in enumerate(self._states)]
            return ", ".join(_typed(spec) if mark == "@@" else spec.name for spec in specs)

        lines = []
        for line in text.splitlines():
            indent, each, rest = line.partition("each ")
            if each and not indent.strip():
                lines += [indent + rest.replace("#", str(number)) for number in range(len(self._states))]
            else:
                lines.append(re.sub(r"(@@?)(\w+)", names, line))
        return "\n".join(lines)


def _typed(spec: TensorSpec) -> str:
    """The declaration of a tensor."""
    kind = {"float32": "float"}.get(spec.dtype, spec.dtype)
    return f"{kind}[{', '.join(map(str, spec.shape))}] {spec.name}" if spec.shape else f"{kind} {spec.name}"
