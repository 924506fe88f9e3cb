"""What the functions of a C artifact are called with, from its contract alone: names, sizes, prototypes."""

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from lstm_deploy.contract.layouts import layout_of
from lstm_deploy.contract.rollouts import carries, contract_of, window_of
from lstm_deploy.contract.signature import Signature, TensorSpec
from lstm_deploy.contract.tasks import LanguageModel
from lstm_deploy.errors import InputError

STEPS = "steps"
"""What the C code calls the number of steps of one call."""
C_TYPES = {
    "float32": "float",
    "int64": "int64_t",
    "int32": "int32_t",
    "int8": "int8_t",
    "bool": "unsigned char",
}
C_BYTES = {c_type: np.dtype(dtype).itemsize for dtype, c_type in C_TYPES.items()}
"""Of one number, by its type in C."""
RESERVED = frozenset(
    " ".join(
        (
            "asm auto bool break case catch char class const continue default delete do double else enum extern",
            "false float for friend goto if inline int long namespace new operator private protected public register",
            "restrict return short signed sizeof static struct switch template this throw true try typedef typename",
            "union unsigned using virtual void volatile while mutable explicit export nullptr decltype constexpr",
            "noexcept typeid and or not xor bitand bitor compl wchar_t size_t ptrdiff_t int64_t int32_t int16_t",
            "int8_t uint8_t memcpy memset memmove memcmp expf logf sqrtf tanhf sinf cosf erff floorf ceilf rintf",
            "powf alignas alignof char8_t char16_t char32_t co_await co_return co_yield concept const_cast consteval",
            "constinit dynamic_cast not_eq and_eq or_eq xor_eq reinterpret_cast requires static_assert static_cast",
            "thread_local expm1f log1pf steps state next workspace weights call lstm dense lstm_int8 dense_int8",
            "count_of place_of choose made at main token now seen fresh said row sum mean scale most best",
        )
    ).split()
)
"""Names that an input or output cannot have in C."""


class Mode(NamedTuple):
    """How the graph was translated."""

    one_step: bool
    """Whether a call of it is one step, and a sequence many calls."""
    dynamic: bool
    """Whether a call takes any number of steps, and memory for them."""


class Tensor(NamedTuple):
    """An input or output in C."""

    spec: TensorSpec
    name: str
    c_type: str
    outer: int
    """Entries before the axis of time."""
    inner: int
    """Entries after it."""
    has_time: bool

    @property
    def size(self) -> int:
        """Entries of one step; of the whole where it has no axis of time."""
        return self.outer * self.inner


def mode_of(signature: Signature) -> Mode:
    """Whether a model is translated step by step, or whole.

    Raises `InputError` for a contract that C cannot keep.
    """
    for spec in (*signature.inputs, *signature.outputs):
        if odd := [dim for dim in spec.shape if isinstance(dim, str) and dim not in ("batch", "seq")]:
            raise InputError(
                f"{spec.name} has the size {odd[0]!r} beside batch and seq, so this model cannot be C; leave out "
                "--format c."
            )
    if any(dim.name == "batch" and dim.size != 1 for dim in signature.fixed):
        raise InputError("The model fixes its batch, and C computes one row; leave out --format c.")
    lengths = any(spec.is_lengths for spec in signature.inputs)
    one_step = signature.streaming == "exact" and not lengths
    dynamic = not one_step and not _fixes_seq(signature) and any("seq" in spec.shape for spec in signature.inputs)
    return Mode(one_step, dynamic)


def tensors(specs: Sequence[TensorSpec], signature: Signature, taken: set[str]) -> list[Tensor]:
    """Inputs or outputs with names that C and C++ allow and that are not `taken`, which they are added to."""
    found = []
    for spec in specs:
        if spec.dtype not in C_TYPES:
            raise InputError(f"{spec.name} is {spec.dtype}, which is not written as C; leave out --format c.")
        name = re.sub(r"\W", "_", spec.name, flags=re.ASCII)
        name = f"v{name}" if name[0] == "_" or name[0].isdigit() else name
        # Macros are all capitals; sizes of arrays are macros, so names that differ in that alone are alike.
        while name in RESERVED or name.lower() in taken or re.fullmatch(r"[tijk]\d*_?|w_.*|[A-Z0-9_]+[A-Z0-9]", name):
            name += "_"
        taken.add(name.lower())
        sizes = signature.clamp({"batch": 1, "seq": 0})
        axis = spec.shape.index("seq") if "seq" in spec.shape and not _fixes_seq(signature) else None
        numbers = [sizes[dim] if isinstance(dim, str) else dim for dim in spec.shape]
        before, after = (numbers[:axis], numbers[axis + 1 :]) if axis is not None else ([], numbers)
        found.append(Tensor(spec, name, C_TYPES[spec.dtype], prod(before), prod(after), axis is not None))
    return found


def _fixes_seq(signature: Signature) -> bool:
    return any(dim.name == "seq" for dim in signature.fixed)


def filled(text: str, words: Mapping[str, str]) -> str:
    """A text of C with a word for each `@NAME@` in it."""
    return re.sub(r"@([A-Z]+)@", lambda match: words[match[1]], text)


