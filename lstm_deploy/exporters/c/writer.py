"""C99: a model as one source and one header, from its ONNX graph; no runtime, and no dependency but libm."""

import re
from collections.abc import Collection
from pathlib import Path

from lstm_deploy.artifacts import atomic_write, constants_of, onnx_graph, weights_file
from lstm_deploy.contract import Signature
from lstm_deploy.exporters.c import kernels, kernels_int8
from lstm_deploy.exporters.c.nodes import Translator, needed
from lstm_deploy.exporters.c.shapes import examine
from lstm_deploy.exporters.c.source import Writer
from lstm_deploy.exporters.c.weights import ALIGNMENT


def export_c(graph: Path, path: Path, name: str, quantized: Collection[str] = ()) -> None:
    """Write the float32 ONNX artifact at `graph` as C to `path`, its header beside it, and large weights in a file.

    `name` is what its functions begin with. `quantized` names the nodes whose weights become int8. Raises `InputError`
    for what C cannot express, before anything is written.
    """
    model = onnx_graph.load(graph)
    signature = Signature.from_json(onnx_graph.contract_text(model) or "")
    writer = Writer(identifier(name), signature, "int8" if quantized else "float32")
    known = examine(model, signature, writer.mode)
    translator = Translator(known, constants_of(model), frozenset(quantized))
    for each in (*writer.inputs, *writer.states_in):
        translator.enter(each.spec.name, each.name)
    for node in needed(model):
        translator.translate(node)
    for each in (*writer.outputs, *writer.states_out):
        translator.leave(each.spec.name, each.name)
    header, weights = path.with_suffix(".h"), weights_file(path)
    text_of_kernels = _kernels(translator.kernels, translator.weights.longest)
    text = writer.source(header.name, translator, text_of_kernels, weights)
    size = weights.stat().st_size if writer.mapped else 0
    with atomic_write(header) as file:
        file.write_text(writer.header(weights.name, size), encoding="utf-8")
    with atomic_write(path) as file:
        file.write_text(text, encoding="utf-8")


def _kernels(names: set[str], longest: int) -> str:
    """All kernels that a model needs, for each instruction set, and what chooses among them."""
    if not names:
        return ""
    int8 = names & set(kernels_int8.SIGNATURES)
    parts = [kernels.INCLUDES]
    parts += [f"#if {each.guard}\n{kernels.functions(each, names)}#endif\n" for each in kernels.VECTORS]
    parts.append(kernels.plain_functions(names))
    if int8:
        rounded_up = -(-longest // ALIGNMENT) * ALIGNMENT
        parts.append(f"/* Numbers that are rounded at once, at most. */\n#define LONGEST {rounded_up}\n")
        parts.append(kernels_int8.DOTPROD_HEADER)
        parts += [f"#if {each.guard}\n{kernels_int8.functions(each, int8)}#endif\n" for each in kernels_int8.INTEGERS]
        parts.append(kernels_int8.plain_functions(int8))
    for name in sorted(names):
        if name in int8:
            parts.append(kernels.dispatch(kernels_int8.SIGNATURES[name], kernels_int8.INTEGERS))
        else:
            parts.append(kernels.dispatch(kernels.SIGNATURES[name], kernels.VECTORS))
    return "\n".join(parts)


def identifier(name: str) -> str:
    """A name that C functions can begin with: `aaxj-2024` is `aaxj_2024`."""
    found = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower()
    if found in ("", "w"):  # weights are called w_…
        return f"{found}model"
    return f"m{found}" if found[0].isdigit() else found
