import os
import signal

import pytest
from small_models import ignore, same_weights, sine, small

from lstm_deploy.errors import LstmDeployError
from lstm_deploy.training import pipeline


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_keeps_the_best_so_far_and_the_run_can_be_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr("lstm_deploy.training.run_state.SAVE_S", 0.0)
    monkeypatch.setattr("lstm_deploy.training.loop.PROGRESS_S", 0.0)
    before = signal.getsignal(signal.SIGINT)
    given = small("forecast", epochs=5, schedule="cosine", dropout=0.2)

    def interrupt(done, total, _):
        if done == round(0.5 * total):
            signal.raise_signal(signal.SIGINT)

    stopped = pipeline.train(sine(), given, interrupt, folder=tmp_path)
    assert stopped.interrupted
    assert len(stopped.history) == 2
    assert stopped.evaluation.metrics["rmse"] > 0
    assert signal.getsignal(signal.SIGINT) is before
    resumed = pipeline.train(sine(), given, ignore, folder=tmp_path, resume=True)
    assert same_weights(resumed, pipeline.train(sine(), given, ignore))


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_before_the_first_epoch_ends_leaves_nothing(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        pipeline.train(sine(), small("forecast"), lambda *_: signal.raise_signal(signal.SIGINT), folder=tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert not list(tmp_path.iterdir())


def test_progress_ends_at_the_last_step():
    seen = []
    pipeline.train(sine(), small("forecast", epochs=2), lambda *event: seen.append(event))
    assert seen[-1][0] == seen[-1][1]
    assert "epoch 2/2" in seen[-1][2]


def test_the_weights_of_the_best_epoch_are_kept():
    trained = pipeline.train(sine(), small("forecast", epochs=6, learning_rate=0.05), ignore)
    losses = [epoch.validation_loss for epoch in trained.history]
    best = trained.spec.training["best_epoch"]
    assert losses[best - 1] == min(losses)
    stopped = pipeline.train(sine(), small("forecast", epochs=best, learning_rate=0.05), ignore)
    assert same_weights(trained, stopped)


def test_without_validation_the_last_epoch_is_kept():
    trained = pipeline.train(sine(), small("forecast", epochs=2, validation=0.0), ignore)
    assert trained.spec.training["best_epoch"] == 2
    assert [epoch.validation_loss for epoch in trained.history] == [None, None]


def test_training_ends_when_validation_no_longer_improves():
    trained = pipeline.train(
        sine(), small("forecast", epochs=50, patience=2, learning_rate=0.5, optimizer="sgd"), ignore
    )
    losses = [epoch.validation_loss for epoch in trained.history]
    assert len(losses) < 50
    assert min(losses) == losses[-3]


def test_a_loss_that_is_not_finite_stops_the_training_and_names_the_step(tmp_path):
    with pytest.raises(LstmDeployError, match=r"at step \d+ \(epoch \d\); try a smaller --learning-rate"):
        pipeline.train(sine(), small("forecast", learning_rate=1e30, epochs=5), ignore, folder=tmp_path)


def test_normalised_windows_train_whatever_is_left_for_the_last_batch():
    for rows in range(120, 132):
        given = small("forecast", window=10, window_norm=True, batch_size=16, hidden_size=2)
        assert pipeline.train(sine(rows), given, ignore).history[0].train_loss > 0


def test_progress_reports_the_losses_of_an_epoch_at_its_end():
    seen = []
    trained = pipeline.train(sine(), small("forecast", epochs=2), lambda *event: seen.append(event))
    last = trained.history[-1]
    assert seen[-1][2] == f"epoch 2/2, loss {last.train_loss:.4f}, validation {last.validation_loss:.4f}"
