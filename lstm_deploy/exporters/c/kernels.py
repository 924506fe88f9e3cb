"""The inner loops as C: an LSTM layer and a dense layer, in float32 and int8, for each instruction set and in plain C.

The weights of an LSTM layer lie in blocks of `UNITS` hidden units. A block has a row of `4 * UNITS` numbers (gates i,
o, f, c as in ONNX) for the bias, one for each input and one for each unit of `h`, so that a block's gates are sums that
stay in registers, and its activations follow at once.

    exp(x)  = 2^n p(r),  n = round(x / ln 2),  r = x - n ln 2    p: minimax of degree 6 on |r| <= ln 2 / 2, error 2e-9
    tanh(x) = x P(x^2) / Q(x^2)  on |x| <= 9.1                   minimax of degrees 4 and 4, error 2.3e-8

Both are within 4e-7 of libm in float32, relative to the value.

In int8, each row of a gate has its own scale; inputs and `h` are rounded at every step, to 127 levels of the largest
among them. Sums are exact in 32 bits, so all instruction sets round alike. Bytes lie in groups of four inputs, for
`ROW` sums each, which one instruction of VNNI or dotprod adds up. VNNI takes inputs from 0 to 255, so they are 128
more there, and the sums start from a correction (`starts`). AVX2 has no such instruction that cannot overflow, nor has
NEON without dotprod, so they multiply in 16 bits.
"""

from collections.abc import Iterable

from lstm_deploy.artifacts import GROUP, ROW, UNITS
from lstm_deploy.exporters.c.instruction_sets import (
    INTEGERS,
    VECTORS,
    InstructionSet,
    IntegerInstructionSet,
)
from lstm_deploy.exporters.c.templating import render
from lstm_deploy.exporters.c.weights import ALIGNMENT

CONSTANTS = {
    # The coefficients of p, P and Q, the highest power first.
    "EXP": (
        0.0013843653723597527,
        0.00837415549904108,
        0.04166800156235695,
        0.16666431725025177,
        0.4999999403953552,
        1.0,
        1.0,
    ),
    "TANH_P": (1.3177515967299769e-08, 2.0481180399656296e-05, 0.0034878107253462076, 0.1337447464466095, 1.0),
    "TANH_Q": (7.704043127887417e-07, 0.0003272919566370547, 0.025847386568784714, 0.4670778810977936, 1.0),
    "UNITS": UNITS,
    "ROW": ROW,
    "GROUP": GROUP,
}
PROTOTYPES = {
    "dense": (
        "static void dense(const float *weights, const float *bias, size_t inputs, size_t outputs, const float *x,\n"
        "                  float *y)"
    ),
    "dense_int8": (
        "static void dense_int8(const int8_t *bytes, const float *numbers, const int32_t *starts, size_t inputs, "
        "size_t outputs,\n                       const float *x, float *y)"
    ),
    "lstm": (
        "static void lstm(const float *weights, size_t inputs, size_t hidden, const float *x, size_t x_row, "
        "const float *h,\n                 const float *c, float *y, size_t y_row, float *c_out, size_t steps, "
        "int reverse)"
    ),
    "lstm_int8": (
        "static void lstm_int8(const int8_t *bytes, const float *numbers, const int32_t *starts, size_t inputs, "
        "size_t hidden,\n                      const float *x, size_t x_row, const float *h, const float *c, float *y, "
        "size_t y_row,\n                      float *c_out, size_t steps, int reverse)"
    ),
}


def kernel_source(kernels: set[str], longest: int) -> str:
    """C for the `kernels` that a model calls, keys of `PROTOTYPES`; empty if it calls none.

    `longest` is the largest number of inputs that an int8 kernel rounds at once.
    """
    if not kernels:
        return ""
    parts = [render("intrinsics.c")]
    parts += [f"#if {v.guard}\n{_float32(kernels, v)}#endif\n" for v in VECTORS]
    parts.append(_float32(kernels))
    if any(kernel.endswith("_int8") for kernel in kernels):
        rounded_up = -(-longest // ALIGNMENT) * ALIGNMENT
        parts.append(f"/* Numbers that are rounded at once, at most. */\n#define LONGEST {rounded_up}\n")
        parts.append(render("dotprod.c"))
        parts += [f"#if {i.guard}\n{_int8(kernels, i)}#endif\n" for i in INTEGERS]
        parts.append(_int8(kernels))
    for kernel in sorted(kernels):
        prototype = PROTOTYPES[kernel]
        parameters = prototype[:-1].partition("(")[2].split(",")
        arguments = ", ".join(parameter.split()[-1].lstrip("*") for parameter in parameters)
        choices = INTEGERS if kernel.endswith("_int8") else VECTORS
        parts.append(render("dispatch.c", kernel=kernel, prototype=prototype, arguments=arguments, choices=choices))
    return "\n".join(parts)


def _float32(kernels: set[str], v: InstructionSet | None = None) -> str:
    """The float32 kernels, and the activations that int8 uses too, for an instruction set or in plain C."""
    names = [
        *(["activations"] if kernels & {"lstm", "lstm_int8"} else []),
        *(kernel for kernel in ("lstm", "dense") if kernel in kernels),
    ]
    return _joined((f"{name}.c" if v else f"{name}_plain.c" for name in names), v=v)


def _int8(kernels: set[str], i: IntegerInstructionSet | None = None) -> str:
    names = ["products_int8.c" if i else "products_int8_plain.c"]
    names += [f"{kernel}.c" for kernel in ("lstm_int8", "dense_int8") if kernel in kernels]
    return _joined(names, i=i)


def _joined(templates: Iterable[str], **variables: InstructionSet | IntegerInstructionSet | None) -> str:
    return "\n".join(render(template, **CONSTANTS, **variables) for template in templates)