def commented(text: str) -> str:
    """A text such as can stand in a comment, whatever it is: nothing in it ends that, or begins another."""
    printable = "".join(letter if letter.isprintable() and letter != "\\" else " " for letter in text)
    return printable.replace("*/", "* /").replace("/*", "/ *").replace("??", "? ?")


def field(state: Tensor) -> str:
    """The member of the state that a state input is."""
    return state.name.removesuffix("_in").rstrip("_") if state.name.endswith("_in") else state.name


class Interface:
    """The functions of one model; `mapped` says whether they are given its weights."""

    def __init__(self, name: str, signature: Signature, precision: str, *, mapped: bool = False) -> None:
        """Raises `InputError` for a contract that C cannot keep."""
        self.name, self.signature, self.precision, self.mapped = name, signature, precision, mapped
        self.mode = mode_of(signature)
        taken = {f"{name}_{function}" for function in ("init", "step", "sequence", "rollout", "state", "map", "fits")}
        self.inputs = tensors(signature.inputs, signature, taken)
        self.outputs = tensors(signature.outputs, signature, taken)
        self.states_in = tensors(signature.state_inputs, signature, taken)
        self.states_out = tensors(signature.state_outputs, signature, taken)

    @property
    def workspace_macro(self) -> str:
        """How many bytes a call of a whole sequence needs, beside what it is given."""
        return f"{self.name.upper()}_WORKSPACE" + (f"({STEPS})" if self.mode.dynamic else "")

    @property
    def weights_parameter(self) -> str:
        return "const void *weights, " if self.mapped else ""

    @property
    def weights_argument(self) -> str:
        return "weights, " if self.mapped else ""

    @property
    def streams(self) -> bool:
        """Whether there is a `step`."""
        return self.signature.streaming != "none" and (
            self.mode.one_step or (self.mode.dynamic and self.signature.least_seq == 1)
        )

    def parameters(self) -> str:
        """Of `step` and `sequence`, after the state: inputs and outputs."""
        given = [f"const {each.c_type} *{each.name}" for each in self.inputs]
        return ", ".join([*given, *(f"{each.c_type} *{each.name}" for each in self.outputs)])

    def prototypes(self) -> list[tuple[str, str]]:
        """The functions of the header: what each does, and its head."""
        name, w = self.name, self.weights_parameter
        found = [
            (
                "Go to where a new sequence starts.",
                f"void {name}_init({name}_state *state)",
            )
        ]
        if self.streams:
            found.append(
                (
                    "One step. The arrays must not overlap.",
                    f"void {name}_step({w}{name}_state *state, {self.parameters()})",
                )
            )
        steps = f"size_t {STEPS}, " if self.mode.one_step or self.mode.dynamic else ""
        workspace = "" if self.mode.one_step else ", void *workspace"
        only_last = self.mode.one_step and not any(each.has_time for each in self.outputs)
        last = " The output is that after the last step." if only_last else ""
        found.append(
            (
                f"{'Some steps (1 or more)' if steps else 'A whole window'}, from the state to the state after them."
                + last
                + (f" `workspace` is {self.workspace_macro} bytes, aligned as malloc's." if workspace else ""),
                f"void {name}_sequence({w}{name}_state *state, {steps}{self.parameters()}{workspace})",
            )
        )
        if self.rolls:
            found.append(self.rollout_prototype())
        if self.mapped:
            found += [
                (
                    "Map the file of the weights, on POSIX systems: what functions take first, for the whole run of a "
                    "program. NULL if it is not there, or says that it is another model's. Damage inside it is not "
                    "looked for; its SHA-256 is in the manifest.",
                    f"const void *{name}_map(const char *path)",
                ),
                (
                    "Whether so many bytes, aligned to 64, are that file: 1 or 0. For weights that lie elsewhere.",
                    f"int {name}_fits(const void *weights, size_t bytes)",
                ),
            ]
        return found

    @property
    def rolls(self) -> bool:
        try:
            contract_of(self.signature)
        except InputError:
            return False
        return True

    def rollout_prototype(self) -> tuple[str, str]:
        name, w = self.name, self.weights_parameter
        if isinstance(self.signature.task, LanguageModel):
            return (
                "Generate: read `length` tokens of x (1 or more), then write up to `steps` tokens to y; how many. "
                "`temperature` 0 takes the likeliest, else each is drawn, by one number of `noise` from [0, 1) for "
                "each step, from the `top_k` likeliest (0: all). It ends with the token `stop` (-1: none). The state "
                "is that before the last of y is fed.",
                f"size_t {name}_rollout({w}{name}_state *state, const int64_t *x, size_t length, const float *noise, "
                f"float temperature,\n    int64_t top_k, int64_t stop, int64_t *y, size_t {STEPS})",
            )
        width = layout_of(self.signature).width
        if carries(self.signature):
            return (
                f"Forecast: read `rows` rows of {width} (1 or more), then predict {STEPS} rows, each fed back. "
                "The state is that before the last of y is fed.",
                f"size_t {name}_rollout({w}{name}_state *state, const float *x, size_t rows, float *y, size_t {STEPS})",
            )
        window = window_of(self.signature)
        return (
            f"Forecast: from the latest {window} of `rows` rows of {width}, predict {STEPS} rows, each of which "
            f"joins the window. How many: none where there are fewer than {window} rows.",
            f"size_t {name}_rollout({w}const float *x, size_t rows, float *y, size_t {STEPS})",
        )
