import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from lstm_deploy.contract.signature import (
    FixedDim,
    RecurrentSpec,
    Signature,
    StateSpec,
    TensorSpec,
    contract_version,
)
from lstm_deploy.contract.tasks import Forecast, LanguageModel
from lstm_deploy.errors import InputError

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True)
DIMS = st.lists(st.integers(1, 9999) | NAMES, max_size=4).map(tuple)


def recurrent(**changes: object) -> RecurrentSpec:
    defaults = {
        "module": "lstm",
        "prefix": "",
        "input_size": 3,
        "hidden_size": 5,
        "proj_size": 0,
        "num_layers": 2,
        "num_directions": 1,
    }
    return RecurrentSpec(**{**defaults, **changes})


def signature(*modules: RecurrentSpec, **changes: object) -> Signature:
    x = TensorSpec(name="x", dtype="float32", shape=("batch", "seq", 3))
    y = TensorSpec(name="y", dtype="float32", shape=("batch", "seq", 1))
    return Signature(inputs=(x,), outputs=(y,), recurrent=modules or (recurrent(),), **changes)


@given(NAMES, st.sampled_from(["float32", "int64"]), DIMS)
def test_a_spec_parses_its_own_text(name, dtype, shape):
    spec = TensorSpec(name=name, dtype=dtype, shape=shape)
    assert TensorSpec.parse(str(spec)) == spec


def test_a_spec_may_be_named_separately():
    assert TensorSpec.parse("float32[batch, 3]", "mels").shape == ("batch", 3)


@pytest.mark.parametrize(
    "text",
    ["", "x", "float32[batch]", "x:float32", "x:complex64[3]", "x:float32[0]", "x:float32[-1]", "x:float32[a b]]"],
)
def test_an_invalid_spec_is_refused(text):
    with pytest.raises(InputError):
        TensorSpec.parse(text)


def test_the_state_has_documented_names_and_shapes():
    contract = signature(recurrent(proj_size=4, num_directions=2))
    assert contract.input_names == ["x", "h_in", "c_in"]
    assert contract.output_names == ["y", "h_out", "c_out"]
    assert [spec.shape for spec in contract.state_inputs] == [(4, "batch", 4), (4, "batch", 5)]


def test_several_modules_are_distinguished_by_prefix():
    contract = signature(recurrent(prefix="encoder_"), recurrent(prefix="decoder_"))
    assert contract.input_names[1:] == ["encoder_h_in", "encoder_c_in", "decoder_h_in", "decoder_c_in"]


def test_batch_first_state_starts_with_the_batch():
    contract = signature(state_layout="batch-first")
    assert contract.state_inputs[0].shape == ("batch", 2, 5)
    assert contract.initial_state(7)["h_in"].shape == (7, 2, 5)


@pytest.mark.parametrize("layout", ["layers-first", "batch-first"])
def test_a_learned_initial_state_is_given_to_every_row(layout):
    start = tuple(tuple(float(10 * layer + unit) for unit in range(5)) for layer in range(2))
    state = signature(recurrent(initial_h=start), state_layout=layout).initial_state(3)
    h = state["h_in"] if layout == "layers-first" else state["h_in"].swapaxes(0, 1)
    assert (h == np.array(start, np.float32)[:, None]).all()
    assert (state["c_in"] == 0).all()


@given(
    st.lists(NAMES, min_size=1, max_size=3, unique=True),
    st.sampled_from(["exact", "state-only", "none"]),
    st.sampled_from(["reset", "carry"]),
    st.text(max_size=5),
)
def test_the_contract_survives_a_round_trip_through_json(names, streaming, policy, reason):
    task = Forecast(features=tuple(names), targets=tuple(names[:1]), window=3)
    contract = signature(streaming=streaming, state_policy=policy, streaming_reason=reason, task=task)
    assert Signature.from_json(contract.to_json()) == contract


def test_the_json_keeps_its_shape():
    """Other programs read this: a change here needs a new schema version."""
    contract = json.loads(signature(task=LanguageModel(vocabulary=("a", "é"))).to_json())
    assert contract == {
        "schema_version": 1,
        "inputs": [
            {
                "name": "x",
                "dtype": "float32",
                "shape": ["batch", "seq", 3],
                "low": None,
                "high": None,
                "is_lengths": False,
            }
        ],
        "outputs": [
            {
                "name": "y",
                "dtype": "float32",
                "shape": ["batch", "seq", 1],
                "low": None,
                "high": None,
                "is_lengths": False,
            }
        ],
        "recurrent": [
            {
                "module": "lstm",
                "prefix": "",
                "input_size": 3,
                "hidden_size": 5,
                "proj_size": 0,
                "num_layers": 2,
                "num_directions": 1,
                "initial_h": None,
                "initial_c": None,
            }
        ],
        "states": [],
        "state_layout": "layers-first",
        "state_dtype": "float32",
        "streaming": "none",
        "streaming_reason": "",
        "state_policy": "reset",
        "fixed": [],
        "least_seq": 1,
        "task": {"kind": "lm", "vocabulary": ["a", "é"], "unit": "character"},
        "rollout": False,
    }


def test_the_contract_of_another_cell_names_its_kind_in_a_version_that_older_releases_refuse():
    recurrent_spec = recurrent(kind="GRU")
    contract = signature(recurrent_spec, schema_version=contract_version([recurrent_spec]))
    assert (contract.input_names, contract.output_names) == (["x", "h_in"], ["y", "h_out"])
    document = json.loads(contract.to_json())
    assert (document["schema_version"], document["recurrent"][0]["kind"]) == (2, "GRU")
    assert Signature.from_json(contract.to_json()) == contract


