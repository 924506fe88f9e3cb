"""A runtime whose outputs a function computes, the right function, and parity cases of it."""

from pathlib import Path

import numpy as np

from lstm_deploy.contract.signature import RecurrentSpec, Signature, TensorSpec
from lstm_deploy.validation.checks import Subject
from lstm_deploy.validation.parity_case import ParityCase

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", "seq", 2)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", "seq", 2)),),
    recurrent=(
        RecurrentSpec(
            module="lstm", prefix="", input_size=2, hidden_size=1, proj_size=0, num_layers=1, num_directions=1
        ),
    ),
    streaming="exact",
)
SUBJECT = Subject(path=Path("m.onnx"), name="m.onnx", precision="float32")


class Fake:
    """A runtime whose outputs are made by a function of all that was fed."""

    provider = "cpu"
    rollout = None
    swallows_nan = False
    signature = SIGNATURE

    def __init__(self, outputs):
        self.outputs = outputs

    def run(self, feeds):
        return self.outputs(feeds)

    def declared(self):
        return None

    def misplaced(self):
        return []


def right(feeds):
    return {"y": feeds["x"] * np.float32(2), "h_out": feeds["h_in"] + np.float32(1), "c_out": feeds["c_in"]}


def case(check="shapes", calls=1, **changes):
    """`right` on ones, `calls` times in a chain."""
    state = {"h_in": np.zeros((1, 2, 1), np.float32), "c_in": np.zeros((1, 2, 1), np.float32)}
    inputs = {"x": np.ones((2, 3, 2), np.float32)}
    expected = []
    carried = state
    for _ in range(calls):
        expected.append({name: value.astype(np.float64) for name, value in right({**inputs, **carried}).items()})
        carried = SIGNATURE.next_state({name: value.astype(np.float32) for name, value in expected[-1].items()})
    sizes = {"y": np.full((1, 1, 2), 2.0), "h_out": np.ones((1, 1, 1)), "c_out": np.ones((1, 1, 1))}
    return ParityCase(check, "ones", state, (inputs,) * calls, tuple(expected), sizes)._replace(**changes)
