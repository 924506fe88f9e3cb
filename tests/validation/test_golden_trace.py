import numpy as np

from lstm_deploy.validation.golden_trace import record_trace, trace_cases
from lstm_deploy.validation.parity_case import run_case


def test_a_golden_trace_is_a_chain_and_calls_from_states_of_their_own(reference):
    trace = record_trace(reference)
    chains = trace_cases(reference.signature, trace)
    assert [len(case.calls) for case in chains] == [4, 1, 1]
    assert (chains[0].state["h_in"] == 0).all()
    assert (chains[1].state["h_in"] != 0).all()
    assert trace["2.c_out"].dtype == np.float64
    for case in chains:
        for got, expected in zip(run_case(reference, case), case.expected, strict=True):
            for name in expected:
                np.testing.assert_allclose(got[name], expected[name], rtol=1e-9, atol=1e-12)
