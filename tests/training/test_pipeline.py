from typing import get_args

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from small_models import ignore, reviews, same_weights, sine, small, text

from lstm_deploy.training import checkpoint, pipeline
from lstm_deploy.training.network import load_network
from lstm_deploy.training.recipe import CellName


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


DATA = {"forecast": sine, "lm": text, "classify": reviews}


@pytest.mark.parametrize("task", DATA)
@pytest.mark.parametrize("cell", get_args(CellName))
def test_every_cell_learns_every_task_and_is_resumed_and_read_again(task, cell, tmp_path):
    given = small(task, cell=cell, schedule="constant", batch_size=8)

    def trained(epochs, name, **options):
        return pipeline.train(DATA[task](), replace(given, epochs=epochs), ignore, folder=tmp_path / name, **options)

    whole = trained(2, "whole")
    trained(1, "parts")
    assert same_weights(whole, trained(2, "parts", resume=True))
    torch.manual_seed(given.seed)
    before = pipeline.make_learning_task(DATA[task](), given).network.state_dict()
    assert not np.allclose(whole.tensors[f"{cell}.weight_hh_l0"], before[f"{cell}.weight_hh_l0"], atol=1e-3)
    path = tmp_path / "m.safetensors"
    checkpoint.save(path, whole.tensors, whole.spec)
    network = load_network(checkpoint.read_spec(path).network, checkpoint.read_tensors(path))
    assert network.config.cell == whole.spec.training["options"]["cell"] == cell
    tensors = {name: value.numpy() for name, value in network.state_dict().items()}
    assert tensors.keys() == whole.tensors.keys()
    assert all(np.array_equal(tensors[name], value) for name, value in whole.tensors.items())
