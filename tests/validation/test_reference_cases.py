import copy

import modules
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from properties import examples
from torch import nn
from validation_cases import SMALL, reference_of

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.contract.tasks import Forecast
from lstm_deploy.errors import InputError
from lstm_deploy.lifting import sources
from lstm_deploy.runtimes.torchrt import EagerRuntime
from lstm_deploy.validation.case_inputs import Effort, thresholds
from lstm_deploy.validation.parity_case import run_case
from lstm_deploy.validation.pytorch_reference import PyTorchReference
from lstm_deploy.validation.reference_cases import make_cases


def by_check(cases):
    return {name: [case for case in cases if case.check == name] for name in dict.fromkeys(c.check for c in cases)}


def test_every_kind_of_case_is_made(reference):
    cases = by_check(make_cases(reference, SMALL))
    assert list(cases) == ["shapes", "values", "nonfinite", "liveness", "rows", "chunked", "drift"]
    assert len(cases["liveness"]) == 4, "h and c of two layers"
    assert len(cases["drift"][0].calls) == 30


@settings(deadline=None, max_examples=examples(8))
@given(
    hidden=st.integers(1, 9),
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_model_itself_passes_its_own_cases(hidden, layers, bidirectional, batch_first, seed):
    torch.manual_seed(seed)
    module = torch.nn.LSTM(2, hidden, layers, bidirectional=bidirectional, batch_first=batch_first)
    reference = reference_of(module, "x:float32[batch,seq,2]" if batch_first else "x:float32[seq,batch,2]")
    single = EagerRuntime(copy.deepcopy(reference.lifted))
    for case in make_cases(reference, SMALL):
        for got, expected in zip(run_case(single, case), case.expected, strict=True):
            for name, value in expected.items():
                np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5)


def test_the_sizes_that_a_model_is_used_at_are_tried_from_the_initial_state_too():
    task = Forecast(features=("a", "b"), targets=("a",), window=33, horizon=4)
    module = nn.Sequential(nn.LSTM(2, 4, batch_first=True), First(), nn.Linear(4, 4))
    lifted = sources.load_module(module, [TensorSpec.parse("x:float32[batch,seq,2]")], task=task).lifted
    places = {case.where for case in by_check(make_cases(PyTorchReference(lifted), SMALL))["shapes"]}
    for size in (*(f"batch {batch}, seq 33" for batch in range(1, 9)), "batch 1, seq 4", "batch 1, seq 1"):
        assert {size, f"{size}, from the initial state"} <= places


def test_numbers_that_a_graph_names_are_tried_as_sizes_inputs_and_states(reference):
    more = [("thresholds", case) for case in thresholds(reference.signature, [7.0, 0.5], SMALL)]
    places = [case.where for case in by_check(make_cases(reference, SMALL, more))["thresholds"]]
    for batch, seq in ((6, 3), (7, 3), (8, 3), (1, 6), (1, 7), (1, 8)):
        assert f"batch {batch}, seq {seq}, from the initial state" in places
    for value in ("6", "7", "8", "-0.5", "0.5", "1.5"):
        assert {f"x with {value}", f"h_in with {value}", f"c_in with {value}", f"states of {value}"} <= set(places)


class First(nn.Module):
    def forward(self, outputs):
        return outputs[0]


def test_chunks_and_steps_are_those_of_the_whole(reference):
    case = by_check(make_cases(reference, SMALL))["chunked"][0]
    whole = np.concatenate([call["x"] for call in case.calls], 1)
    outputs = reference.run({"x": whole, **case.state})
    np.testing.assert_allclose(np.concatenate([known["y"] for known in case.expected], 1), outputs["y"])
    np.testing.assert_allclose(case.expected[-1]["h_out"], outputs["h_out"])
    assert "h_out" not in case.expected[0], "between the chunks only y is known"


def test_states_are_known_at_round_numbers_of_steps(reference):
    case = by_check(make_cases(reference, SMALL))["drift"][0]
    assert [n for n, known in enumerate(case.expected, 1) if "c_out" in known] == [1, 2, 5, 10, 20, 30]
    assert all("y" in known for known in case.expected)


class Picky:
    """A reference that does not run on few rows."""

    def __init__(self, reference, most=1):
        self.reference, self.signature, self.most = reference, reference.signature, most

    def run(self, feeds):
        if feeds["x"].shape[0] <= self.most:
            raise InputError("one row")
        return self.reference.run(feeds)

    def run_float32(self, feeds):
        return self.reference.run_float32(feeds)


