"""Right graphs, made wrong at one size, one value or one length only, and what the check `structure` must name."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx
from graph_edits import on_input, on_output, rename_outputs
from onnx import helper, numpy_helper

WINDOW = 20
"""Of the forecaster that the graphs are made from."""


class Mutant(NamedTuple):
    change: Callable[[onnx.ModelProto], None]
    named: str
    """What the check `structure` must say, as a regular expression."""
    by_examples: bool = True
    """Whether it is caught also in a file of another program, whose structure says nothing."""


def nodes(*steps: tuple[Any, ...], **constants: Any) -> Callable[[onnx.ModelProto], None]:
    """Add nodes and constants that lead to the value `wrong`, a bool: where it holds, `y` is 1 % larger."""

    def change(model: onnx.ModelProto) -> None:
        rename_outputs({"y": "y_right"})(model)
        for name, value in {"factor": np.float32(1.01), "unit": np.float32(1), **constants}.items():
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        model.graph.node.extend(helper.make_node(*step[:3], name=step[2][0], **dict(step[3:])) for step in steps)
        model.graph.node.append(helper.make_node("Where", ["wrong", "factor", "unit"], ["by"], name="chosen"))
        model.graph.node.append(helper.make_node("Mul", ["y_right", "by"], ["y"], name="scaled"))

    return change


def at_size(axis: int, comparison: str, size: int) -> Callable[[onnx.ModelProto], None]:
    """Wrong where a size of `x` compares so."""
    return nodes(
        ("Shape", ["x"], ["shape"]),
        ("Gather", ["shape", "which"], ["length"]),
        (comparison, ["length", "limit"], ["wrong"]),
        which=axis,
        limit=size,
    )


def from_place(axis: int, comparison: str, first: int) -> Callable[[onnx.ModelProto], None]:
    """Wrong in rows or steps from a number on."""
    last = ("Unsqueeze", ["compared", "axes"], ["wrong"])
    return nodes(
        ("Shape", ["x"], ["shape"]),
        ("Gather", ["shape", "which"], ["length"]),
        ("Range", ["zero", "length", "one"], ["places"]),
        (comparison, ["places", "limit"], ["compared"]),
        last,
        which=axis,
        zero=0,
        one=1,
        limit=first,
        axes=[1, 2] if axis == 0 else [0, 2],
    )


def value_taken_for(number: float, other: float, name: str = "x") -> Callable[[onnx.ModelProto], None]:
    return on_input(
        name,
        ("Equal", ["IN", "number"], ["is_number"]),
        ("Where", ["is_number", "other", "IN"], ["replaced"]),
        constants=[("number", np.float32(number)), ("other", np.float32(other))],
    )


def clipped(name: str, low: float, high: float) -> Callable[[onnx.ModelProto], None]:
    edit = on_input if name.endswith("_in") or name == "x" else on_output
    result = f"{name}_clipped" if edit is on_input else name
    bounds = [("low", np.float32(low)), ("high", np.float32(high))]
    return edit(name, ("Clip", ["IN", "low", "high"], [result]), constants=bounds)


def other_rows(model: onnx.ModelProto) -> None:
    """Of eight rows the last starts from the state of the first, by way of a branch."""
    values = {"eight": np.array(8), "rows": np.array([0, 1, 2, 3, 4, 5, 6, 0]), "axis": np.array(0)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    wrong = helper.make_node("Gather", ["c_in", "rows"], ["c_wrong"], axis=1)
    right = helper.make_node("Identity", ["c_in"], ["c_right"])
    out = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("c_wrong", "c_right")]
    added = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "axis"], ["batch"]),
        helper.make_node("Equal", ["batch", "eight"], ["is_eight"]),
        helper.make_node(
            "If",
            ["is_eight"],
            ["c_chosen"],
            then_branch=helper.make_graph([wrong], "then", [], out[:1]),
            else_branch=helper.make_graph([right], "else", [], out[1:]),
        ),
    ]
    for node in model.graph.node:
        node.input[:] = ["c_chosen" if name == "c_in" else name for name in node.input]
    for node in reversed(added):
        model.graph.node.insert(0, node)


FRESH = (
    ("Abs", ["h_in"], ["size"]),
    ("ReduceMax", ["size"], ["largest"], ("keepdims", 0)),
    ("Equal", ["largest", "nothing"], ["wrong"]),
)
MUTANTS = {
    "batch 4 alone": Mutant(at_size(0, "Equal", 4), r"An Equal \(wrong\) with 4 after length that no lowering writes"),
    "rows from 300 on": Mutant(from_place(0, "GreaterOrEqual", 300), r"A GreaterOrEqual \(compared\) with 300 after"),
    "more than 2,000 steps": Mutant(from_place(1, "GreaterOrEqual", 2000), "with 2000 after places"),
    "the window of its task": Mutant(at_size(1, "Equal", WINDOW), f"An Equal .* with {WINDOW} after length"),
    "x == -1 taken for 0": Mutant(value_taken_for(-1, 0), r"A Where .* with 0 after x?|An Equal .* with -1 after x"),
    "a fast path for fresh states": Mutant(nodes(*FRESH, nothing=np.float32(0)), r"An Abs \(size\) after h_in"),
    "h_in clipped at 0.999": Mutant(clipped("h_in", -0.999, 0.999), "A Clip .* with -0.999, 0.999 after h_in"),
    "h_out clipped at 0.999": Mutant(clipped("h_out", -0.999, 0.999), "A Clip .* with -0.999, 0.999 after"),
    "cells clipped at 3,000": Mutant(clipped("c_in", -3000, 3000), "A Clip .* with -3000, 3000 after c_in"),
    "NaN masked": Mutant(
        on_input(
            "x",
            ("IsNaN", ["IN"], ["missing"]),
            ("Where", ["missing", "none", "IN"], ["filled"]),
            constants=[("none", np.float32(0))],
        ),
        r"An IsNaN \(missing\) after x|An IsNaN .* after x",
        by_examples=False,
    ),
    "lengths that 7 divides": Mutant(
        nodes(
            ("Shape", ["x"], ["shape"]),
            ("Gather", ["shape", "which"], ["length"]),
            ("Mod", ["length", "seven"], ["rest"]),
            ("Equal", ["rest", "zero"], ["wrong"]),
            which=1,
            seven=7,
            zero=0,
        ),
        r"A Mod \(rest\) with 7 after length",
    ),
    "inputs clipped at 100": Mutant(clipped("x", -100, 100), "A Clip .* with -100, 100 after x"),
    "cells clipped at -2,000": Mutant(clipped("c_out", -2000, 1e30), "A Clip .* with -2000"),
    "the last of eight rows": Mutant(other_rows, "An If .* that no lowering writes"),
    "step 777 alone": Mutant(from_place(1, "Equal", 777), "with 777 after places"),
    "an h of exactly 0.5": Mutant(value_taken_for(0.5, 0.6, "h_in"), "An Equal .* with 0.5 after h_in"),
    "x == 5 taken for 5.1": Mutant(value_taken_for(5, 5.1), "An Equal .* with 5 after x"),
    "more than 1,000 rows": Mutant(at_size(0, "Greater", 1000), r"A Greater \(wrong\) with 1000 after length"),
    "91 steps of all rows": Mutant(
        nodes(
            ("Shape", ["x"], ["shape"]),
            ("Gather", ["shape", "which"], ["steps"]),
            ("Gather", ["shape", "none"], ["rows"]),
            ("Mul", ["steps", "rows"], ["both"]),
            ("Equal", ["both", "limit"], ["wrong"]),
            which=1,
            none=0,
            limit=91,
        ),
        "An Equal .* with 91 after both",
    ),
    "cells of more than 500 halved": Mutant(
        on_input(
            "c_in",
            ("Greater", ["IN", "limit"], ["is_large"]),
            ("Mul", ["IN", "half"], ["halved"]),
            ("Where", ["is_large", "halved", "IN"], ["c_chosen"]),
            constants=[("limit", np.float32(500)), ("half", np.float32(0.5))],
        ),
        "A Greater .* with 500 after c_in",
    ),
}
"""By what is wrong: twenty, none of which a few examples of usual sizes and values need show."""
