"""One call of a rollout gives what one call of the model for each step gives."""

import numpy as np
import onnx
import pytest
from feeding import LETTERS, feeders
from hypothesis import given, settings, strategies as st
from properties import examples

import lstm_deploy
from lstm_deploy.artifacts import onnx_graph
from lstm_deploy.contract.rollouts import rollout_contract
from lstm_deploy.contract.sampling import sample_state
from lstm_deploy.exporters.onnx_rollout import export_rollout
from lstm_deploy.runtimes.opening import open_runtime
from lstm_deploy.runtimes.stepping import unroll

STEPS = 500


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Each feeder, exported once it is asked for."""
    exported, folder = {}, tmp_path_factory.mktemp("feeders")

    def bundle(name):
        if name not in exported:
            feeder = feeders()[name]
            exported[name] = lstm_deploy.export(
                feeder.module.eval(),
                folder / name,
                inputs=feeder.inputs,
                task=feeder.task,
                state_policy=feeder.state_policy,
                state_layout=feeder.state_layout,
            )
        return exported[name]

    return bundle


def opened(bundle):
    """The model of a bundle and its rollout."""
    return open_runtime(bundle.path / "model.onnx"), open_runtime(bundle.path / "rollout.onnx")


def text_feeds(model, batch, seq, steps, rng, temperature=0.0, top_k=0, stop=-1):
    signature = model.signature
    return {
        "x": rng.integers(0, len(signature.task.vocabulary), (batch, seq)),
        "lengths": np.resize([seq, max(1, seq - 3), 1], batch).astype(np.int64),
        "noise": rng.random((batch, steps), np.float32),
        "temperature": np.array(temperature, np.float32),
        "top_k": np.array(top_k),
        "stop": np.array(stop),
        **sample_state(signature, batch, rng),
    }


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9, "top_k": 3}, {"temperature": 1.3}], ids=str)
@pytest.mark.parametrize(
    "name",
    ["one-hot", "time-major", "two LSTMs", "batch-first state", "last state", "classes first", "one step, text"],
)
def test_texts_are_the_same_token_by_token(bundles, name, sampling):
    model, rollout = opened(bundles(name))
    feeds = text_feeds(model, 3, 6, 60, np.random.default_rng(0), **sampling)
    got = rollout.run(feeds)
    assert_same(got, unroll(model, feeds))
    assert len(np.unique(got["y"])) > 1 or not sampling, "a text of one token proves little"


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "top_k": 10}], ids=["greedy", "sampled"])
def test_500_tokens_of_a_trained_model_are_those_of_single_steps(lm_bundle, sampling):
    model, rollout = open_runtime(lm_bundle / "model.onnx"), open_runtime(lm_bundle / "rollout.onnx")
    feeds = text_feeds(model, 2, 9, STEPS, np.random.default_rng(1), **sampling)
    got = rollout.run(feeds)
    assert got["y"].shape == (2, STEPS)
    assert_same(got, unroll(model, feeds))


@pytest.mark.parametrize(
    "name",
    [
        "carried",
        "carried, last step",
        "window",
        "window, batch-first state",
        "window, bidirectional",
        "learned start",
        "fixed window",
        "one step, carried",
        "one step, window",
    ],
)
def test_forecasts_are_the_same_value_by_value(bundles, name):
    model, rollout = opened(bundles(name))
    contract, rng = rollout_contract(model.signature), np.random.default_rng(2)
    width = contract.inputs[0].shape[2]
    for steps in (1, 2, 40):
        x = rng.standard_normal((3, contract.least_seq + 4, width)).astype(np.float32)
        feeds = {"x": x, "steps": np.array(steps), **sample_state(contract, 3, rng)}
        got = rollout.run(feeds)
        assert got["y"].shape == (3, steps, width)
        assert_same(got, unroll(model, feeds))


def test_500_forecasts_of_a_trained_model_are_those_of_single_windows(forecast_bundle):
    model, rollout = open_runtime(forecast_bundle / "model.onnx"), open_runtime(forecast_bundle / "rollout.onnx")
    x = np.random.default_rng(3).uniform(100, 300, (2, 25, 4)).astype(np.float32)
    feeds = {"x": x, "steps": np.array(STEPS)}
    assert_same(rollout.run(feeds), unroll(model, feeds))


def test_a_window_slides_over_what_was_predicted(bundles):
    """By hand, as the author of such a network writes it: each prediction is appended to the window."""
    model, rollout = opened(bundles("fixed window"))
    window = np.random.default_rng(4).standard_normal((1, 10)).astype(np.float32)
    got = rollout.run({"x": window[..., None], "steps": np.array(12)})["y"]
    initial = model.signature.initial_state(1)
    for step in range(12):
        y = model.run({"x": window, **initial})["y"]
        np.testing.assert_allclose(got[0, step], y[0], rtol=1e-5, atol=1e-6)
        window = np.concatenate([window[:, 1:], y], axis=1)


def test_rows_that_end_repeat_the_end_and_the_call_returns_early(bundles):
    model, rollout = opened(bundles("two LSTMs"))
    feeds = text_feeds(model, 3, 5, 200, np.random.default_rng(5), temperature=20.0, stop=2)
    got = rollout.run(feeds)
    assert_same(got, unroll(model, feeds))
    assert got["y"].shape[1] < 200
    for row in got["y"]:
        end = int(np.flatnonzero(row == 2)[0])
        assert (row[end:] == 2).all()
    free = rollout.run({**feeds, "stop": np.array(-1)})["y"]
    assert free.shape[1] == 200


def test_a_text_goes_on_where_the_last_call_ended(bundles):
    model, rollout = opened(bundles("time-major"))
    feeds = text_feeds(model, 2, 4, 30, np.random.default_rng(6))
    feeds["lengths"] = np.array([4, 4])
    whole = rollout.run(feeds)
    first = rollout.run({**feeds, "noise": feeds["noise"][:, :12]})
    state = {f"{letter}_in": first[f"{letter}_out"] for letter in "hc"}
    ones = {"x": first["y"][:, -1:], "lengths": np.array([1, 1]), "noise": feeds["noise"][:, 12:]}
    rest = rollout.run({**feeds, **state, **ones})
    np.testing.assert_array_equal(np.concatenate([first["y"], rest["y"]], axis=1), whole["y"])


@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 9), st.integers(0, 9), st.floats(0, 3), st.integers(-2, 7))
@settings(max_examples=examples(25), deadline=None)
def test_any_prompts_and_settings_give_the_same(bundles, batch, seq, steps, top_k, temperature, stop):
    model, rollout = opened(bundles("two LSTMs"))
    rng = np.random.default_rng(batch + 10 * seq)
    feeds = text_feeds(model, batch, seq, steps, rng, temperature, top_k, stop)
    feeds["lengths"] = rng.integers(1, seq + 1, batch)
    assert_same(rollout.run(feeds), unroll(model, feeds))


@pytest.mark.parametrize("name", ["two LSTMs", "time-major", "carried", "window", "batch-first state"])
def test_the_graph_is_valid_declares_its_contract_and_shares_the_models_weights(bundles, name):
    bundle = bundles(name)
    path = bundle.path / "rollout.onnx"
    onnx.checker.check_model(path, full_check=True)
    model, rolled = onnx.load(bundle.path / "model.onnx"), onnx.load(path)
    weights = {tensor.name: tensor for tensor in rolled.graph.initializer}
    assert all(weights[tensor.name] == tensor for tensor in model.graph.initializer if tensor.name in weights)
    assert sum(len(tensor.raw_data) for tensor in model.graph.initializer if tensor.name not in weights) < 100
    assert path.stat().st_size < (bundle.path / "model.onnx").stat().st_size + 20_000
    contract = rollout_contract(bundle.signature)
    runtime = open_runtime(path)
    assert runtime.signature == contract
    declared = [str(spec) for spec in runtime.declared()]
    assert declared == [
        str(spec) for spec in (*contract.inputs, *contract.state_inputs, *contract.outputs, *contract.state_outputs)
    ]


def test_each_layers_state_is_carried_apart_so_that_the_loop_does_not_cut_it_out_again(bundles):
    rolled = onnx.load(bundles("time-major").path / "rollout.onnx")
    body = [node for node in rolled.graph.node if node.op_type == "Loop"][-1].attribute[0].g
    kinds = [node.op_type for node in body.node]
    assert kinds.count("LSTM") == 3
    assert not {"Slice", "Split"} & set(kinds)


def test_int8_is_inside(tmp_path, language_model):
    bundle = lstm_deploy.export(language_model, tmp_path / "b", quantize="int8", formats=["onnx"], max_metric_loss=1.0)
    path = tmp_path / "b/rollout.int8.onnx"
    lowered = onnx_graph.operator_counts(onnx.load(tmp_path / "b/model.int8.onnx"))["DynamicQuantizeLSTM"]
    assert onnx_graph.operator_counts(onnx.load(path))["DynamicQuantizeLSTM"] == 3 * lowered > 0
    assert [(a.path, a.precision) for a in bundle.manifest.rollouts] == [
        ("rollout.onnx", "float32"),
        ("rollout.int8.onnx", "int8"),
    ]
    model, rollout = open_runtime(tmp_path / "b/model.int8.onnx"), open_runtime(path)
    feeds = text_feeds(model, 2, 5, 100, np.random.default_rng(7))
    assert_same(rollout.run(feeds), unroll(model, feeds))


def test_weights_beside_a_model_serve_its_rollout_too(tmp_path, bundles):
    folder = bundles("two LSTMs").path
    model = onnx.load(folder / "model.onnx")
    onnx.save_model(
        model, tmp_path / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=100
    )
    export_rollout(tmp_path / "model.onnx", tmp_path / "rollout.onnx")
    assert (tmp_path / "rollout.onnx").stat().st_size < 20_000 + (tmp_path / "model.onnx").stat().st_size
    single, rollout = open_runtime(tmp_path / "model.onnx"), open_runtime(tmp_path / "rollout.onnx")
    feeds = text_feeds(single, 2, 5, 20, np.random.default_rng(8))
    assert_same(rollout.run(feeds), unroll(single, feeds))


def test_the_vocabulary_travels_with_the_rollout(bundles):
    assert opened(bundles("one-hot"))[1].signature.task == LETTERS