def test_shapes_that_the_model_refuses_are_left_out(reference):
    cases = by_check(make_cases(Picky(reference), SMALL))
    places = [case.where for case in cases["shapes"]]
    assert places[:3] == ["batch 3, seq 5", "batch 3, seq 5, from the initial state", "batch 2, seq 5"]
    assert not any(place.startswith("batch 1,") for place in places)
    assert "drift" not in cases


def test_a_model_that_refuses_all_shapes_is_an_error(reference):
    with pytest.raises(InputError, match="one row"):
        make_cases(Picky(reference, 9), SMALL)


@pytest.mark.parametrize("seed", range(4))
def test_drift_ends_where_float32_has_lost_what_would_be_judged(seed):
    torch.manual_seed(seed)
    module = torch.nn.LSTM(4, 64)
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(30)  # chaotic
    reference = reference_of(module, "x:float32[seq,batch,4]")
    assert reference.signature.streaming == "exact"  # however differently a CPU rounds chunks and the whole
    case = by_check(make_cases(reference, Effort(1000, ((1, 1),), 1, 1e9)))["drift"][0]
    assert 1 <= len(case.calls) < 1000
    assert case.where == f"{len(case.calls)} carried steps"


def growing():
    """A network whose state is three times as large after every step."""
    torch.manual_seed(0)
    module = torch.nn.RNN(4, 8, nonlinearity="relu")
    with torch.no_grad():
        module.weight_hh_l0[:] = 3 * torch.eye(8)
    return reference_of(module, "x:float32[seq,batch,4]")


def test_no_step_is_judged_that_float32_cannot_hold():
    cases = make_cases(growing(), Effort(1000, ((1, 1), (2, 10), (1, 400)), 1, 1e9))
    places = {case.where for case in cases if case.check == "shapes"}
    assert "batch 2, seq 10" in places
    assert "batch 1, seq 400" not in places
    drift = by_check(cases)["drift"][0]
    assert drift.where == "50 carried steps"
    assert all(np.isfinite([*case.rounding.values()]).all() for case in cases)


def test_calls_of_few_steps_are_judged_by_their_own_size_however_large_others_are():
    cases = by_check(make_cases(growing(), Effort(30, ((1, 1), (2, 10), (1, 60)), 1, 1e9)))
    assert max(case.sizes["h_out"].max() for case in cases["shapes"]) > 1e24
    assert all(case.sizes["h_out"].max() < 1e9 for case in cases["liveness"])


class Masked(nn.Module):
    """Gives the smallest number of float32 where an input is negative."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0].masked_fill(x < 0, torch.finfo(torch.float32).min)


def test_the_smallest_number_of_a_mask_can_be_judged():
    reference = reference_of(Masked(), "x:float32[batch,seq,4]")
    assert list(by_check(make_cases(reference, SMALL)))[:3] == ["shapes", "values", "nonfinite"]


def test_every_token_is_tried():
    class Tokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(123, 4)
            self.lstm = torch.nn.LSTM(4, 3, batch_first=True)

        def forward(self, x):
            return self.lstm(self.embedding(x))[0]

    cases = by_check(make_cases(reference_of(Tokens(), "x:int64[batch,seq]"), SMALL))
    tokens = next(case for case in cases["values"] if case.where == "every token")
    assert set(tokens.calls[0]["x"].ravel()) == set(range(123))


def test_steps_of_a_network_of_one_step_a_call_are_those_of_its_author():
    torch.manual_seed(0)
    module = modules.StepCell().eval()
    cases = by_check(make_cases(reference_of(module, "x:float32[batch,3]"), SMALL))
    assert {len(case.calls) for case in cases["drift"]} == {30}
    assert all("h_out" in known for check in ("drift", "chunked") for known in cases[check][0].expected)
    for case in (*cases["chunked"], *cases["drift"]):
        assert len(case.calls) > 20
        state = [torch.from_numpy(case.state[name][0]) for name in ("h_in", "c_in")]
        for call, expected in zip(case.calls, case.expected, strict=True):
            with torch.no_grad():
                y, state = module(torch.from_numpy(call["x"]), state)
            np.testing.assert_allclose(expected["y"], y, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(expected["c_out"][0], state[1], rtol=1e-4, atol=1e-5)


def test_every_token_is_tried_also_one_step_a_call():
    case = next(
        case
        for case in by_check(make_cases(reference_of(modules.StepTokens(97), "x:int64[batch]"), SMALL))["values"]
        if case.where == "every token"
    )
    assert set(case.calls[0]["x"]) == set(range(97))
