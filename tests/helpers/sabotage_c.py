"""C that is wrong, by what is wrong with it, and what the diagnosis must say."""

import re
from collections.abc import Callable


def replaced(*pairs: tuple[str, str]) -> Callable[[str], str]:
    """Change the text of a C file; each pattern must be there."""

    def change(text: str) -> str:
        for old, new in pairs:
            text, count = re.subn(old, new, text)
            assert count, old
        return text

    return change


def gates_exchanged(text: str) -> str:
    """The kernels of every instruction set take the input gate for the forget gate."""
    names = {"i": "f", "f": "i"}
    text = re.sub(r"sigmoid_(\w+)\(([if])(\d)\)", lambda m: f"sigmoid_{m[1]}({names[m[2]]}{m[3]})", text)
    return replaced((r"= f \* c\[unit \+ j\] \+ i \* g", "= i * c[unit + j] + f * g"))(text)


def around_sequence(before: str, after: str) -> Callable[[str], str]:
    """Do something before and after all steps of a call; `was` is the state that it began with."""
    return replaced(
        (
            r"  size_t t;\n  for \(t = 0; t < steps; t\+\+\) \{\n    net_step",
            "  const net_state was = *state;\n  size_t t;\n  "
            + before
            + r"\n  for (t = 0; t < steps; t++) {\n    net_step",
        ),
        (r"(net_step\(state, x.*\n  \})", r"\1\n  (void)was; " + after),
    )


WRONG_C: dict[str, tuple[str, Callable[[str], str], str]] = {
    "C: input and forget gate exchanged": ("two layers", gates_exchanged, "gates .*i and f|gate"),
    "C: h and c swapped on the way in": (
        "two layers",
        around_sequence("memcpy(state->h, was.c, sizeof was.h); memcpy(state->c, was.h, sizeof was.c);", ""),
        "h_in and c_in are swapped on the way in",
    ),
    "C: the old state kept": ("two layers", around_sequence("", "*state = was;"), "are the state that came in"),
    "C: the old c kept": (
        "two layers",
        around_sequence("", "memcpy(state->c, was.c, sizeof was.c);"),
        "c_out is the state that came in",
    ),
    "C: the state never used": ("two layers", around_sequence("net_init(state);", ""), "h_in and c_in are ignored"),
    "C: memory beside the state": (
        "two layers",
        around_sequence("static float kept; kept += 0.01f;", "y[0] += kept;"),
        "remembers earlier calls",
    ),
    "C: the scaling left out": (
        "forecaster",
        replaced((r"\w+\[i2\] \* w_scaling_scale\[i2\]", "x[i2]")),
        "the scaling of x .*is left out",
    ),
    "C: one weight off by 1e-4": (
        "two layers",
        replaced((r"(w_lstm_W_l0\[\d+\] ALIGNED = \{\n[^,]*, )[^,]*", r"\g<1>0.1234")),
        "bias_ih and bias_hh|weight",
    ),
    "C: a scale of int8 off": (
        "int8",
        replaced((r"(w_lstm_W_l0_numbers\[\d+\] ALIGNED = \{\n(?:[^,]*,){70})[^,]*", r"\g<1> 0.01")),
        "weight_ih",
    ),
    "C: a byte of int8 off": (
        "int8",
        replaced((r"(w_lstm_W_l0\[\d+\] ALIGNED = \{\n(?:[^,]*,){5})[^,]*", r"\g<1> 99")),
        "weight_ih",
    ),
}
"""The right model, the change of its text, and the diagnosis as a regular expression."""
