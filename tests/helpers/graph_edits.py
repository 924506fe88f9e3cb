"""Edits of a right ONNX graph that make it wrong."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from lstm_deploy.contract.cells import RECURRENT_OPERATORS


def layers(model):
    """The recurrent nodes."""
    return [node for node in model.graph.node if node.op_type in RECURRENT_OPERATORS]


def gates_of(model):
    """The number of gates of each of them."""
    return len(RECURRENT_OPERATORS[layers(model)[0].op_type].onnx_gates)


def constant(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def edit(model, name, change):
    """Replace an initializer by `change` of its value."""
    tensor = constant(model, name)
    value = np.array(change(numpy_helper.to_array(tensor).copy()), order="C")
    tensor.CopyFrom(numpy_helper.from_array(value, name))


def weight(position, change, layer=0):
    """Change an input of a recurrent node: 1 is W, 2 R, 3 B; for quantized ones 8 to 11 are scales and zero points."""
    return lambda model: edit(model, layers(model)[layer].input[position], change)


def halved_head(model):
    (node,) = (node for node in model.graph.node if node.op_type == "MatMulInteger")
    edit(model, node.input[1], lambda matrix: matrix // 2)


def at(index, by):
    def change(value):
        value[index] = by(value[index])
        return value

    return change


def gates(order):
    """Gates from other positions; biases hold each gate twice."""

    def change(value):
        count = len(order)
        blocks = np.split(value, (2 if value.ndim == 2 else 1) * count, axis=1)
        return np.concatenate([blocks[start + gate] for start in range(0, len(blocks), count) for gate in order], 1)

    return change


def transposed(model):
    """The recurrent weights of the first layer, gate by gate."""
    count = gates_of(model)
    change = lambda r: np.concatenate([block.swapaxes(1, 2) for block in np.split(r, count, axis=1)], 1)  # noqa: E731
    weight(2, change)(model)


def all_gates(order):
    def change(model):
        for node in layers(model):
            for position in (1, 2, 3):
                edit(model, node.input[position], gates(order))

    return change


def swap_states_in(model):
    for node in layers(model):
        node.input[5], node.input[6] = node.input[6], node.input[5]


def rename_outputs(names):
    def change(model):
        for node in model.graph.node:
            for position, name in enumerate(node.output):
                node.output[position] = names.get(name, name)

    return change


swap_states_out = rename_outputs({"h_out": "c_out", "c_out": "h_out"})


def swap_both(model):
    swap_states_in(model)
    swap_states_out(model)


def drop_states(*positions, layer=None):
    def change(model):
        for number, node in enumerate(layers(model)):
            if layer in (None, number):
                for position in positions:
                    node.input[position] = ""

    return change


def insert(model, value, nodes, before=None, constants=()):
    """Put nodes in front of all users of `value`, whose input becomes the last node's output; `IN` stands for it."""
    for node in nodes:
        for position, name in enumerate(node.input):
            node.input[position] = value if name == "IN" else name
    last = nodes[-1].output[0]
    for node in model.graph.node:
        if before is None or node.op_type == before:
            for position, name in enumerate(node.input):
                node.input[position] = last if name == value else name
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in constants)


def on_input(name, *nodes, constants=()):
    return lambda model: insert(model, name, [helper.make_node(*node) for node in nodes], constants=constants)


def on_output(name, *nodes, constants=()):
    """Nodes between the last node of an output and the output itself; `IN` stands for what comes in."""

    def change(model):
        rename_outputs({name: f"{name}_right"})(model)
        for node in nodes:
            added = helper.make_node(*node)
            for position, value in enumerate(added.input):
                added.input[position] = f"{name}_right" if value == "IN" else value
            model.graph.node.append(added)
        model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), key) for key, array in constants)

    return change


def replaced_output(name, *nodes, constants=()):
    """An output computed from something else altogether."""

    def change(model):
        rename_outputs({name: f"{name}_unused"})(model)
        model.graph.node.extend(helper.make_node(*node) for node in nodes)
        model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), key) for key, array in constants)

    return change


def same_layer_twice(model):
    """The second layer starts from the state of the first."""
    first, second = layers(model)
    second.input[5:] = first.input[5:]


def layers_exchanged(model):
    first, second = layers(model)
    for position in (1, 2, 3):
        first.input[position], second.input[position] = second.input[position], first.input[position]


def concatenated_backwards(model):
    for node in model.graph.node:
        if node.op_type == "Concat" and node.output[0] in ("h_out", "c_out"):
            names = list(node.input)
            node.input[:] = names[::-1]


def attribute(**values):
    def change(model):
        for node in layers(model):
            for name, value in values.items():
                kept = [old for old in node.attribute if old.name != name]
                del node.attribute[:]
                node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def state_before_the_last_step(model):
    """h of the step before, as one gets it from the sequence of outputs."""
    node = layers(model)[0]
    model.graph.initializer.append(numpy_helper.from_array(np.array(-2), "before_last"))
    gather = helper.make_node("Gather", [node.output[0], "before_last"], ["h_out"], axis=0)
    rename_outputs({"h_out": "unused"})(model)
    model.graph.node.append(gather)


def frozen(axis, size):
    """As the stock exporter declares it."""

    def change(model):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size

    return change


