import math
from typing import get_args

import numpy as np
import pytest
import torch
from small_models import ignore, sine, small

from lstm_deploy.errors import InputError
from lstm_deploy.training import pipeline, trainer
from lstm_deploy.training.recipe import CellName


def test_bfloat16_trains_where_the_cpu_has_it_and_is_refused_elsewhere():
    given = small("forecast", epochs=2, precision="bf16-mixed")
    if not (torch.cuda.is_available() or trainer._computes_bfloat16("lstm")):
        with pytest.raises(InputError, match="needs a CPU with bfloat16 .*; give --precision 32"):
            pipeline.train(sine(), given, ignore)
        return
    trained = pipeline.train(sine(), given, ignore)
    assert trained.history[-1].train_loss < trained.history[0].train_loss


def test_bfloat16_is_refused_on_a_cpu_without_it(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(trainer, "_computes_bfloat16", lambda cell: False)
    with pytest.raises(InputError, match="needs a CPU with bfloat16 .*; give --precision 32"):
        pipeline.train(sine(), small("forecast", precision="bf16-mixed"), ignore)


@pytest.mark.parametrize("cell", get_args(CellName))
def test_kernels_are_looked_for_with_the_cell_that_is_trained(monkeypatch, cell):
    tried = []
    monkeypatch.setattr(trainer, "make_recurrent", lambda cell, *_: tried.append(cell.name) or torch.nn.Identity())
    trainer._computes_bfloat16(cell)
    assert tried == [cell]


def test_float16_is_refused_without_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="needs a GPU"):
        pipeline.train(sine(), small("forecast", precision="16-mixed"), ignore)


def test_more_devices_than_available_are_refused():
    with pytest.raises(InputError, match="not 100000; give --devices"):
        pipeline.train(sine(), small("forecast", devices=100_000), ignore)


def test_the_learning_rate_follows_its_schedule():
    def rates(**changes):
        trained = pipeline.train(sine(), small("forecast", epochs=4, learning_rate=0.01, **changes), ignore)
        return [epoch.learning_rate for epoch in trained.history], trained.history[0].step

    constant, steps = rates()
    assert constant == [0.01] * 4
    cosine, _ = rates(schedule="cosine")
    assert cosine == pytest.approx([0.005 * (1 + math.cos(math.pi * epoch / 4)) for epoch in (1, 2, 3, 4)])
    rising, _ = rates(warmup=2 * steps)
    assert rising[0] == pytest.approx(0.01 * (steps + 1) / (2 * steps + 1))
    assert rising[2] == pytest.approx(0.01)
    halved = pipeline.train(
        sine(), small("forecast", epochs=12, learning_rate=2.0, optimizer="sgd", clip=1.0, schedule="plateau"), ignore
    )
    assert halved.history[-1].learning_rate < 2.0


def test_accumulated_batches_make_one_step():
    one = pipeline.train(sine(), small("forecast", epochs=1), ignore).history[-1].step
    assert pipeline.train(sine(), small("forecast", epochs=1, accumulate=2), ignore).history[-1].step == math.ceil(
        one / 2
    )


def test_gradients_are_clipped_to_their_norm():
    """With plain descent a step is never longer than learning rate times norm."""
    given = small("forecast", seed=3, optimizer="sgd", clip=1e-3, learning_rate=1.0, batch_size=10_000)
    torch.manual_seed(3)
    before = pipeline.make_learning_task(sine(), given).network.state_dict()
    after = pipeline.train(sine(), given, ignore).tensors
    moved = math.sqrt(sum(float(np.square(after[name] - value.numpy()).sum()) for name, value in before.items()))
    assert moved == pytest.approx(1e-3, rel=1e-3)
