import numpy as np
import pytest

from lstm_deploy.contract.rollouts import rollout_contract
from lstm_deploy.contract.signature import RecurrentSpec, Signature, TensorSpec
from lstm_deploy.contract.tasks import Classify, Forecast, LanguageModel
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes.stepping import Stepper, choose

LOGITS = np.array([[1.0, 3.0, 2.0, 3.0, -1.0]], np.float32)
RECURRENT = RecurrentSpec(
    module="lstm", prefix="", input_size=1, hidden_size=2, proj_size=0, num_layers=1, num_directions=1
)


def chosen(noise, temperature=1.0, top_k=0):
    return int(choose(LOGITS, np.array([noise], np.float32), temperature, top_k)[0])


def test_without_temperature_the_first_of_the_likeliest_is_taken():
    assert chosen(0.99, 0.0) == 1
    assert chosen(0.99, 1e-9) == 1


@pytest.mark.parametrize(
    ("noise", "token"), [(0.0, 0), (0.04, 0), (0.06, 1), (0.5, 2), (0.62, 3), (0.99, 3), (0.999, 4)]
)
def test_the_noise_is_looked_up_in_the_cumulative_probabilities(noise, token):
    """softmax of 1, 3, 2, 3, -1 is 0.053, 0.391, 0.144, 0.391, 0.007, less what is left of 1."""
    weights = np.exp(LOGITS[0].astype(np.float64))
    cumulative = np.cumsum(weights / weights.sum())
    assert chosen(noise) == int((cumulative <= noise).sum()) == token or abs(cumulative - noise).min() < 1e-6


def test_candidates_are_those_no_less_than_the_kth_largest():
    assert {chosen(noise, 5.0, 2) for noise in np.linspace(0, 0.999, 50)} == {1, 3}
    assert {chosen(noise, 5.0, 1) for noise in np.linspace(0, 0.999, 50)} == {1, 3}, "equal logits stay together"
    assert {chosen(noise, 5.0, 3) for noise in np.linspace(0, 0.999, 50)} == {1, 2, 3}
    assert {chosen(noise, 50.0, 99) for noise in np.linspace(0, 0.999, 50)} == set(range(5))


def test_noise_at_its_very_end_gives_a_candidate():
    assert chosen(np.nextafter(np.float32(1), np.float32(0)), 1.0, 2) == 3
    assert chosen(1.0, 1.0, 2) == 3


def test_draws_follow_the_softmax():
    """50,000 draws: each frequency within 5 standard errors of its probability."""
    noise = np.random.default_rng(0).random(50_000, np.float32)
    counts = np.bincount(choose(np.repeat(LOGITS, len(noise), 0), noise, 0.7, 0), minlength=5) / len(noise)
    weights = np.exp(LOGITS[0].astype(np.float64) / 0.7)
    expected = weights / weights.sum()
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected * (1 - expected) / len(noise))).all()


def signature(task, x="float32[batch,seq,1]", y="float32[batch,1]", **more):
    spec = TensorSpec.parse(f"x:{x}")
    given = {"streaming": "exact", **more}
    return Signature(inputs=(spec,), outputs=(TensorSpec.parse(f"y:{y}"),), recurrent=(RECURRENT,), task=task, **given)


def test_a_text_is_rolled_out_with_its_state():
    found = rollout_contract(
        signature(LanguageModel(vocabulary=tuple("abc")), "int64[batch,seq]", "float32[batch,seq,3]")
    )
    assert [str(spec) for spec in (*found.inputs, *found.state_inputs)] == [
        "x: int64[batch, seq]",
        "lengths: int64[batch]",
        "noise: float32[batch, steps]",
        "temperature: float32[]",
        "top_k: int64[]",
        "stop: int64[]",
        "h_in: float32[1, batch, 2]",
        "c_in: float32[1, batch, 2]",
    ]
    assert [str(spec) for spec in found.outputs] == ["y: int64[batch, made]"]
    assert found.rollout
    assert found.inputs[0].high == (2,)


ONE = Forecast(features=("a",), targets=("a",), window=4)


@pytest.mark.parametrize("policy", ["reset", "carry"])
def test_a_forecast_carries_its_state_where_the_training_did(policy):
    found = rollout_contract(signature(ONE, state_policy=policy))
    assert [str(spec) for spec in found.inputs] == ["x: float32[batch, seq, 1]", "steps: int64[]"]
    assert bool(found.state_inputs) == (policy == "carry")
    assert found.least_seq == (1 if policy == "carry" else 4)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (signature(None), "has no task"),
        (
            signature(
                Forecast(features=("a", "b"), targets=("b", "a"), window=2), "float32[batch,seq,2]", "float32[batch,2]"
            ),
            "in another order",
        ),
        (
            signature(Forecast(features=("a", "b"), targets=("b",), window=2), "float32[batch,seq,2]"),
            "predicts b but needs a, b",
        ),
        (
            signature(ONE, state_policy="carry", streaming="state-only", streaming_reason="why"),
            "from step to step .why",
        ),
        (signature(ONE, "float32[batch,4]", state_policy="carry", streaming="none"), "a fixed number of steps"),
        (signature(Classify(labels=("a",), vocabulary=("b",)), "int64[batch,seq]"), "classifier"),
    ],
)
def test_models_without_a_rollout_say_why(found, reason):
    with pytest.raises(InputError, match=reason):
        rollout_contract(found)


def test_a_stepper_takes_rows_in_one_layout(fixed):
    rows = np.random.default_rng(2).standard_normal((3, 10, 1)).astype(np.float32)
    y, _ = Stepper(fixed.runtime())(rows, fixed.signature.initial_state(3))
    np.testing.assert_array_equal(y, fixed.run({"x": rows[..., 0]})["y"])
