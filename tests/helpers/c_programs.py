"""C artifacts exported, compiled as programs by any compiler for any machine, and run on given arrays."""

import shutil
import struct
import subprocess

import numpy as np
import pytest
import torch

from lstm_deploy.artifacts.c_source import read_interface
from lstm_deploy.artifacts.files import weights_file
from lstm_deploy.artifacts.onnx_graph import load
from lstm_deploy.contract.sampling import sample_inputs, sample_state
from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.exporters.c.writer import export_c
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.exporters.precision.int8_onnx import quantizable_nodes
from lstm_deploy.lifting.lifting import lift
from lstm_deploy.runtimes import c_compiler, native
from lstm_deploy.runtimes.onnxrt import OnnxRuntime

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
PACKAGES = {
    "gcc": "gcc",
    "clang": "clang",
    "g++": "g++",
    "qemu-aarch64": "qemu-user",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
}
PROCESSORS = {
    "any that this machine has": (),
    "AVX2": ('-D__builtin_cpu_supports(x)=(sizeof(x)<=sizeof("avx2"))',),
    "none": ("-D__builtin_cpu_supports(x)=0",),
}
"""Compiler flags that simulate a processor, by the largest instruction set that it has."""

MAIN = """
#include <stdio.h>
#include <stdlib.h>

static void *filled(FILE *file, size_t bytes)
{
  void *found = malloc(bytes);
  if (bytes && fread(found, 1, bytes, file) != bytes) exit(2);
  return found;
}

int main(int argc, char **argv)
{
  rows_call all;
  uint64_t sizes[64];
  size_t count = sizeof all.arrays / sizeof *all.arrays, k;
  FILE *file = fopen(argv[1], "rb");
  (void)argc;
  if (!file || fread(sizes, 8, 4 + count, file) != 4 + count) return 2;
  all.rows = sizes[0];
  all.steps = sizes[1];
  all.states = filled(file, sizes[2]);
  all.workspace = malloc(glue_workspace_bytes(all.steps));
  for (k = 0; k < count; k++) all.arrays[k] = filled(file, sizes[4 + k]);
  fclose(file);
  all.weights = WEIGHTS;
  glue_rows(&all);
  file = fopen(argv[2], "wb");
  fwrite(all.states, 1, sizes[2], file);
  for (k = 0; k < count; k++) fwrite(all.arrays[k], 1, sizes[4 + k], file);
  fclose(file);
  for (k = 0; k < count; k++) free(all.arrays[k]);
  free(all.workspace);
  free(all.states);
  return 0;
}
"""


NEEDS_CC = pytest.mark.skipif(
    not any(map(shutil.which, c_compiler.COMPILERS)), reason="needs a C compiler; apt install gcc"
)


def need(*tools):
    """Skip the test if a tool is missing, and name the package that has it."""
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}; apt install {PACKAGES.get(tool, tool)}")


def written(module, folder, *specs, name="net", int8=False, **options):
    """Export a module to ONNX and C; return the runtime of the ONNX file and the path of the C file."""
    graph = folder / f"{name}.onnx"
    export_onnx(lift(module.eval(), [TensorSpec.parse(spec) for spec in specs], **options), graph)
    return OnnxRuntime(graph, threads=1), as_c(graph, folder / f"{name}.c", int8=int8)


def as_c(graph, path, *, int8=False):
    export_c(graph, path, path.stem, [node.name for node in quantizable_nodes(load(graph), "c").values()] if int8 else ())
    return path


def feeds_of(signature, batch, seq, seed=0):
    rng = np.random.default_rng(seed)
    sizes = signature.clamp({"batch": batch, "seq": seq})
    return {**sample_inputs(signature.inputs, sizes, rng), **sample_state(signature, sizes["batch"], rng)}


def opened(path):
    c_compiler.build(path)
    return native.NativeRuntime(path)


def assert_equal(outputs, expected, tolerance=1e-5):
    """Same names, shapes and types, and values within `tolerance` of the largest value, or of 1."""
    assert outputs.keys() == expected.keys()
    for name, right in expected.items():
        assert (outputs[name].shape, outputs[name].dtype) == (right.shape, right.dtype), name
        size = max(1.0, float(np.abs(right).max(initial=0)))
        np.testing.assert_allclose(outputs[name], right, rtol=0, atol=tolerance * size, err_msg=name)


def run_program(path, feeds, folder, command=("cc",), flags=(), runner=()):
    """The outputs of the artifact as a program that `command` compiles and `runner` runs; batch-first arrays only."""
    need(command[0])
    interface = read_interface(path)
    signature = interface.signature
    folder.mkdir(exist_ok=True)
    for file in (path, path.with_suffix(".h")):
        shutil.copy(file, folder)
    weights = f'{interface.name}_map("{weights_file(path)}")' if interface.mapped else "NULL"
    (folder / "main.c").write_text(c_compiler.glue(path.name, interface) + MAIN.replace("WEIGHTS", weights))
    program = folder / "program"
    subprocess.run([*command, *flags, str(folder / "main.c"), "-o", str(program), "-lm"], check=True)
    sizes = {"batch": 1, "seq": 1}
    for spec in (*signature.inputs, *signature.state_inputs):
        sizes |= {
            dim: size for dim, size in zip(spec.shape, feeds[spec.name].shape, strict=True) if isinstance(dim, str)
        }
    sizes = signature.clamp(sizes)
    outputs = [np.zeros(spec.sized(sizes), spec.dtype) for spec in signature.outputs]
    arrays = [np.ascontiguousarray(feeds[spec.name]) for spec in signature.inputs] + outputs
    states = [np.swapaxes(feeds[spec.name], 0, signature.batch_axis_of_state) for spec in signature.state_inputs]
    rows = np.concatenate([state.reshape(sizes["batch"], -1) for state in states], axis=1)
    header = struct.pack(
        f"<{4 + len(arrays)}Q", sizes["batch"], sizes["seq"], rows.nbytes, 0, *(array.nbytes for array in arrays)
    )
    (folder / "in").write_bytes(header + rows.tobytes() + b"".join(array.tobytes() for array in arrays))
    subprocess.run([*runner, str(program), str(folder / "in"), str(folder / "out")], check=True)
    content = (folder / "out").read_bytes()
    outputs_by_name, place = {}, rows.nbytes + sum(array.nbytes for array in arrays[: len(signature.inputs)])
    for spec, output in zip(signature.outputs, outputs, strict=True):
        outputs_by_name[spec.name] = np.frombuffer(content, spec.dtype, output.size, place).reshape(output.shape)
        place += output.nbytes
    after = np.frombuffer(content, np.float32, rows.size).reshape(rows.shape)
    column = 0
    for spec, state in zip(signature.state_outputs, states, strict=True):
        count = state[0].size
        part = after[:, column : column + count].reshape(state.shape)
        outputs_by_name[spec.name] = np.swapaxes(part, 0, signature.batch_axis_of_state)
        column += count
    return outputs_by_name


class Linear(torch.nn.Module):
    """An LSTM and a linear layer."""

    def __init__(self, inputs, hidden, layers, outputs=None):
        super().__init__()
        self.lstm = torch.nn.LSTM(inputs, hidden, layers, batch_first=True)
        self.fc = torch.nn.Linear(hidden, outputs or inputs)

    def forward(self, x):
        return self.fc(self.lstm(x)[0])
