"""The interface of a C artifact, derived from its contract alone: names, sizes and prototypes of its functions."""

import re
from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from lstm_deploy.contract.cells import CELLS
from lstm_deploy.contract.layouts import layout_of
from lstm_deploy.contract.rollouts import carries_state, no_rollout_reason, window_of
from lstm_deploy.contract.signature import Signature, TensorSpec
from lstm_deploy.contract.tasks import LanguageModel
from lstm_deploy.errors import InputError

STEPS = "steps"
"""Name of the number of steps of a call in the C code."""
C_TYPES = {
    "float32": "float",
    "int64": "int64_t",
    "int32": "int32_t",
    "int8": "int8_t",
    "bool": "unsigned char",
}
C_BYTES = {c_type: np.dtype(dtype).itemsize for dtype, c_type in C_TYPES.items()}
"""Size of one number, by its type in C."""
_RESERVED_WORDS = """
asm auto bool break case catch char class const continue default delete do double else enum extern
false float for friend goto if inline int long namespace new operator private protected public register
restrict return short signed sizeof static struct switch template this throw true try typedef typename
union unsigned using virtual void volatile while mutable explicit export nullptr decltype constexpr
noexcept typeid and or not xor bitand bitor compl wchar_t size_t ptrdiff_t int64_t int32_t int16_t
int8_t uint8_t memcpy memset memmove memcmp expf logf sqrtf tanhf sinf cosf erff floorf ceilf rintf
powf alignas alignof char8_t char16_t char32_t co_await co_return co_yield concept const_cast consteval
constinit dynamic_cast not_eq and_eq or_eq xor_eq reinterpret_cast requires static_assert static_cast
thread_local expm1f log1pf steps state next workspace weights call dense dense_int8
count_of place_of choose made at main token now seen fresh said row sum mean scale most best
"""
RESERVED = frozenset(_RESERVED_WORDS.split()) | {
    f"{kind.lower()}{suffix}" for kind in CELLS for suffix in ("", "_int8")
}
"""Names that an input or output cannot have in C: keywords of C and C++, functions, and our own names."""


class CallMode(NamedTuple):
    """How many steps the translated graph computes in one call."""

    one_step: bool
    """One step: a sequence is many calls."""
    dynamic: bool
    """Any number of steps, with memory for them."""


class CTensor(NamedTuple):
    """An input or output in C."""

    spec: TensorSpec
    name: str
    c_type: str
    outer: int
    """Product of the dimensions before the time axis."""
    inner: int
    """Product of the dimensions after it."""
    has_time: bool

    @property
    def size(self) -> int:
        """Number of entries of one step, or of the whole tensor if it has no time axis."""
        return self.outer * self.inner


def call_mode(signature: Signature) -> CallMode:
    """The call mode of a model.

    Raises `InputError` for a contract that cannot be implemented in C.
    """
    for spec in (*signature.inputs, *signature.outputs):
        if odd := [dim for dim in spec.shape if isinstance(dim, str) and dim not in ("batch", "seq")]:
            raise InputError(
                f"{spec.name} has the size {odd[0]!r}, which C artifacts do not support; leave out --format c."
            )
    if signature.fixed_size("batch") not in (None, 1):
        raise InputError("The model fixes its batch size, and a C artifact computes one row; leave out --format c.")
    lengths = any(spec.tells_lengths for spec in signature.inputs)
    one_step = signature.streaming == "exact" and not lengths
    dynamic = (
        not one_step and signature.fixed_size("seq") is None and any("seq" in spec.shape for spec in signature.inputs)
    )
    return CallMode(one_step, dynamic)


def c_tensors(specs: Sequence[TensorSpec], signature: Signature, taken: set[str]) -> list[CTensor]:
    """Inputs or outputs under names that C and C++ allow and that are not in `taken`; the names are added to `taken`.

    Raises `InputError` for a data type that C artifacts do not support.
    """
    sizes, named = signature.clamp({"batch": 1, "seq": 0}), []
    for spec in specs:
        if spec.dtype not in C_TYPES:
            raise InputError(f"{spec.name} is {spec.dtype}, which C artifacts do not support; leave out --format c.")
        name = re.sub(r"\W", "_", spec.name, flags=re.ASCII)
        name = f"v{name}" if name[0] == "_" or name[0].isdigit() else name
        # Array sizes are macros in all capitals, so names that differ only in case would clash.
        while name in RESERVED or name.lower() in taken or re.fullmatch(r"[tijk]\d*_?|w_.*|[A-Z0-9_]+[A-Z0-9]", name):
            name += "_"
        taken.add(name.lower())
        axis = spec.shape.index("seq") if "seq" in spec.shape and signature.fixed_size("seq") is None else None
        shape = spec.sized(sizes)
        before, after = (shape[:axis], shape[axis + 1 :]) if axis is not None else ((), shape)
        # Where a call is one step, several steps lie one after the other, whatever the axes of one.
        has_time = axis is not None or (signature.one_step and spec in (*signature.inputs, *signature.outputs))
        named.append(CTensor(spec, name, C_TYPES[spec.dtype], prod(before), prod(after), has_time))
    return named


def comment_safe(text: str) -> str:
    """Make any text safe inside a C comment: nothing in it ends the comment, or begins another."""
    printable = "".join(letter if letter.isprintable() and letter != "\\" else " " for letter in text)
    return printable.replace("*/", "* /").replace("/*", "/ *").replace("??", "? ?")


