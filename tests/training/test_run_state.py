import signal

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from small_models import ignore, reviews, same_weights, sine, small, text

from lstm_deploy.errors import InputError
from lstm_deploy.training import pipeline, run_folder, run_state
from lstm_deploy.training.data.series import Series
from lstm_deploy.training.data.word_vectors import WordVectors
from lstm_deploy.training.training_data import TrainingData

TASKS = {
    "forecast": (sine, {}),
    "forecast, dropout, plateau, warm-up": (
        sine,
        {"dropout": 0.3, "schedule": "plateau", "warmup": 5, "patience": 50, "optimizer": "sgd"},
    ),
    "forecast, normalised windows": (sine, {"window_norm": True, "optimizer": "adamw", "weight_decay": 0.1}),
    "lm, carried": (text, {"task": "lm", "batch_size": 4, "schedule": "constant", "window": 20}),
    "lm, windows": (text, {"task": "lm", "state": "reset", "schedule": "constant", "window": 20, "accumulate": 2}),
    "classify": (reviews, {"task": "classify", "batch_size": 8, "least_count": 1}),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_resumed_training_gives_what_an_uninterrupted_one_gives_bit_for_bit(name, tmp_path):
    make, options = TASKS[name]
    options = {"task": "forecast", **options}
    whole = pipeline.train(make(), small(**options, epochs=5), ignore, folder=tmp_path / "whole")
    pipeline.train(make(), small(**options, epochs=2), ignore, folder=tmp_path / "parts")
    resumed = pipeline.train(make(), small(**options, epochs=5), ignore, folder=tmp_path / "parts", resume=True)
    assert same_weights(whole, resumed)
    assert whole.evaluation.metrics == resumed.evaluation.metrics
    losses = [[(epoch.train_loss, epoch.validation_loss) for epoch in trained.history] for trained in (whole, resumed)]
    assert losses[0] == losses[1]
    assert [epoch.epoch for epoch in resumed.history] == [1, 2, 3, 4, 5]


def test_a_run_from_before_an_option_existed_is_resumed_with_its_default(tmp_path):
    given = small("forecast", epochs=2)
    pipeline.train(sine(), given, ignore, folder=tmp_path)
    path = tmp_path / run_folder.LAST_STATE
    state = torch.load(path, weights_only=True)
    del state[run_state.RUN_ENTRY]["recipe"]["cell"]
    torch.save(state, path)
    assert run_state.belongs_to(tmp_path, given)
    assert not run_state.belongs_to(tmp_path, replace(given, cell="gru"))


@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        ({"cell": "gru"}, 300, "had --cell lstm, not gru"),
        ({"hidden_size": 9}, 300, "had --hidden-size 8, not 9"),
        ({"epochs": 9}, 300, "had --epochs 2, not 9"),
        ({}, 310, "other data"),
    ],
)
def test_another_training_is_not_resumed(tmp_path, changes, data, message):
    given = small("forecast", epochs=2, schedule="cosine")
    pipeline.train(sine(), given, ignore, folder=tmp_path)
    with pytest.raises(InputError, match=message):
        pipeline.train(sine(data), replace(given, **changes), ignore, folder=tmp_path, resume=True)


def test_the_same_rows_with_another_target_or_other_vectors_are_another_training(tmp_path):
    rows = np.random.default_rng(0).standard_normal((200, 2))
    columns = Series(columns=("a", "b"), values=rows, labels=("",) * 200)
    vectors = [WordVectors(index={"fine": 0, "poor": 1}, values=np.full((2, 3), n, np.float32)) for n in (1, 2)]
    for task, given, other in (
        ("forecast", TrainingData(content=columns, targets=("a",)), TrainingData(content=columns, targets=("b",))),
        ("classify", *(replace(reviews(), vectors=one) for one in vectors)),
    ):
        pipeline.train(given, small(task), ignore, folder=tmp_path / task)
        with pytest.raises(InputError, match="other data"):
            pipeline.train(other, small(task), ignore, folder=tmp_path / task, resume=True)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 nonsense", b"\x80\x04cos\nsystem\n(S'touch hacked'\ntR."])
def test_other_files_are_not_resumed_and_never_unpickled(tmp_path, content):
    if content is not None:
        (tmp_path / run_folder.LAST_STATE).write_bytes(content)
    with pytest.raises(InputError, match="leave out --resume"):
        pipeline.train(sine(), small("forecast"), ignore, folder=tmp_path, resume=True)
    assert not (tmp_path / "hacked").exists()


def test_a_training_that_has_ended_is_not_continued(tmp_path):
    given = small("forecast", epochs=50, patience=2, learning_rate=0.5, optimizer="sgd")
    first = pipeline.train(sine(), given, ignore, folder=tmp_path)
    repeated = pipeline.train(sine(), given, ignore, folder=tmp_path, resume=True)
    assert same_weights(first, repeated)
    assert first.history == repeated.history


@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_until_the_folder_is_written(tmp_path, monkeypatch, interrupt):
    def write_log(path, history):
        signal.raise_signal(interrupt)
        run_folder.write_log(path, history)

    monkeypatch.setattr(run_state, "write_log", write_log)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line has it
    try:
        trained = pipeline.train(sine(), small("forecast", epochs=9), ignore, folder=tmp_path)
        handlers = [signal.getsignal(number) for number in run_state.DEFERRED]
    finally:
        signal.signal(signal.SIGTERM, before)
    assert trained.interrupted
    assert handlers == [signal.default_int_handler] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.safetensors",
        run_folder.LAST_STATE,
        run_folder.LOG,
    ]
    state = torch.load(tmp_path / run_folder.LAST_STATE, weights_only=True)
    assert len(state[run_state.RUN_ENTRY]["history"]) == len((tmp_path / run_folder.LOG).read_text().splitlines()) - 1


@pytest.mark.parametrize("part", ["state_dict", "optimizer_states", "loops", "callbacks", "lr_schedulers"])
def test_an_incomplete_state_is_not_resumed(tmp_path, part):
    pipeline.train(sine(), small("forecast", epochs=1), ignore, folder=tmp_path)
    state = torch.load(tmp_path / run_folder.LAST_STATE, weights_only=True)
    for damaged in ({**state, part: {"no": "such thing"}}, {name: state[name] for name in state if name != part}):
        if part in ("callbacks", "lr_schedulers") and part in damaged:
            continue  # Lightning looks for what it knows there, and takes no offence at more
        torch.save(damaged, tmp_path / run_folder.LAST_STATE)
        with pytest.raises(InputError, match="not the complete state of a training run"):
            pipeline.train(sine(), small("forecast", epochs=2), ignore, folder=tmp_path, resume=True)


def test_a_failed_save_leaves_the_state_before_it(tmp_path, monkeypatch):
    """As when a disk is full, or the process is killed in the middle."""
    pipeline.train(sine(), small("forecast", epochs=1), ignore, folder=tmp_path)
    before = (tmp_path / run_folder.LAST_STATE).read_bytes()

    def half(_, path, *__):
        path.write_bytes(before[: len(before) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr("lightning.pytorch.Trainer.save_checkpoint", half)
    with pytest.raises(OSError, match="No space"):
        pipeline.train(sine(), small("forecast", epochs=2), ignore, folder=tmp_path, resume=True)
    assert (tmp_path / run_folder.LAST_STATE).read_bytes() == before
