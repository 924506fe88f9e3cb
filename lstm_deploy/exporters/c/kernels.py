"""The inner loops as C: a recurrent layer of each kind of cell and a dense layer, in float32 and int8.

Each is written for each instruction set and in plain C. A layer is one template for all cells, but for the few lines
from its gates to its state, in `templates/cells`.

The weights of a layer lie in blocks of `UNITS` hidden units. A block has a row of `UNITS` numbers for each gate (in
ONNX's order) for the bias, one for each input and one for each unit of `h`, so that a block's gates are sums that
stay in registers, and its activations follow at once. A gate with two biases adds up what comes of x, and then, from
the second bias on, what comes of h.

    exp(x)  = 2^n p(r),  n = round(x / ln 2),  r = x - n ln 2    p: minimax of degree 6 on |r| <= ln 2 / 2, error 2e-9
    tanh(x) = x P(x^2) / Q(x^2)  on |x| <= 9.1                   minimax of degrees 4 and 4, error 2.3e-8

Both are within 4e-7 of libm in float32, relative to the value.

In int8, each row of a gate has its own scale; inputs and `h` are rounded at every step, to 127 levels of the largest
among them. Sums are exact in 32 bits, so all instruction sets round alike. Bytes lie in groups of four inputs, for
all sums of a block, and one instruction of VNNI or dotprod adds up a group. VNNI takes inputs from 0 to 255, so they
are 128 more there, and the sums start from a correction (`starts`). AVX2 has no such instruction that cannot overflow,
nor has NEON without dotprod, so they multiply in 16 bits.
"""

from collections.abc import Mapping
from typing import Any

from lstm_deploy.artifacts import GROUP, ROW, UNITS, bias_rows, gate_row
from lstm_deploy.contract import CELLS, Cell
from lstm_deploy.exporters.c.instruction_sets import (
    INTEGERS,
    VECTORS,
    InstructionSet,
    IntegerInstructionSet,
)
from lstm_deploy.exporters.c.templating import render
from lstm_deploy.exporters.c.weights import ALIGNMENT

CONSTANTS: dict[str, Any] = {
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
    "GROUP": GROUP,
}
_OF_CELL: Mapping[str, Cell] = {cell.kind.lower(): cell for cell in CELLS.values()}
"""Cells by the names of their kernels."""
_DENSE = {
    "dense": (
        "static void dense(const float *weights, const float *bias, size_t inputs, size_t outputs, const float *x,\n"
        "                  float *y)"
    ),
    "dense_int8": (
        "static void dense_int8(const int8_t *bytes, const float *numbers, const int32_t *starts, size_t inputs, "
        "size_t outputs,\n                       const float *x, float *y)"
    ),
}
"""Prototypes of the kernels of a dense layer."""
LONGEST_LINE = 120


def kernel_name(cell: Cell, *, int8: bool) -> str:
    """The name of the kernel of a layer of such cells."""
    return cell.kind.lower() + ("_int8" if int8 else "")


def kernel_source(kernels: set[str], longest: int) -> str:
    """C for the `kernels` that a model calls, of `kernel_name` or a dense layer; empty if it calls none.

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
        prototype = _prototype(kernel)
        parameters = prototype[:-1].partition("(")[2].split(",")
        arguments = ", ".join(parameter.split()[-1].lstrip("*") for parameter in parameters)
        choices = INTEGERS if kernel.endswith("_int8") else VECTORS
        parts.append(render("dispatch.c", kernel=kernel, prototype=prototype, arguments=arguments, choices=choices))
    return "\n".join(parts)


def _prototype(kernel: str) -> str:
    if kernel in _DENSE:
        return _DENSE[kernel]
    further = _variables(_OF_CELL[kernel.removesuffix("_int8")])["further"]
    weights = ["const int8_t *bytes", "const float *numbers", "const int32_t *starts"]
    parameters = [
        *(weights if kernel.endswith("_int8") else ["const float *weights"]),
        *("size_t inputs", "size_t hidden", "const float *x", "size_t x_row", "const float *h"),
        *(f"const float *{state}" for state in further),
        *("float *y", "size_t y_row"),
        *(f"float *{state}_out" for state in further),
        *("size_t steps", "int reverse"),
    ]
    lines = [f"static void {kernel}({parameters[0]}"]
    for parameter in parameters[1:]:
        if len(f"{lines[-1]}, {parameter},") <= LONGEST_LINE:
            lines[-1] += f", {parameter}"
        else:
            lines[-1] += ","
            lines.append(" " * len(f"static void {kernel}(") + parameter)
    return "\n".join(lines) + ")"


def _cells(kernels: set[str], suffix: str = "") -> list[Cell]:
    """Those with a kernel whose name ends so."""
    return [cell for name, cell in _OF_CELL.items() if name + suffix in kernels]


def _variables(cell: Cell) -> dict[str, Any]:
    """What the templates of a layer read of its cell."""
    letters = {gate: letter for letter, gate in cell.pytorch_gates.items()}  # apart from the names of states
    row = gate_row(cell)
    return {
        "cell": kernel_name(cell, int8=False),
        "gates": [letters[gate] for gate in cell.onnx_gates.values()],
        "apart": [letters[gate] for gate in cell.gates_with_two_biases],
        "further": [state.name for state in cell.states if not state.is_output],
        "ROW": row,
        "BIASES": bias_rows(cell),
        "dot": _dot(row),
    }


def _dot(row: int) -> str:
    """The name of the function that multiplies a block with so many sums."""
    return "dot" if row == ROW else f"dot{row}"


def _float32(kernels: set[str], v: InstructionSet | None = None) -> str:
    """The float32 kernels, and the activations that int8 uses too, for an instruction set or in plain C."""
    plain = "" if v else "_plain"
    activations = {name for cell in (*_cells(kernels), *_cells(kernels, "_int8")) for name in cell.onnx_activations}
    parts = []
    if activations & {"Sigmoid", "Tanh"}:
        parts.append(render(f"activations{plain}.c", **CONSTANTS, v=v, activations=activations))
    parts += [render(f"recurrent{plain}.c", **CONSTANTS, v=v, **_variables(cell)) for cell in _cells(kernels)]
    if "dense" in kernels:
        parts.append(render(f"dense{plain}.c", **CONSTANTS, v=v))
    return "\n".join(parts)


def _int8(kernels: set[str], i: IntegerInstructionSet | None = None) -> str:
    plain = "" if i else "_plain"
    cells = _cells(kernels, "_int8")
    rows = {*(gate_row(cell) for cell in cells), *([ROW] if "dense_int8" in kernels else [])}
    parts = [render(f"products_int8{plain}.c", **CONSTANTS, i=i, dots={_dot(row): row for row in sorted(rows)})]
    parts += [render("recurrent_int8.c", **CONSTANTS, i=i, **_variables(cell)) for cell in cells]
    if "dense_int8" in kernels:
        parts.append(render("dense_int8.c", **CONSTANTS, i=i, ROW=ROW))
    return "\n".join(parts)
