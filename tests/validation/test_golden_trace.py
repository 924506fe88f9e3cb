import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import nn
from validation_cases import SMALL, reference_of

import lstm_deploy
from lstm_deploy.artifacts import Bundle
from lstm_deploy.errors import InputError
from lstm_deploy.validation.golden_trace import golden_cases, record_trace, trace_cases, trace_inputs
from lstm_deploy.validation.parity_case import run_case
from lstm_deploy.validation.reference_cases import make_cases
from lstm_deploy.validation.tolerances import CALM


def traced(reference):
    cases = make_cases(reference, SMALL, [("golden", chain) for chain in trace_inputs(reference.signature)])
    return [case for case in cases if case.check == "golden"]


def test_a_golden_trace_is_a_chain_and_calls_from_states_of_their_own(reference):
    trace = record_trace(traced(reference))
    chains = trace_cases(reference.signature, trace)
    assert [len(case.calls) for case in chains] == [4, 1, 1]
    assert (chains[0].state["h_in"] == 0).all()
    assert (chains[1].state["h_in"] != 0).all()
    assert trace["2.c_out"].dtype == np.float64
    for case in chains:
        for got, expected in zip(run_case(reference, case), case.expected, strict=True):
            for name in expected:
                np.testing.assert_allclose(got[name], expected[name], rtol=1e-9, atol=1e-12)


class Chaotic(nn.Module):
    """Doubles differences at each step, and is fed what saturates its gates."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 32, 2, batch_first=True)
        self.fc = nn.Linear(32, 1)
        with torch.no_grad():
            for weight in self.lstm.parameters():
                weight.mul_(6)
            self.fc.weight.mul_(1e4)

    def forward(self, x):
        return self.fc(self.lstm(x * 1e3)[0])


def test_the_trace_of_a_chaotic_network_keeps_what_pytorchs_own_rounding_does():
    torch.manual_seed(0)
    reference = reference_of(Chaotic().eval(), "x:float32[batch,seq,4]")
    cases = traced(reference)
    assert max(case.rounding["h_out"] for case in cases) > CALM
    for before, after in zip(cases, trace_cases(reference.signature, record_trace(cases)), strict=True):
        assert after.rounding == before.rounding


def test_a_chaotic_network_is_exported_and_its_trace_replayed(tmp_path):
    for seed in range(3):
        torch.manual_seed(seed)
        folder = tmp_path / f"{seed}"
        lstm_deploy.export(Chaotic().eval(), folder, inputs={"x": "float32[batch,seq,4]"})
        report = lstm_deploy.validate(folder)
        assert report.passed, [check.detail for check in report.failures]


@pytest.mark.parametrize(
    "change",
    [
        lambda contract: replace(contract, states=(replace(contract.state_specs[0], name="s"),)),
        lambda contract: replace(contract, inputs=(replace(contract.inputs[0], name="other"),)),
        lambda contract: replace(contract, inputs=(*contract.inputs, replace(contract.inputs[0], name="other"))),
        lambda contract: replace(contract, recurrent=(), states=()),
    ],
)
def test_a_trace_that_does_not_fit_the_contract_is_told(bundle_copy, change):
    Bundle(bundle_copy).update(contract=change(Bundle(bundle_copy).signature))
    with pytest.raises(InputError, match=r"golden\.npz does not fit the contract"):
        golden_cases(Bundle(bundle_copy))
