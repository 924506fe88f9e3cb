"""The writer of ONNX: names, dynamic axes and metadata as the contract says, weights as initializers."""

import gc
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import onnx
import torch

from lstm_deploy.artifacts import EXTERNAL_ABOVE, PRODUCER, environment, weights_file
from lstm_deploy.contract import CONTRACT_KEY, Signature, TensorSpec
from lstm_deploy.errors import CutError
from lstm_deploy.exporters.frozen_lines import first_frozen_line
from lstm_deploy.exporters.lowering import TRANSLATIONS, lower
from lstm_deploy.exporters.plan import OPSET
from lstm_deploy.exporters.untranslated import untranslated
from lstm_deploy.lifting import (
    Lifted,
    dynamic_dims,
    example_inputs,
    frozen_size_error,
    shared_copy,
    sizes_traced,
    trace,
    wrong_sizes,
)

MOST_STEPS = 2**20
"""Up to so many rows and steps a graph must hold."""


def export_onnx(lifted: Lifted, path: Path) -> None:
    """Write float32 ONNX to `path`, and leave `lifted` as it was.

    Raises `LiftingError` if the user's code keeps the sizes from being dynamic, or has operators that ONNX lacks.
    """
    signature = lifted.signature
    frozen = _check_ones(lifted)
    model, weights = _translate(lifted, frozen)
    _strip_traces(model)
    _declare(model.graph.input, (*signature.inputs, *signature.state_inputs))
    _declare(model.graph.output, (*signature.outputs, *signature.state_outputs))
    model.producer_name = PRODUCER
    model.producer_version = environment.writers()
    model.graph.name = "lstm"
    onnx.helper.set_model_props(model, {CONTRACT_KEY: signature.to_json()})
    _check(model, weights)
    size = sum(weight.nbytes for weight in weights.values())
    if size > EXTERNAL_ABOVE:
        for name, weight in weights.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(weight.numpy(), name))
        onnx.save_model(model, path, save_as_external_data=True, location=weights_file(path).name)
    else:
        with path.open("wb") as file:
            _write(model, weights, file)
    del weights
    if size > 50_000_000:  # below, it is not worth the half second that it takes
        gc.collect()  # the exporter's objects refer to themselves, and to the weights


def _check_ones(lifted: Lifted) -> tuple[str, ...]:
    """Refuse a module that behaves differently where a size is 1: `torch.export` assumes that every size is larger.

    A trace that is right at larger sizes, and wrong at these, has met such a branch. Returns the lines of the user's
    code that may freeze a size.
    """
    try:
        traced = trace(lifted)
    except Exception:  # whatever torch.jit raises, on Python 3.14 too, for code that torch.export may well export
        return ()
    wrong = traced.frozen and wrong_sizes(traced, lifted)
    if wrong and all(1 in sizes.values() for sizes in wrong):
        raise frozen_size_error(traced.frozen, wrong[0])
    return traced.frozen


def _translate(lifted: Lifted, frozen: tuple[str, ...]) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The graph without its initializers, and those by name."""
    signature = lifted.signature
    with _quiet(), torch.no_grad():
        program = _program(lifted, frozen)
        try:
            exported = torch.onnx.export(
                program,
                input_names=signature.input_names,
                output_names=signature.output_names,
                opset_version=OPSET,
                custom_translation_table=TRANSLATIONS,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # whatever its translations of single operators raise
            if (named := untranslated(error)) is None:
                raise
            raise named from error
    assert exported is not None  # it is None only for the deprecated exporter
    graph = exported.model.graph
    _name_apart(graph)
    initializers = graph.initializers
    weights = {}
    for name, value in initializers.items():
        weights[name], value.const_value = value.const_value, None  # the optimizer's rules keep the value for good
    initializers.clear()
    return exported.model_proto, weights


def _name_apart(graph: Any) -> None:
    """Rename inner values that are called as an input or output: the exporter names them after operators."""
    ends = {id(value) for value in (*graph.inputs, *graph.outputs)}
    values = [*graph.initializers.values(), *(value for node in graph.all_nodes() for value in node.outputs)]
    inner = [value for value in values if id(value) not in ends]
    taken = {value.name for value in (*graph.inputs, *graph.outputs)}
    names = {*taken, *(value.name for value in inner)}
    for value in inner:
        if value.name in taken:
            name = f"{value.name}_inner"
            while name in names:
                name += "_"
            value.name = name
            names.add(name)


def _program(lifted: Lifted, frozen: tuple[str, ...]) -> torch.export.ExportedProgram:
    """The lowered module, exported; raises `LiftingError` with the line where a size becomes a number."""
    signature = lifted.signature
    lowered = shared_copy(lifted)
    lower(lowered)
    # The exporter takes a size of 1 for a constant, and refuses a size that might become 1. So where a call needs some
    # steps, it must not consider so few that one is left inside; the graph runs on them all the same, which is proven.
    least = {"seq": 1 if signature.least_seq == 1 else 4 * signature.least_seq}
    names = sorted(dynamic_dims((*signature.inputs, *signature.state_inputs)))
    dims = {name: torch.export.Dim(name, min=least.get(name, 1), max=MOST_STEPS) for name in names}
    try:
        return _exported(lowered, dims)
    except torch._dynamo.exc.UserError as error:
        if error.error_type is not torch._dynamo.exc.UserErrorType.CONSTRAINT_VIOLATION:
            raise
        lines = (*_frozen_line(lowered), *frozen)
        if lines and not _assumes_only_more_than_one(error):
            raise frozen_size_error(tuple(dict.fromkeys(lines))) from error
    # It was an inequality of sizes that holds, and that the exporter's solver cannot show, as n // 2 < n.
    program = _exported_freely(lowered)
    _check_bounds(program, signature)
    return program


def _check_bounds(program: torch.export.ExportedProgram, signature: Signature) -> None:
    """Refuse a graph that is right up to some size only: of `x[:, :512]`, it keeps what happens to fewer steps."""
    specs = (*signature.inputs, *signature.state_inputs)
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"][-len(specs) :]
    for spec, node in zip(specs, placeholders, strict=True):
        for axis, name in enumerate(spec.shape):
            size = node.meta["val"].shape[axis]
            if isinstance(name, str) and isinstance(size, torch.SymInt):
                most = program.range_constraints[size.node.expr].upper
                if most < MOST_STEPS:
                    raise CutError(
                        f"From {name} {most + 1} on, forward does something else than below, as a slice like "
                        f"[:, :{most + 1}] does, and a graph has one way for all sizes; cut the input before the call, "
                        f"or give a number in the place of {name} in {spec}."
                    )


def _exported(lowered: Lifted, dims: Mapping[str, Any]) -> torch.export.ExportedProgram:
    """`lowered` in the exporter's form; `dims` says what is known of each dynamic dimension."""
    signature = lowered.signature
    specs = (*signature.inputs, *signature.state_inputs)
    dynamic = tuple({axis: dims[dim] for axis, dim in enumerate(spec.shape) if isinstance(dim, str)} for spec in specs)
    with sizes_traced(lowered.module):
        return torch.export.export(lowered, example_inputs(signature), dynamic_shapes=(dynamic,), strict=False)