def state_field(state: CTensor) -> str:
    """The member of the state struct that holds a state input."""
    return state.name.removesuffix("_in").rstrip("_") if state.name.endswith("_in") else state.name


class CInterface:
    """The functions of one model's C artifact; if `mapped`, they take its weights as their first argument."""

    name: str
    signature: Signature
    precision: str
    mapped: bool

    def __init__(self, name: str, signature: Signature, precision: str, *, mapped: bool = False) -> None:
        """Raises `InputError` for a contract that cannot be implemented in C."""
        self.name, self.signature, self.precision, self.mapped = name, signature, precision, mapped
        self.mode: CallMode = call_mode(signature)
        taken = {f"{name}_{function}" for function in ("init", "step", "sequence", "rollout", "state", "map", "fits")}
        self.inputs: list[CTensor] = c_tensors(signature.inputs, signature, taken)
        self.outputs: list[CTensor] = c_tensors(signature.outputs, signature, taken)
        self.states_in: list[CTensor] = c_tensors(signature.state_inputs, signature, taken)
        self.states_out: list[CTensor] = c_tensors(signature.state_outputs, signature, taken)

    @property
    def weights_parameter(self) -> str:
        return "const void *weights, " if self.mapped else ""

    @property
    def weights_argument(self) -> str:
        return "weights, " if self.mapped else ""

    @property
    def workspace_macro(self) -> str:
        """The macro for the bytes of working memory that a call of `sequence` needs."""
        return f"{self.name.upper()}_WORKSPACE" + (f"({STEPS})" if self.mode.dynamic else "")

    @property
    def has_step(self) -> bool:
        """Whether there is a `step` function."""
        return self.signature.streaming != "none" and (
            self.mode.one_step or (self.mode.dynamic and self.signature.least_seq == 1)
        )

    @property
    def has_rollout(self) -> bool:
        """Whether there is a `rollout` function."""
        return not no_rollout_reason(self.signature)

    def parameters(self) -> str:
        """Inputs and outputs as parameters of `step` and `sequence`, after the state."""
        inputs = [f"const {tensor.c_type} *{tensor.name}" for tensor in self.inputs]
        return ", ".join([*inputs, *(f"{tensor.c_type} *{tensor.name}" for tensor in self.outputs)])

    def prototypes(self) -> dict[str, tuple[str, str]]:
        """The functions of the header: a comment and the prototype of each, by its name without the prefix."""
        name, state = self.name, f"{self.weights_parameter}{self.name}_state *state"
        functions = {
            "init": ("Set the state to the start of a new sequence.", f"void {name}_init({name}_state *state)")
        }
        if self.has_step:
            functions["step"] = (
                "Compute one step. The arrays must not overlap.",
                f"void {name}_step({state}, {self.parameters()})",
            )
        any_length = self.mode.one_step or self.mode.dynamic
        comment = (
            f"Compute {'any number of steps (1 or more)' if any_length else 'a whole window'}, updating the state."
        )
        if self.mode.one_step and not any(tensor.has_time for tensor in self.outputs):
            comment += " The output is that after the last step."
        parameters = f"size_t {STEPS}, {self.parameters()}" if any_length else self.parameters()
        if not self.mode.one_step:
            comment += f" `workspace` is {self.workspace_macro} bytes, aligned as by malloc."
            parameters += ", void *workspace"
        functions["sequence"] = (comment, f"void {name}_sequence({state}, {parameters})")
        if self.has_rollout:
            functions["rollout"] = self._rollout_prototype(state)
        if self.mapped:
            functions["map"] = (
                "Map the weights file into memory, on POSIX systems: the first argument of the other functions, for "
                "the whole run of a program. NULL if the file is missing or belongs to another model. Its content is "
                "not verified; its SHA-256 is in the manifest.",
                f"const void *{name}_map(const char *path)",
            )
            functions["fits"] = (
                "Whether these bytes, aligned to 64, are the weights file: 1 or 0. For weights from elsewhere.",
                f"int {name}_fits(const void *weights, size_t bytes)",
            )
        return functions

    def _rollout_prototype(self, state: str) -> tuple[str, str]:
        if isinstance(self.signature.task, LanguageModel):
            return (
                "Generate text: read `length` tokens of x (1 or more), then write up to `steps` tokens to y, and "
                "return their number. `temperature` 0 takes the most likely token; otherwise each token is sampled "
                "from the `top_k` most likely (0: all) with one number of `noise` from [0, 1) per step. Generation "
                "ends after the token `stop` (-1: none). The state is that before the last of y is fed.",
                f"size_t {self.name}_rollout({state}, const int64_t *x, size_t length, const float *noise, "
                f"float temperature,\n    int64_t top_k, int64_t stop, int64_t *y, size_t {STEPS})",
            )
        width = layout_of(self.signature).width
        if carries_state(self.signature):
            return (
                f"Forecast: read `rows` rows of {width} (1 or more), then predict {STEPS} rows, each fed back. "
                "The state is that before the last of y is fed.",
                f"size_t {self.name}_rollout({state}, const float *x, size_t rows, float *y, size_t {STEPS})",
            )
        window = window_of(self.signature)
        return (
            f"Forecast: from the latest {window} of `rows` rows of {width}, predict {STEPS} rows, each of which joins "
            f"the window. Returns the number of rows: 0 if there are fewer than {window} rows.",
            f"size_t {self.name}_rollout({self.weights_parameter}const float *x, size_t rows, float *y, "
            f"size_t {STEPS})",
        )
