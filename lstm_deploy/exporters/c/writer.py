"""A float32 ONNX artifact written as C99."""

import re
from collections.abc import Collection
from pathlib import Path

import onnx

from lstm_deploy.artifacts import atomic_write, constants_of, onnx_graph, weights_file
from lstm_deploy.contract import CInterface, Signature
from lstm_deploy.exporters.c.operators import translate_graph
from lstm_deploy.exporters.c.shape_inference import infer_values
from lstm_deploy.exporters.c.source import SourceFiles
from lstm_deploy.exporters.c.translator import Translator
from lstm_deploy.exporters.c.weights import MAPPED_ABOVE


def export_c(graph: Path, path: Path, name: str, quantized: Collection[str] = ()) -> None:
    """Write the float32 ONNX artifact at `graph` as C to `path`, its header beside it, and large weights in a file.

    `name` is the prefix of its functions. `quantized` names the nodes whose weights become int8. Raises `InputError`
    for what C cannot express, before anything is written.
    """
    model = onnx_graph.load(graph)
    signature = Signature.from_json(onnx_graph.contract_text(model) or "")
    interface = CInterface(identifier(name), signature, "int8" if quantized else "float32")
    infos = infer_values(model, signature, interface.mode, graph.parent)
    onnx.load_external_data_for_model(model, str(graph.parent))
    translator = Translator(infos, constants_of(model), frozenset(quantized))
    for tensor in (*interface.inputs, *interface.states_in):
        translator.read_input(tensor.spec.name, tensor.name)
    translate_graph(translator, model)
    for tensor in (*interface.outputs, *interface.states_out):
        translator.write_output(tensor.spec.name, tensor.name)
    interface.mapped = translator.weights.nbytes > MAPPED_ABOVE
    files = SourceFiles(interface, translator)
    header, weights = path.with_suffix(".h"), weights_file(path)
    source = files.source(header.name, weights)
    with atomic_write(header) as file:
        file.write_text(files.header(weights), encoding="utf-8")
    with atomic_write(path) as file:
        file.write_text(source, encoding="utf-8")


def identifier(name: str) -> str:
    """A prefix for C functions: `aaxj-2024` becomes `aaxj_2024`."""
    word = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower()
    if word in ("", "w"):  # weights are called w_…
        return f"{word}model"
    return f"m{word}" if word[0].isdigit() else word