def frozen_inside(model):
    """The declared shapes are dynamic, and a Reshape is not."""
    insert(model, "x", [helper.make_node("Reshape", ["IN", "size"], ["x_sized"])], constants=[("size", [2, 6, 8])])


def another_step(model):
    """The last step but one."""
    for node in model.graph.node:
        if node.op_type == "Gather" and not node.output[0].startswith(("h_", "c_")):
            edit(model, node.input[1], lambda value: value - 1)


def no_bias(model):
    """The Add after the last MatMul, left out."""
    add = [node for node in model.graph.node if node.op_type == "Add"][-1]
    matmul = next(name for name in add.input if name not in {tensor.name for tensor in model.graph.initializer})
    model.graph.node.remove(add)
    rename_outputs({matmul: add.output[0]})(model)


def lengths_ignored(model):
    layers(model)[0].input[4] = ""


def skip(operator, number=0):
    """Leave out one node of an operator, of which the first input goes on."""

    def change(model):
        node = [node for node in model.graph.node if node.op_type == operator][number]
        for other in model.graph.node:
            for position, name in enumerate(other.input):
                if name == node.output[0]:
                    other.input[position] = node.input[0]
        if node.output[0] == "y":
            rename_outputs({node.input[0]: "y"})(model)
        model.graph.node.remove(node)

    return change


def no_scaling(model):
    skip("Sub")(model)
    skip("Mul")(model)


def scaled_twice(model):
    sub = next(node for node in model.graph.node if node.op_type == "Sub")
    mul = next(node for node in model.graph.node if node.op_type == "Mul")
    again = [
        helper.make_node("Sub", ["IN", sub.input[1]], ["again_sub"]),
        helper.make_node("Mul", ["again_sub", mul.input[1]], ["again_mul"]),
    ]
    insert(model, "x", again)


def column_scaled_as_another(model):
    for operator in ("Sub", "Mul"):
        node = next(node for node in model.graph.node if node.op_type == operator)
        model.graph.initializer.append(
            numpy_helper.from_array(
                np.roll(numpy_helper.to_array(constant(model, node.input[1])), 1), f"{operator}_rolled"
            )
        )
        node.input[1] = f"{operator}_rolled"


def no_output_scaling(model):
    div = [node for node in model.graph.node if node.op_type == "Div"][-1]
    add = [node for node in model.graph.node if node.op_type == "Add"][-1]
    kept = div.input[0]
    model.graph.node.remove(div)
    model.graph.node.remove(add)
    rename_outputs({kept: "y"})(model)


def metadata(**changes):
    """A contract that does not say what the graph does."""

    def change(model):
        for prop in model.metadata_props:
            for old, new in changes.values():
                assert old in prop.value
                prop.value = prop.value.replace(old, new)

    return change


def overflowing_float16(model):
    rename_outputs({"y": "y_right"})(model)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1e6), "large"))
    model.graph.node.extend(
        [
            helper.make_node("Mul", ["y_right", "large"], ["y_large"]),
            helper.make_node("Cast", ["y_large"], ["y_half"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", ["y_half"], ["y_single"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["y_single", "large"], ["y"]),
        ]
    )


def random_input(model):
    nodes = [
        helper.make_node("RandomNormalLike", ["IN"], ["noise"], scale=0.01),
        helper.make_node("Add", ["IN", "noise"], ["x_noisy"]),
    ]
    insert(model, "x", nodes)


def delayed(model):
    """y one step late."""
    on_output(
        "y",
        ("Slice", ["IN", "zero", "minus_one", "one"], ["y_early"]),
        ("Slice", ["IN", "minus_one", "end", "one"], ["y_last"]),
        constants=[("zero", [0]), ("one", [1]), ("minus_one", [-1]), ("end", [2**31 - 1])],
    )(model)
    model.graph.node.append(helper.make_node("Concat", ["y_last", "y_early"], ["y"], axis=1))


def reversed_time(model):
    node = helper.make_node("Slice", ["IN", "from", "to", "axis", "step"], ["x_reversed"])
    insert(model, "x", [node], constants=[("from", [-1]), ("to", [-(2**31)]), ("axis", [1]), ("step", [-1])])


def columns_exchanged(model):
    node = helper.make_node("Gather", ["IN", "order"], ["x_ordered"], axis=2)
    insert(model, "x", [node], constants=[("order", [1, 0, 2, 3, 4, 5, 6, 7])])


def rows_reversed(model):
    """The first row starts from the last row's h, and so on."""
    node = helper.make_node("Slice", ["IN", "from", "to", "axis", "step"], ["reversed"])
    insert(model, "h_in", [node], constants=[("from", [-1]), ("to", [-(2**31)]), ("axis", [1]), ("step", [-1])])


def mixed_with_mean(part):
    def change(model):
        nodes = [
            helper.make_node("ReduceMean", ["IN", "axes"], ["x_mean"], keepdims=1),
            helper.make_node("Mul", ["x_mean", "part"], ["x_part"]),
            helper.make_node("Add", ["IN", "x_part"], ["x_mixed"]),
        ]
        insert(model, "x", nodes, constants=[("axes", [0]), ("part", np.float32(part))])

    return change


def exchange_directions(model):
    node = layers(model)[0]
    for position in (1, 2, 3):
        edit(model, node.input[position], lambda value: value[::-1])
