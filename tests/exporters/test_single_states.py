"""States that are one tensor, in ONNX and TorchScript: held against their authors' own calls, one after another."""

from itertools import cycle

import onnxruntime as ort
import pytest
import torch
from single_states import SINGLE
from state_chains import CALLS, ROWS, inputs_of, lifted_of, same

from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.exporters.torchscript import export_torchscript
from lstm_deploy.lifting.calling import flatten

FORMS = list(zip(SINGLE, cycle(("GRU", "RNN_TANH", "RNN_RELU", "GRU")), strict=False))


@pytest.mark.parametrize(("make", "kind"), FORMS)
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_chain_of_calls_is_that_of_the_author(tmp_path, make, kind):
    module, lifted = lifted_of(lambda: make(kind))
    signature = lifted.signature
    export_onnx(lifted, tmp_path / "m.onnx")
    export_torchscript(lifted, tmp_path / "m.pt")
    session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    script, outputs = torch.jit.load(tmp_path / "m.pt"), len(signature.outputs)
    arguments, states = module.first(ROWS), [torch.from_numpy(x) for x in signature.initial_state(ROWS).values()]
    for number in range(CALLS):
        inputs = inputs_of(signature, number)
        feeds = zip(signature.input_names, (x.numpy() for x in (*inputs, *states)), strict=True)
        ours = [torch.from_numpy(x) for x in session.run(signature.output_names, dict(feeds))]
        with torch.no_grad():
            theirs = script(*inputs, *states)
            names = (spec.name for spec in signature.inputs)
            returned = module(**dict(zip(names, inputs, strict=True)), **arguments)
        arguments, leaves, states = module.following(returned), flatten(returned), ours[outputs:]
        assert all(same(a, b) for a, b in zip(ours, theirs, strict=True))
        for position, y in zip(lifted.output_positions, ours, strict=False):
            assert same(y, leaves[position][1]), (number, position)
