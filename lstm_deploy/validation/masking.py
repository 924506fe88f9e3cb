"""NaN that a graph of another program takes for a number.

Expected outputs do not show it: onnxruntime's LSTM gives numbers for NaN, where PyTorch gives NaN, and so do its GRU
and its RNN with ReLU. The graph that `export` writes does show it, in the same runtime.
"""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from lstm_deploy.contract import Outputs
from lstm_deploy.runtimes import Runtime, open_runtime
from lstm_deploy.validation.case_inputs import single_call


def masked_inputs(path: Path, right: Path, numbers: Sequence[float]) -> list[str]:
    """One sentence for each input and state whose NaN counts as one of `numbers`, or as 0, in the ONNX file at `path`.

    `right` is the one that `export` writes; what it does too is no fault.
    """
    sentences = []
    with closing(open_runtime(path)) as theirs, closing(open_runtime(right)) as ours:
        signature = ours.signature
        usual = single_call(signature, 2, 3, np.random.default_rng(22)).feeds
        for spec in (*signature.inputs, *signature.state_inputs):
            if not spec.dtype.startswith("float"):
                continue

            def run(runtime: Runtime, number: float, name: str = spec.name) -> Outputs:
                outputs = runtime.run({**usual, name: np.full_like(usual[name], number)})
                return {key: value.copy() for key, value in outputs.items()}

            missing, right_missing = run(theirs, np.nan), run(ours, np.nan)
            for number in dict.fromkeys((0.0, *numbers)):
                if _same(missing, run(theirs, number)) and not _same(right_missing, run(ours, number)):
                    sentences.append(f"NaN in {spec.name} counts as {number:g}, which no lowering does.")
                    break
    return sentences


def _same(outputs: Outputs, others: Outputs) -> bool:
    return all(np.array_equal(value, others[name], equal_nan=True) for name, value in outputs.items())
