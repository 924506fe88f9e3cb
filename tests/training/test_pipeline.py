import math
import os
import signal

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from small_models import ignore, small

from lstm_deploy.errors import InputError, LstmDeployError
from lstm_deploy.training import checkpoint, fit_log, loop, pipeline, training_data
from lstm_deploy.training.data.labelled_texts import Labelled, Vectors
from lstm_deploy.training.data.series import Series
from lstm_deploy.training.training_data import Material


def sine(rows: int = 300) -> Material:
    return training_data.generated("sine", rows, seed=0)


def text(content: str = "abcdefgh" * 100) -> Material:
    return Material(content=content)


def reviews(rows: int = 60) -> Material:
    words = {"good": ("fine", "great"), "bad": ("poor", "awful")}
    labels = tuple("good" if row % 3 else "bad" for row in range(rows))
    texts = tuple(f"{'it was ' * (row % 4)}{words[label][row % 2]}" for row, label in enumerate(labels))
    return Material(content=Labelled(texts=texts, labels=labels))


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


def recipe(task="forecast", **changes):
    return small(task, **changes)


def equal(first, second):
    return all(np.array_equal(first.tensors[name], second.tensors[name]) for name in first.tensors)


@pytest.mark.parametrize("name", TASKS)
def test_a_resumed_training_gives_what_an_uninterrupted_one_gives_bit_for_bit(name, tmp_path):
    make, options = TASKS[name]
    whole = pipeline.train(make(), recipe(epochs=5, **options), ignore, folder=tmp_path / "whole")
    pipeline.train(make(), recipe(epochs=2, **options), ignore, folder=tmp_path / "parts")
    resumed = pipeline.train(make(), recipe(epochs=5, **options), ignore, folder=tmp_path / "parts", resume=True)
    assert equal(whole, resumed)
    assert whole.evaluation.metrics == resumed.evaluation.metrics
    losses = [[(epoch.train_loss, epoch.validation_loss) for epoch in each.history] for each in (whole, resumed)]
    assert losses[0] == losses[1]
    assert [epoch.epoch for epoch in resumed.history] == [1, 2, 3, 4, 5]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_keeps_the_best_so_far_and_the_same_command_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("lstm_deploy.training.loop.SAVE_S", 0.0)
    monkeypatch.setattr("lstm_deploy.training.loop.SHOW_S", 0.0)
    before = signal.getsignal(signal.SIGINT)
    given = recipe(epochs=5, schedule="cosine", dropout=0.2)

    def interrupt(done, total, _):
        if done == round(0.5 * total):
            signal.raise_signal(signal.SIGINT)

    stopped = pipeline.train(sine(), given, interrupt, folder=tmp_path)
    assert stopped.interrupted
    assert len(stopped.history) == 2
    assert stopped.evaluation.metrics["rmse"] > 0
    assert signal.getsignal(signal.SIGINT) is before
    resumed = pipeline.train(sine(), given, ignore, folder=tmp_path, resume=True)
    assert equal(resumed, pipeline.train(sine(), given, ignore))


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_before_the_first_epoch_ends_leaves_nothing(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        pipeline.train(sine(), recipe(), lambda *_: signal.raise_signal(signal.SIGINT), folder=tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        ({"hidden_size": 9}, 300, "had --hidden-size 8, not 9"),
        ({"epochs": 9}, 300, "had --epochs 2, not 9"),
        ({}, 310, "other data"),
    ],
)
def test_another_training_is_not_resumed(tmp_path, changes, data, message):
    given = recipe(epochs=2, schedule="cosine")
    pipeline.train(sine(), given, ignore, folder=tmp_path)
    with pytest.raises(InputError, match=message):
        pipeline.train(sine(data), replace(given, **changes), ignore, folder=tmp_path, resume=True)


