import numpy as np
from small_models import ignore, same_weights, sine, small

from lstm_deploy.training import checkpoint, pipeline


def test_the_folder_holds_a_log_and_the_best_checkpoint(tmp_path):
    trained = pipeline.train(sine(), small("forecast", epochs=3), ignore, folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "last.ckpt", "log.csv"]
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[0] == "epoch,step,train_loss,validation_loss,learning_rate,seconds"
    assert len(lines) == 4
    best = checkpoint.read_tensors(tmp_path / "best.safetensors")
    assert all(np.array_equal(best[name], value) for name, value in trained.tensors.items())


def test_the_seed_determines_the_result():
    first, repeated, other = (pipeline.train(sine(), small("forecast", seed=seed), ignore) for seed in (1, 1, 2))
    assert same_weights(first, repeated)
    assert not same_weights(first, other)