def test_a_contract_of_a_newer_release_is_refused():
    newer = signature().to_json().replace('"schema_version":1', '"schema_version":3')
    with pytest.raises(InputError, match="upgrade"):
        Signature.from_json(newer)


@pytest.mark.parametrize(
    "text",
    [5, "", "{", "[]", "null", '{"schema_version": 1}', "\ud800".encode("utf-8", "surrogatepass"), "[" * 100_000],
    ids=range(8),
)
def test_a_malformed_contract_is_refused(text):
    with pytest.raises(InputError, match="malformed"):
        Signature.from_json(text)


@pytest.mark.parametrize(
    ("x", "y", "axes", "over_time"),
    [
        ("float32[batch,3]", "float32[batch,2]", (None, None), (("batch", "seq", 3), ("batch", "seq", 2))),
        ("float32[batch,1]", "float32[batch,1]", (None, None), (("batch", "seq", 1), ("batch", "seq", 1))),
        ("float32[3]", "float32[2]", (None, None), (("seq", 3), ("seq", 2))),
        ("float32[4,3]", "float32[4,2]", (None, None), (("seq", 4, 3), ("seq", 4, 2))),
        ("int64[batch]", "float32[batch,7]", (None, None), (("batch", "seq"), ("batch", "seq", 7))),
        ("float32[batch,1,3]", "float32[batch,1,2]", (1, 1), (("batch", "seq", 3), ("batch", "seq", 2))),
        ("float32[batch,1,3]", "float32[batch,1]", (1, None), (("batch", "seq", 3), ("batch", "seq", 1))),
        ("float32[1,batch,3]", "float32[1,batch,2]", (0, 0), (("seq", "batch", 3), ("seq", "batch", 2))),
        ("float32[batch,3]", "float32[1,batch,2]", (None, 0), (("batch", "seq", 3), ("seq", "batch", 2))),
        ("int64[batch,1]", "float32[batch,1,7]", (1, 1), (("batch", "seq"), ("batch", "seq", 7))),
        (
            "float32[batch,1,84,84]",
            "float32[batch,2]",
            (None, None),
            (("batch", "seq", 1, 84, 84), ("batch", "seq", 2)),
        ),
    ],
)
def test_the_axis_of_time_of_one_step(x, y, axes, over_time):
    inputs, outputs = (TensorSpec.parse(x, "x"),), (TensorSpec.parse(y, "y"),)
    contract = replace(signature(), inputs=inputs, outputs=outputs, streaming="exact")
    assert contract.one_step
    assert contract.clamp({"batch": 3, "seq": 50})["seq"] == 1
    assert tuple(map(contract.time_axis, (*inputs, *outputs))) == axes
    assert tuple(contract.over_time(spec).shape for spec in (*inputs, *outputs)) == over_time


@pytest.mark.parametrize(
    ("x", "streaming"),
    [("float32[batch,10,3]", "none"), ("float32[batch,1,3]", "none"), ("float32[batch,seq,3]", "exact")],
)
def test_a_call_of_several_steps_is_not_one_step(x, streaming):
    contract = replace(signature(), inputs=(TensorSpec.parse(x, "x"),), streaming=streaming)
    assert not contract.one_step
    assert contract.clamp({"batch": 3, "seq": 50})["seq"] == 50


def test_the_axis_of_time_of_a_loop_is_where_it_was():
    fixed = (FixedDim(name="seq", size=1, reason="a loop"),)
    inputs, outputs = (TensorSpec.parse("x:float32[batch,1]"),), (TensorSpec.parse("y:float32[batch,1]"),)
    contract = replace(signature(), inputs=inputs, outputs=outputs, streaming="exact", fixed=fixed)
    assert (contract.time_axis(inputs[0]), contract.time_axis(outputs[0])) == (1, 1)


STATES = tuple(StateSpec(name=name, layers=1, size=2, initial=((0.5, 1.0),)) for name in ("h", "c"))
CONSISTENT = signature(states=STATES)
DEEP = '{"a":' * 100_000


@pytest.mark.parametrize("text", [DEEP, "[" * 100_000, '{"schema_version":1,"inputs":' + DEEP])
def test_json_of_any_depth_is_malformed(text):
    with pytest.raises(InputError, match="malformed"):
        Signature.from_json(text)


def _set(document, path, value):
    *parents, last = path
    for key in parents:
        document = document[key]
    document[last] = value


@pytest.mark.parametrize("value", [0, -1, 2**31, 2**63, 2**70])
@pytest.mark.parametrize(
    "path",
    [
        ("inputs", 0, "shape", 2),
        ("outputs", 0, "shape", 2),
        ("states", 0, "size"),
        ("states", 0, "layers"),
        ("least_seq",),
        ("recurrent", 0, "hidden_size"),
        ("recurrent", 0, "num_layers"),
    ],
)
def test_sizes_that_no_network_has_are_refused(path, value):
    document = msgspec.json.decode(CONSISTENT.to_json())
    _set(document, path, value)
    with pytest.raises(InputError, match="malformed"):
        Signature.from_json(msgspec.json.encode(document))


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("inputs", 0, "name"), "h_in", "names 'h_in' twice"),
        (("outputs", 0, "name"), "c_out", "names 'c_out' twice"),
        (("states", 0, "initial"), [[1.0]], "initial h is not of its size"),
        (("states", 0, "initial"), [[1.0], [1.0, 2.0]], "initial h is not of its size"),
        (("states", 0, "initial"), [], "initial h is not of its size"),
    ],
)
def test_a_contract_that_contradicts_itself_is_refused(path, value, reason):
    assert Signature.from_json(CONSISTENT.to_json()) == CONSISTENT
    document = msgspec.json.decode(CONSISTENT.to_json())
    _set(document, path, value)
    with pytest.raises(InputError, match=reason):
        Signature.from_json(msgspec.json.encode(document))