def test_the_same_rows_with_another_target_or_other_vectors_are_another_training(tmp_path):
    rows = np.random.default_rng(0).standard_normal((200, 2))
    columns = Series(columns=("a", "b"), values=rows, labels=("",) * 200, filled=0, dropped=0, left_out=())
    vectors = [Vectors(index={"fine": 0, "poor": 1}, values=np.full((2, 3), n, np.float32)) for n in (1, 2)]
    for task, given, other in (
        ("forecast", Material(content=columns, targets=("a",)), Material(content=columns, targets=("b",))),
        ("classify", *(replace(reviews(), vectors=each) for each in vectors)),
    ):
        pipeline.train(given, recipe(task), ignore, folder=tmp_path / task)
        with pytest.raises(InputError, match="other data"):
            pipeline.train(other, recipe(task), ignore, folder=tmp_path / task, resume=True)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 nonsense", b"\x80\x04cos\nsystem\n(S'touch hacked'\ntR."])
def test_what_is_no_state_of_a_training_is_not_resumed_and_never_unpickled(tmp_path, content):
    if content is not None:
        (tmp_path / fit_log.LAST).write_bytes(content)
    with pytest.raises(InputError, match="leave out --resume"):
        pipeline.train(sine(), recipe(), ignore, folder=tmp_path, resume=True)
    assert not (tmp_path / "hacked").exists()


def test_the_folder_holds_a_log_and_the_best_checkpoint(tmp_path):
    trained = pipeline.train(sine(), recipe(epochs=3), ignore, folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "last.ckpt", "log.csv"]
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[0] == "epoch,step,train_loss,validation_loss,learning_rate,seconds"
    assert len(lines) == 4
    best = checkpoint.read_tensors(tmp_path / "best.safetensors")
    assert all(np.array_equal(best[name], value) for name, value in trained.tensors.items())


def test_the_seed_decides_the_result():
    first, again, other = (pipeline.train(sine(), recipe(seed=seed), ignore) for seed in (1, 1, 2))
    assert equal(first, again)
    assert not equal(first, other)


def test_progress_ends_at_the_last_step():
    seen = []
    pipeline.train(sine(), recipe(epochs=2), lambda *event: seen.append(event))
    assert seen[-1][0] == seen[-1][1]
    assert "epoch 2/2" in seen[-1][2]


def test_the_weights_of_the_best_epoch_are_kept():
    trained = pipeline.train(sine(), recipe(epochs=6, learning_rate=0.05), ignore)
    losses = [epoch.validation_loss for epoch in trained.history]
    best = trained.spec.training["best_epoch"]
    assert losses[best - 1] == min(losses)
    stopped = pipeline.train(sine(), recipe(epochs=best, learning_rate=0.05), ignore)
    assert equal(trained, stopped)


def test_without_validation_the_last_epoch_is_kept():
    trained = pipeline.train(sine(), recipe(epochs=2, validation=0.0), ignore)
    assert trained.spec.training["best_epoch"] == 2
    assert [epoch.validation_loss for epoch in trained.history] == [None, None]


def test_training_ends_when_validation_no_longer_improves():
    trained = pipeline.train(sine(), recipe(epochs=50, patience=2, learning_rate=0.5, optimizer="sgd"), ignore)
    losses = [epoch.validation_loss for epoch in trained.history]
    assert len(losses) < 50
    assert min(losses) == losses[-3]


def test_a_training_that_has_ended_is_not_gone_on_with(tmp_path):
    given = recipe(epochs=50, patience=2, learning_rate=0.5, optimizer="sgd")
    first = pipeline.train(sine(), given, ignore, folder=tmp_path)
    again = pipeline.train(sine(), given, ignore, folder=tmp_path, resume=True)
    assert equal(first, again)
    assert first.history == again.history


def test_the_learning_rate_follows_its_schedule():
    def rates(**changes):
        trained = pipeline.train(sine(), recipe(epochs=4, learning_rate=0.01, **changes), ignore)
        return [epoch.learning_rate for epoch in trained.history], trained.history[0].step

    constant, steps = rates()
    assert constant == [0.01] * 4
    cosine, _ = rates(schedule="cosine")
    assert cosine == pytest.approx([0.005 * (1 + math.cos(math.pi * epoch / 4)) for epoch in (1, 2, 3, 4)])
    rising, _ = rates(warmup=2 * steps)
    assert rising[0] == pytest.approx(0.01 * (steps + 1) / (2 * steps + 1))
    assert rising[2] == pytest.approx(0.01)
    halved = pipeline.train(
        sine(), recipe(epochs=12, learning_rate=2.0, optimizer="sgd", clip=1.0, schedule="plateau"), ignore
    )
    assert halved.history[-1].learning_rate < 2.0


def test_accumulated_batches_make_one_step():
    one = pipeline.train(sine(), recipe(epochs=1), ignore).history[-1].step
    assert pipeline.train(sine(), recipe(epochs=1, accumulate=2), ignore).history[-1].step == math.ceil(one / 2)


def test_gradients_are_clipped_to_their_norm():
    """With plain descent a step is never longer than learning rate times norm."""
    given = recipe(seed=3, optimizer="sgd", clip=1e-3, learning_rate=1.0, batch_size=10_000)
    torch.manual_seed(3)
    before = pipeline.make_problem(sine(), given).lesson.network.state_dict()
    after = pipeline.train(sine(), given, ignore).tensors
    moved = math.sqrt(sum(float(np.square(after[name] - value.numpy()).sum()) for name, value in before.items()))
    assert moved == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_the_folder_is_written_waits_until_it_is_whole(tmp_path, monkeypatch, how):
    def write_log(path, history):
        signal.raise_signal(how)
        fit_log.write_log(path, history)

    monkeypatch.setattr(loop, "write_log", write_log)
    told = []
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line has it
    try:
        trained = pipeline.train(sine(), recipe(epochs=9), ignore, folder=tmp_path)
        told = [signal.getsignal(number) for number in loop.INTERRUPTS]
    finally:
        signal.signal(signal.SIGTERM, before)
    assert trained.interrupted
    assert told == [signal.default_int_handler] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", fit_log.LAST, fit_log.LOG]
    state = torch.load(tmp_path / fit_log.LAST, weights_only=True)
    assert len(state[loop.OURS]["history"]) == len((tmp_path / fit_log.LOG).read_text().splitlines()) - 1


def test_brain_floats_train_where_the_cpu_has_them_and_are_refused_elsewhere():
    given = recipe(epochs=2, precision="bf16-mixed")
    if not (torch.cuda.is_available() or loop._computes_bfloat16()):
        with pytest.raises(InputError, match="needs a CPU with bfloat16 .*; give --precision 32"):
            pipeline.train(sine(), given, ignore)
        return
    trained = pipeline.train(sine(), given, ignore)
    assert trained.history[-1].train_loss < trained.history[0].train_loss


def test_brain_floats_are_refused_on_a_cpu_without_them(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(loop, "_computes_bfloat16", lambda: False)
    with pytest.raises(InputError, match="needs a CPU with bfloat16 .*; give --precision 32"):
        pipeline.train(sine(), recipe(precision="bf16-mixed"), ignore)


def test_half_floats_are_refused_without_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="needs a GPU"):
        pipeline.train(sine(), recipe(precision="16-mixed"), ignore)


def test_a_loss_that_is_not_finite_stops_the_training_with_the_step(tmp_path):
    with pytest.raises(LstmDeployError, match=r"at step \d+ \(epoch \d\); try a smaller --learning-rate"):
        pipeline.train(sine(), recipe(learning_rate=1e30, epochs=5), ignore, folder=tmp_path)


def test_more_devices_than_there_are_are_refused():
    with pytest.raises(InputError, match="not 100000; give --devices"):
        pipeline.train(sine(), recipe(devices=100_000), ignore)


@pytest.mark.parametrize("part", ["state_dict", "optimizer_states", "loops", "callbacks", "lr_schedulers"])
def test_a_state_of_which_a_part_is_gone_is_not_resumed(tmp_path, part):
    pipeline.train(sine(), recipe(epochs=1), ignore, folder=tmp_path)
    state = torch.load(tmp_path / fit_log.LAST, weights_only=True)
    for damaged in ({**state, part: {"no": "such thing"}}, {name: state[name] for name in state if name != part}):
        if part in ("callbacks", "lr_schedulers") and part in damaged:
            continue  # Lightning looks for what it knows there, and takes no offence at more
        torch.save(damaged, tmp_path / fit_log.LAST)
        with pytest.raises(InputError, match="not the whole state of a training"):
            pipeline.train(sine(), recipe(epochs=2), ignore, folder=tmp_path, resume=True)


def test_a_state_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    """As when a disk is full, or the process is killed in the middle."""
    pipeline.train(sine(), recipe(epochs=1), ignore, folder=tmp_path)
    before = (tmp_path / fit_log.LAST).read_bytes()

    def half(_, path, *__):
        path.write_bytes(before[: len(before) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr("lightning.pytorch.Trainer.save_checkpoint", half)
    with pytest.raises(OSError, match="No space"):
        pipeline.train(sine(), recipe(epochs=2), ignore, folder=tmp_path, resume=True)
    assert (tmp_path / fit_log.LAST).read_bytes() == before


def test_normalised_windows_are_learned_whatever_is_left_for_the_last_batch():
    for rows in range(120, 132):
        given = recipe(window=10, window_norm=True, batch_size=16, hidden_size=2)
        assert pipeline.train(sine(rows), given, ignore).history[0].train_loss > 0


def test_progress_tells_the_losses_of_the_epoch_that_ends():
    seen = []
    trained = pipeline.train(sine(), recipe(epochs=2), lambda *event: seen.append(event))
    last = trained.history[-1]
    assert seen[-1][2] == f"epoch 2/2, loss {last.train_loss:.4f}, validation {last.validation_loss:.4f}"
