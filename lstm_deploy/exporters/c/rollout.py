"""Rollouts as C: a model fed with its own outputs, as `rollouts` says; each is a loop around `step` or `sequence`."""

from collections.abc import Callable

from lstm_deploy.contract import (
    MIN_TEMPERATURE,
    STEPS,
    CInterface,
    LanguageModel,
    carries_state,
    fill_template,
    layout_of,
    window_of,
)
from lstm_deploy.exporters.c.sizes import Size

CHOOSE = """\
/* The next token: the likeliest, or drawn from the `top_k` likeliest by `noise` from [0, 1). */
static int64_t choose(float *said, float noise, float temperature, int64_t top_k)
{
  size_t k, best = 0, passed = 0, end = 0;
  float sum = 0, total = 0, bound = INFINITY;
  int64_t left = top_k > 0 && top_k < @VOCABULARY@ ? top_k : @VOCABULARY@;
  for (k = 1; k < @VOCABULARY@; k++) if (said[k] > said[best]) best = k;
  if (temperature < @COLDEST@f) return (int64_t)best;
  while (left > 0 && left < @VOCABULARY@) { /* the top_k-th largest: one value after the other, equal ones at once */
    float most = -INFINITY;
    for (k = 0; k < @VOCABULARY@; k++) if (said[k] < bound && said[k] > most) most = said[k];
    for (k = 0; k < @VOCABULARY@; k++) left -= said[k] == most;
    if (most == -INFINITY) break;
    bound = most;
  }
  if (top_k <= 0 || top_k >= @VOCABULARY@) bound = -INFINITY;
  {
    const float most = said[best];
    for (k = 0; k < @VOCABULARY@; k++) {
      said[k] = said[k] < bound ? 0.0f : expf(said[k] / temperature - most / temperature);
      sum += said[k];
    }
  }
  for (k = 0; k < @VOCABULARY@; k++) total = said[k] = total + said[k] / sum;
  for (k = 0; k < @VOCABULARY@; k++) {
    passed += said[k] <= noise * total;
    end += said[k] < total;
  }
  return (int64_t)(passed < end ? passed : end);
}
"""

GENERATE = """\
@HEAD@
{
  float said[@WIDTH@];
@SPARES@  size_t made = 0, at = 0;
  while (made < steps) {
    const int64_t token = at < length ? x[at] : y[made - 1];
    if (made && token == stop) break;
@FEED@
    at++;
    if (at >= length) {
      y[made] = choose(said, noise ? noise[made] : 0.0f, temperature, top_k);
      made++;
    }
  }
  return made;
}
"""
FEED_TOKEN = """\
    {
      const @TYPE@ now = (@TYPE@)token;
      @NAME@_step(@W@state, &now, said@SPARE@);
    }"""
FEED_ONE_HOT = """\
    {
      float now[@WIDTH@];
      size_t k;
      for (k = 0; k < @WIDTH@; k++) now[k] = (int64_t)k == token;
      @NAME@_step(@W@state, now, said@SPARE@);
    }"""

CARRY = """\
@HEAD@
{
@SPARES@  size_t k;
  if (!steps) return 0;
  for (k = 0; k < rows; k++) @NAME@_step(@W@state, x + k * @WIDTH@, y@SPARE@);
  for (k = 1; k < steps; k++) @NAME@_step(@W@state, y + (k - 1) * @WIDTH@, y + k * @WIDTH@@SPARE@);
  return steps;
}
"""

RESET = """\
@HEAD@
{
  float seen[@WINDOW@ * @WIDTH@];
@SPARES@@BUFFERS@  size_t at;
  if (rows < @WINDOW@) return 0;
  memcpy(seen, x + (rows - @WINDOW@) * @WIDTH@, sizeof seen);
  for (at = 0; at < steps; at++) {
    @NAME@_state fresh;
    @NAME@_init(&fresh);
@FORECAST@
    memmove(seen, seen + @WIDTH@, sizeof seen - @WIDTH@ * sizeof(float));
    memcpy(seen + (@WINDOW@ - 1) * @WIDTH@, y + at * @WIDTH@, @WIDTH@ * sizeof(float));
  }
  return steps;
}
"""
BY_STEPS = """\
    for (k = 0; k < @WINDOW@; k++) @NAME@_step(@W@&fresh, seen + k * @WIDTH@, y + at * @WIDTH@@SPARE@);"""
AS_A_WHOLE = """\
    @NAME@_sequence(@W@&fresh, @GIVEN@seen, said@SPARE@, workspace);
    memcpy(y + at * @WIDTH@, said + @LAST@, @WIDTH@ * sizeof(float));"""


def rollout_of(interface: CInterface, workspace: Size, check_stack: Callable[[int], None]) -> str:
    """The function that rolls a model out, and what it needs.

    `workspace` are the bytes that its `sequence` wants; `check_stack` is asked about those on the stack.
    """
    signature, mode = interface.signature, interface.mode
    layout = layout_of(signature)
    is_text = isinstance(signature.task, LanguageModel)
    window = 1 if is_text else window_of(signature)
    calls = 1 if mode.one_step else window  # steps of one call
    # Outputs beside the first are of no use here.
    others = [(each.c_type, each.size * (calls if each.has_time else 1)) for each in interface.outputs[1:]]
    words = {
        "HEAD": interface.prototypes()["rollout"][1],
        "NAME": interface.name,
        "W": interface.weights_argument,
        "WIDTH": str(layout.width),
        "WINDOW": str(window),
        "SPARES": "".join(f"  {c_type} spare{number}[{size}];\n" for number, (c_type, size) in enumerate(others)),
        "SPARE": "".join(f", spare{number}" for number in range(len(others))),
        "VOCABULARY": str(layout.width),
        "COLDEST": f"{MIN_TEMPERATURE:.9g}",
        "TYPE": interface.inputs[0].c_type,
        "BUFFERS": "",
    }
    on_stack = sum(8 * size for _, size in others)
    if is_text:
        check_stack(on_stack + 8 * layout.width)
        feed = FEED_ONE_HOT if layout.one_hot else FEED_TOKEN
        return fill_template(f"{CHOOSE}\n{GENERATE.replace('@FEED@', feed)}", words)
    if carries_state(signature):
        check_stack(on_stack)
        return fill_template(CARRY, words)
    on_stack += 4 * window * layout.width
    if mode.one_step:
        check_stack(on_stack)
        return fill_template(RESET.replace("@FORECAST@", BY_STEPS), {**words, "BUFFERS": "  size_t k;\n"})
    rows = window if layout.y_time_axis is not None else 1
    check_stack(on_stack + workspace.at(window) + 4 * rows * layout.width)
    words["GIVEN"] = f"{window}, " if mode.dynamic else ""
    words["LAST"] = str((rows - 1) * layout.width)
    memory = interface.workspace_macro.replace(STEPS, str(window))
    words["BUFFERS"] = f"  float said[{rows * layout.width}];\n  double workspace[({memory} + 7) / 8];\n"
    return fill_template(RESET.replace("@FORECAST@", AS_A_WHOLE), words)