def _assumes_only_more_than_one(error: Exception) -> bool:
    """Whether all that the exporter assumes of sizes inside is that they are not 1, where `_check_ones` has looked."""
    guards = [line for line in str(error).splitlines() if "satisfy the generated guard" in line]
    return bool(guards) and all(line.rstrip().endswith("!= 1.") for line in guards)


def _exported_freely(lowered: Lifted) -> torch.export.ExportedProgram:
    """The same with nothing known of the dimensions, so that whatever the code assumes of them is not refused."""
    names = dynamic_dims((*lowered.signature.inputs, *lowered.signature.state_inputs))
    return _exported(lowered, dict.fromkeys(names, torch.export.Dim.DYNAMIC))


def frozen_line(lifted: Lifted) -> tuple[str, ...]:
    """The line of the user's code that makes a number of a size, found by exporting; empty if that finds none."""
    lowered = shared_copy(lifted)
    lower(lowered)
    with _quiet(), torch.no_grad():
        return _frozen_line(lowered)


def _frozen_line(lowered: Lifted) -> tuple[str, ...]:
    line = first_frozen_line(lowered, partial(_exported_freely, lowered))
    return (line,) if line else ()


def _check(model: onnx.ModelProto, weights: Mapping[str, Any]) -> None:
    """Check the graph by ONNX's rules, with its weights as inputs, since the checker would copy them twice."""
    checked = onnx.ModelProto()
    checked.CopyFrom(model)
    for name, weight in weights.items():
        checked.graph.input.append(onnx.helper.make_tensor_value_info(name, weight.dtype.value, weight.shape.numpy()))
    onnx.checker.check_model(checked)


def _write(model: onnx.ModelProto, weights: Mapping[str, Any], file: BinaryIO) -> None:
    """Write `model` with `weights` as its graph's initializers, without the three copies that protobuf would make.

    The numbers are those of the fields in `onnx.proto`.
    """
    headers = {}
    for name, weight in weights.items():
        tensor = onnx.TensorProto(name=name, data_type=weight.dtype.value, dims=weight.shape.numpy())
        headers[name] = tensor.SerializeToString() + _field(9, weight.nbytes)  # TensorProto.raw_data
    initializers = {name: _field(5, len(header) + weights[name].nbytes) + header for name, header in headers.items()}
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    size = len(graph) + sum(len(start) + weights[name].nbytes for name, start in initializers.items())
    file.write(model.SerializeToString() + _field(7, size) + graph)  # ModelProto.graph
    for name, start in initializers.items():
        file.write(start)
        weights[name].tofile(file)


def _field(number: int, size: int) -> bytes:
    """The header of a field of `size` bytes in protobuf: its number with the wire type 2, and the size as a varint."""
    encoded = [number << 3 | 2]
    while size > 127:
        encoded.append(size & 127 | 128)
        size >>= 7
    return bytes([*encoded, size])


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's own deprecations, graph dumps and hints at packages."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _strip_traces(model: onnx.ModelProto) -> None:
    """Drop the paths and lines of the traced code, which are private and half of the file, and its names for sizes.

    Readers such as tract cannot unify these with the contract's.
    """
    graph = model.graph
    del graph.value_info[:]
    for holder in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del holder.metadata_props[:]
        holder.doc_string = ""


def _declare(values: Sequence[onnx.ValueInfoProto], specs: Sequence[TensorSpec]) -> None:
    """Give the dimensions the names of the contract, in place of the tracer's symbols."""
    for value, spec in zip(values, specs, strict=True):
        value.type.CopyFrom(onnx.helper.make_tensor_type_proto(value.type.tensor_type.elem_type, spec.shape))
