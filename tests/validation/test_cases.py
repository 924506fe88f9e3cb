import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from properties import examples

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import InputError
from lstm_deploy.lifting import sources
from lstm_deploy.runtimes.torchrt import EagerRuntime
from lstm_deploy.validation.cases import QUICK, Effort, make_cases, record, replayed, shortened
from lstm_deploy.validation.comparing import run_case
from lstm_deploy.validation.reference import ReferenceRuntime

SMALL = Effort(30, ((1, 1), (3, 5)), 2, 1e9)


def reference_of(module, *inputs):
    return ReferenceRuntime(sources.load_module(module, [TensorSpec.parse(text) for text in inputs]).lifted)


@pytest.fixture
def reference():
    torch.manual_seed(0)
    return reference_of(torch.nn.LSTM(3, 5, 2, batch_first=True), "x:float32[batch,seq,3]")


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
        for got, wanted in zip(run_case(single, case), case.wanted, strict=True):
            for name, value in wanted.items():
                np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5)


def test_chunks_and_steps_are_those_of_the_whole(reference):
    case = by_check(make_cases(reference, SMALL))["chunked"][0]
    whole = np.concatenate([call["x"] for call in case.calls], 1)
    outputs = reference.run({"x": whole, **case.state})
    np.testing.assert_allclose(np.concatenate([known["y"] for known in case.wanted], 1), outputs["y"])
    np.testing.assert_allclose(case.wanted[-1]["h_out"], outputs["h_out"])
    assert "h_out" not in case.wanted[0], "between the chunks only y is known"


def test_states_are_known_at_round_numbers_of_steps(reference):
    case = by_check(make_cases(reference, SMALL))["drift"][0]
    assert [n for n, known in enumerate(case.wanted, 1) if "c_out" in known] == [1, 2, 5, 10, 20, 30]
    assert all("y" in known for known in case.wanted)


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
    assert [case.where for case in cases["shapes"]] == ["batch 3, seq 5", "from the initial state"]
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


def test_sizes_are_taken_for_each_column_and_each_unit(reference):
    case = make_cases(reference, SMALL)[1]
    assert case.sizes["y"].shape == (1, 1, 5)
    assert case.sizes["h_out"].shape == (2, 1, 5)
    assert (case.sizes["h_out"] >= 1).all()
    assert (case.sizes["y"] >= 0.05).all()


def test_a_golden_trace_is_a_chain_and_calls_from_states_of_their_own(reference):
    trace = record(reference)
    chains = replayed(reference.signature, trace)
    assert [len(case.calls) for case in chains] == [4, 1, 1]
    assert (chains[0].state["h_in"] == 0).all()
    assert (chains[1].state["h_in"] != 0).all()
    assert trace["2.c_out"].dtype == np.float64
    for case in chains:
        for got, wanted in zip(run_case(reference, case), case.wanted, strict=True):
            for name in wanted:
                np.testing.assert_allclose(got[name], wanted[name], rtol=1e-9, atol=1e-12)


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


def test_shortened_cases_carry_the_state_over_fewer_steps_and_stay_the_same_otherwise(forecaster):
    lifted = sources.load(sources.Origin(path=forecaster)).lifted
    made = make_cases(ReferenceRuntime(lifted), QUICK._replace(steps=100))
    short = shortened(made, 20)
    for before, after in zip(made, short, strict=True):
        if before.check != "drift":
            assert after is before
            continue
        assert (len(before.calls), len(after.calls), len(after.wanted)) == (100, 20, 20)
        assert lifted.signature.state_outputs[0].name in after.wanted[-1]
