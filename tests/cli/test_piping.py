import io
import json

import modules
import numpy as np
import pytest
import torch
from command_line import fails
from feeding import feeders
from torch import nn

import lstm_deploy
from lstm_deploy.cli import piping
from lstm_deploy.errors import InputError


@pytest.fixture(scope="module")
def model(forecast_bundle):
    return lstm_deploy.open(forecast_bundle)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A model that does not say what it is for, of two features."""
    path = tmp_path_factory.mktemp("plain") / "b"
    feeder = feeders()["carried"]
    lstm_deploy.export(feeder.module.eval(), path, inputs=feeder.inputs, formats=["onnx"])
    return lstm_deploy.open(path)


def values(model, text, **more):
    sink = io.BytesIO()
    piping.pipe_values(model, io.BytesIO(text.encode()), sink, {}, **more)
    return sink.getvalue().decode().splitlines()


def rows(count=25):
    return np.random.default_rng(0).uniform(100, 300, (count, 4)).round(3)


def text_of(table, header="", separator=","):
    lines = [separator.join(str(cell) for cell in row) for row in table]
    return "\n".join([header, *lines] if header else lines) + "\n"


def test_each_line_gets_what_the_latest_window_gives(model):
    found = values(model, text_of(rows()))
    assert found[:19] == ["nan,nan,nan,nan"] * 19
    for line in range(19, 25):
        wanted = model.run({"x": rows()[None, line - 19 : line + 1].astype(np.float32)})["y"][0, -1]
        np.testing.assert_allclose([float(cell) for cell in found[line].split(",")], wanted, rtol=1e-5)


def test_columns_are_matched_by_name(model):
    straight = values(model, text_of(rows(), "open,high,low,close"))
    assert straight[0] == "open,high,low,close"
    table = np.column_stack([rows()[:, [3, 2]], np.arange(25), rows()[:, [1, 0]]])
    assert values(model, text_of(table, "close,low,volume,high,open")) == straight
    assert values(model, text_of(rows())) == straight[1:]


@pytest.mark.parametrize("separator", [",", ";", "\t", " ", ", "])
def test_separators_are_found(model, separator):
    assert values(model, text_of(rows(), separator=separator)) == values(model, text_of(rows()))


def test_a_model_without_a_task_carries_its_state(plain):
    found = values(plain, "1,2\n3,4\n-1 , 0.5\n")
    stream = plain.stream()
    for line, row in zip(found, ([1, 2], [3, 4], [-1, 0.5]), strict=True):
        np.testing.assert_allclose([float(cell) for cell in line.split(",")], stream.step([row])[0], rtol=1e-5)


def test_a_model_of_one_step_a_call_takes_a_line_a_call(tmp_path):
    lstm_deploy.export(modules.StepCell().eval(), tmp_path / "b", inputs={"x": "float32[batch,3]"}, formats=["onnx"])
    model = lstm_deploy.open(tmp_path / "b")
    found = [[float(cell) for cell in line.split(",")] for line in values(model, "1,2,3\n4,5,6\n1,2,3\n")]
    wanted = model.stream().feed(np.array([[[1, 2, 3], [4, 5, 6], [1, 2, 3]]], np.float32))
    np.testing.assert_allclose(found, wanted[0], rtol=1e-5)
    assert found[0] != found[2]


def test_json_has_null_for_what_is_not_there_yet(model):
    found = [json.loads(line) for line in values(model, text_of(rows(20)), as_json=True)]
    assert found[0] == [None] * 4
    assert all(isinstance(number, float) for number in found[-1])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1,2,3,4\n1,2,3\n", "Line 2 has 3 cells, not 4; give one step a line, open,high,low,close"),
        ("1,2,3,4\n1,2,3,x\n", "Line 2 has the cell .x., which is not a number"),
        ("1,2,3,1_000\n", "Line 1 has the cell .1_000."),
        ("open,high,low,close,close\n1,2,3,4,5\n", "names the column 'close' twice"),
        ("1,2,3,nan\n", "Line 1: x holds nan"),
        ("1,2,3,1e99\n", "Line 1: x holds inf"),
        ("open,high,low\n1,2,3\n", "names no column 'close'"),
    ],
)
def test_a_line_it_cannot_take_is_told_with_its_number(model, text, reason):
    with pytest.raises(InputError, match=reason):
        values(model, text)


def test_a_header_is_of_no_use_without_names(plain):
    with pytest.raises(InputError, match="has no names for its columns"):
        values(plain, "a,b\n1,2\n")


def test_what_was_answered_before_a_wrong_line_stays(plain):
    sink = io.BytesIO()
    with pytest.raises(InputError, match="Line 3"):
        piping.pipe_values(plain, io.BytesIO(b"1,2\n3,4\n5\n6,7\n"), sink, {})
    assert len(sink.getvalue().splitlines()) == 2


def frames(model, data):
    sink = io.BytesIO()
    piping.pipe_frames(model, io.BytesIO(data), sink, {})
    return np.frombuffer(sink.getvalue(), "<f4")


def test_raw_frames_are_numbers_in_and_out(plain):
    x = np.random.default_rng(1).standard_normal((30, 2)).astype("<f4")
    np.testing.assert_allclose(frames(plain, x.tobytes()).reshape(30, 2), plain.stream().feed(x[None])[0], rtol=1e-4)
    assert frames(plain, b"").size == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (np.zeros(3, "<f4").tobytes(), "Frame 2 has 4 bytes, not 8"),
        (np.array([0, 0, np.nan, 0], "<f4").tobytes(), "Frame 2: x holds nan"),
    ],
)
def test_a_frame_it_cannot_take_is_told_with_its_number(plain, data, reason):
    with pytest.raises(InputError, match=reason):
        frames(plain, data)


def test_raw_frames_are_not_for_tokens(lm_bundle):
    with pytest.raises(InputError, match="takes tokens"):
        frames(lstm_deploy.open(lm_bundle), b"")


def test_texts_are_answered_line_by_line(lm_bundle):
    model = lstm_deploy.open(lm_bundle)
    task, sink = model.signature.task, io.BytesIO()
    answer = piping.continuation(model, task, {}, as_json=False, steps=8, stop="\n", seed=0)
    piping.pipe_texts(answer, io.BytesIO(b"The \r\nIf\n"), sink)
    assert len(sink.getvalue().decode().split("\n")) == 3
    for text, reason in (("☃".encode(), "Line 1: The model has never seen"), (b"a\n\xff\n", "Line 2: It is not UTF-8")):
        with pytest.raises(InputError, match=reason):
            piping.pipe_texts(answer, io.BytesIO(text), io.BytesIO())


def test_tokens_without_a_task_are_whole_numbers(tmp_path):
    feeder = feeders()["two LSTMs"]
    lstm_deploy.export(feeder.module.eval(), tmp_path / "b", inputs=feeder.inputs, formats=["onnx"])
    model = lstm_deploy.open(tmp_path / "b")
    assert len(values(model, "1\n5\n")[0].split(",")) == 7
    with pytest.raises(InputError, match="Line 1 holds .1.5.*whole numbers"):
        values(model, "1.5\n")
    with pytest.raises(InputError, match="Line 1: The token 7 is not in the vocabulary"):
        values(model, "7\n")


def test_blank_lines_and_the_mark_of_some_editors_are_passed_over(model):
    straight = values(model, text_of(rows(), "open,high,low,close"))
    assert values(model, "\ufeff" + text_of(rows(), "open,high,low,close") + "\n  \n") == straight


def test_each_line_is_drawn_from_noise_of_its_own(lm_bundle):
    model = lstm_deploy.open(lm_bundle)

    def answers():
        sink = io.BytesIO()
        answer = piping.continuation(
            model, model.signature.task, {}, as_json=True, steps=30, stop="", temperature=1.0, seed=1
        )
        piping.pipe_texts(answer, io.BytesIO(b"The \nThe \n\n"), sink)
        return sink.getvalue().decode().splitlines()

    first, second, blank = answers()
    assert first != second
    assert blank == ""
    assert answers() == [first, second, ""], "the same seed gives the same"


class Voice(nn.Module):
    """Two inputs beside the lengths of rows, and two outputs, one of them a number for each step."""

    def __init__(self):
        super().__init__()
        self.lstm, self.pitch, self.voiced = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2), nn.Linear(4, 1)

    def forward(self, x, speaker, state=None):
        y, state = self.lstm(torch.cat([x, speaker], -1), state)
        return {"pitch": self.pitch(y), "state": state, "voiced": self.voiced(y)[..., 0].sigmoid()}


VOICE = {"x": "float32[batch,seq,2]", "speaker": "float32[batch,seq,1]"}


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    """A network of several inputs and outputs, and its bundle."""
    module, path = Voice().eval(), tmp_path_factory.mktemp("voice") / "b"
    lstm_deploy.export(module, path, inputs=VOICE, formats=["onnx"])
    return module, lstm_deploy.open(path)


def test_several_inputs_and_outputs_are_in_a_line_one_after_the_other(voice):
    module, model = voice
    table = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = module(*torch.from_numpy(table)[None].split([2, 1], -1))
    expected = np.column_stack([wanted["pitch"][0].numpy(), wanted["voiced"][0].numpy()])
    lines = [[float(cell) for cell in line.split(",")] for line in values(model, text_of(table))]
    np.testing.assert_allclose(lines, expected, rtol=1e-4, atol=1e-6)
    documents = [json.loads(line) for line in values(model, text_of(table), as_json=True)]
    assert all(list(document) == ["pitch", "voiced"] for document in documents)
    np.testing.assert_allclose([each["pitch"] + each["voiced"] for each in documents], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(frames(model, table.tobytes()).reshape(5, 3), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="Line 1 has 2 cells, not 3; give one step a line, 2 of x, then 1 of speaker"):
        values(model, "1,2\n")
    error = fails("run", model.path)
    assert "answer a pipe with --stream, or call it from Python" in error
    assert "--task" not in error, "a task has one input"


def test_several_inputs_of_a_step_are_given_to_run_as_a_stream_says(voice):
    module, model = voice
    with pytest.raises(
        InputError, match=r"this model takes x and speaker; .*open\(…\)\.run, with signature\.next_state"
    ):
        model.stream()
    table = np.random.default_rng(1).standard_normal((4, 1, 1, 3)).astype(np.float32)
    state, found = model.signature.initial_state(1), []
    for row in table:
        outputs = model.run({"x": row[..., :2], "speaker": row[..., 2:], **state})
        state = model.signature.next_state(outputs)
        found.append(outputs["voiced"][0, 0])
    with torch.no_grad():
        wanted = module(*torch.from_numpy(table.reshape(1, 4, 3)).split([2, 1], -1))["voiced"][0]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_several_outputs_and_lengths_take_numbers_of_the_data_alone(tmp_path):
    lstm_deploy.export(
        modules.Packs().eval(),
        tmp_path / "b",
        inputs={"x": "float32[batch,seq,3]", "lengths": "int64[batch]"},
        formats=["onnx"],
    )
    model = lstm_deploy.open(tmp_path / "b")
    assert model.signature.streaming != "none"
    (line,) = values(model, "1,2,3\n")
    y = model.run({"x": np.array([[[1, 2, 3]]], np.float32), "lengths": np.array([1])})
    expected = np.concatenate([y[spec.name].reshape(-1) for spec in model.signature.outputs])
    np.testing.assert_allclose([float(cell) for cell in line.split(",")], expected, rtol=1e-5)


def test_a_model_that_cannot_carry_its_state_is_not_piped(tmp_path):
    class BothWays(Voice):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 2, batch_first=True, bidirectional=True)

    lstm_deploy.export(BothWays().eval(), tmp_path / "b", inputs=VOICE, formats=["onnx"])
    with pytest.raises(InputError, match=r"cannot be streamed \(.*bidirectional.*\); give whole sequences to .*run"):
        values(lstm_deploy.open(tmp_path / "b"), "1,2,3\n")
