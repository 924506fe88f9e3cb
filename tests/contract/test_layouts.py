import numpy as np
import pytest
from msgspec.structs import replace

from lstm_deploy.contract.layouts import layout_of
from lstm_deploy.contract.signature import RecurrentSpec, Signature, TensorSpec
from lstm_deploy.contract.tasks import Classify, Forecast, LanguageModel
from lstm_deploy.errors import InputError

LETTERS = LanguageModel(vocabulary=tuple("abc"))
PAIR = Forecast(features=("a", "b"), targets=("b",), window=4)
ONE = Forecast(features=("a",), targets=("a",), window=4)
LINES = Classify(labels=("no", "yes"), vocabulary=("x", "y", "z"))


def signature(x, y, task, *more):
    recurrent = RecurrentSpec(
        module="lstm", prefix="", input_size=1, hidden_size=2, proj_size=0, num_layers=1, num_directions=1
    )
    inputs = tuple(TensorSpec.parse(text) for text in (f"x:{x}", *more))
    return Signature(inputs=inputs, outputs=(TensorSpec.parse(f"y:{y}"),), recurrent=(recurrent,), task=task)


@pytest.mark.parametrize(
    ("x", "y", "task", "rows", "expected"),
    [
        ("float32[batch,seq,2]", "float32[batch,seq,1]", PAIR, (5, 4, 2), (5, 4, 2)),
        ("float32[seq,batch,2]", "float32[seq,batch,1]", PAIR, (5, 4, 2), (4, 5, 2)),
        ("float32[batch,seq]", "float32[batch]", ONE, (5, 4, 1), (5, 4)),
        ("float32[batch,4]", "float32[batch,1]", ONE, (5, 4, 1), (5, 4)),
        ("float32[seq,batch]", "float32[batch,1]", ONE, (5, 4, 1), (4, 5)),
        ("float32[batch,4,2]", "float32[batch,4,1]", PAIR, (5, 4, 2), (5, 4, 2)),
        ("int64[batch,seq]", "float32[batch,seq,3]", LETTERS, (5, 4), (5, 4)),
        ("int64[seq,batch]", "float32[seq,batch,3]", LETTERS, (5, 4), (4, 5)),
        ("int32[batch,seq]", "float32[batch,2]", LINES, (5, 4), (5, 4)),
    ],
)
def test_rows_are_laid_out_as_the_model_takes_them(x, y, task, rows, expected):
    layout = layout_of(signature(x, y, task))
    values = np.arange(np.prod(rows)).reshape(rows) % 3
    inputs = layout.inputs(values if isinstance(task, LanguageModel | Classify) else values.astype(np.float32))
    assert inputs.shape == expected
    shape = [{"batch": 5, "seq": 4}.get(dim, dim) for dim in TensorSpec.parse(f"y:{y}").shape]
    assert layout.last(np.zeros(shape)).shape == (5, 2 if task is LINES else 3 if task is LETTERS else 1)


def test_tokens_become_one_hot_rows():
    layout = layout_of(signature("float32[batch,seq,3]", "float32[batch,3]", LETTERS))
    np.testing.assert_array_equal(layout.inputs(np.array([[2, 0]])), [[[0, 0, 1], [1, 0, 0]]])


def test_the_last_step_is_taken_along_the_time_axis():
    layout = layout_of(signature("float32[seq,batch,2]", "float32[seq,batch,1]", PAIR))
    y = np.arange(6.0).reshape(3, 2, 1)
    np.testing.assert_array_equal(layout.last(y), y[-1])


@pytest.mark.parametrize(
    ("x", "y", "task", "reason"),
    [
        ("float32[batch,seq,2]", "float32[batch,1]", None, "has no task"),
        ("float32[batch,seq,3]", "float32[batch,1]", PAIR, "does not take the 2 features"),
        ("float32[batch,seq,2]", "float32[batch,2]", PAIR, "is not the 1 outputs"),
        ("float32[batch,seq,2]", "float32[batch,seq,1,1]", PAIR, "is not the"),
        ("int64[batch,seq]", "float32[batch,1]", ONE, "does not take"),
        ("int64[batch,seq]", "float32[batch,4]", LETTERS, "is not the 3 outputs"),
        ("float32[batch,seq,4]", "float32[batch,3]", LETTERS, "does not take the 3 tokens"),
        ("float32[seq,2]", "float32[seq,1]", PAIR, "not a batch of sequences"),
        ("float32[batch,seq,2,2]", "float32[batch,1]", PAIR, "not a batch of sequences"),
        ("float32[batch,9]", "float32[batch,1]", ONE, "takes 9 steps, and its task says 4"),
        ("float32[batch,other,2]", "float32[batch,1]", PAIR, "not a batch of sequences"),
    ],
)
def test_a_task_that_does_not_fit_is_refused_with_the_reason(x, y, task, reason):
    with pytest.raises(InputError, match=reason):
        layout_of(signature(x, y, task))


def test_lengths_are_the_only_other_input():
    both = signature("int64[batch,seq]", "float32[batch,2]", LINES, "lengths:int64[batch]")
    assert layout_of(both).width == 3
    with pytest.raises(InputError, match="takes one input, not 2"):
        layout_of(signature("int64[batch,seq]", "float32[batch,2]", LINES, "other:float32[batch,3]"))


@pytest.mark.parametrize(
    ("x", "y", "task", "step", "said"),
    [
        ("float32[batch,2]", "float32[batch,1]", PAIR, (5, 2), (5, 1)),
        ("float32[batch,1,2]", "float32[batch,1,1]", PAIR, (5, 1, 2), (5, 1, 1)),
        ("float32[1,batch,2]", "float32[1,batch,1]", PAIR, (1, 5, 2), (1, 5, 1)),
        ("float32[batch]", "float32[batch]", ONE, (5,), (5,)),
        ("float32[batch,1]", "float32[batch,1]", ONE, (5, 1), (5, 1)),
        ("int64[batch]", "float32[batch,3]", LETTERS, (5,), (5, 3)),
        ("int64[batch,1]", "float32[batch,1,3]", LETTERS, (5, 1), (5, 1, 3)),
        ("float32[batch,3]", "float32[batch,3]", LETTERS, (5, 3), (5, 3)),
    ],
)
def test_rows_of_one_step_are_laid_out_as_a_call_takes_them(x, y, task, step, said):
    layout = layout_of(replace(signature(x, y, task), streaming="exact"))
    assert layout.one_step
    assert layout.window is None
    rows = np.zeros((5, 1), np.int64) if task is LETTERS else np.zeros((5, 1, len(task.features)), np.float32)
    assert layout.inputs(rows).shape == step
    assert layout.last(np.zeros(said)).shape == (5, 3 if task is LETTERS else 1)


def test_a_step_of_another_width_is_not_a_window_of_one_feature():
    with pytest.raises(InputError, match="does not take the 1 features"):
        layout_of(replace(signature("float32[batch,4]", "float32[batch,1]", ONE), streaming="exact"))
