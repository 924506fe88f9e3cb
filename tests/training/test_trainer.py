import pytest
import torch
from small_models import ignore, sine, small

from lstm_deploy.errors import InputError
from lstm_deploy.training import pipeline, trainer


def test_bfloat16_trains_where_the_cpu_has_it_and_is_refused_elsewhere():
    given = small("forecast", epochs=2, precision="bf16-mixed")
    if not (torch.cuda.is_available() or trainer._computes_bfloat16()):
        with pytest.raises(InputError, match="needs a CPU with bfloat16 .*; give --precision 32"):
            pipeline.train(sine(), given, ignore)
        return
    trained = pipeline.train(sine(), given, ignore)
    assert trained.history[-1].train_loss < trained.history[0].train_loss


def test_bfloat16_is_refused_on_a_cpu_without_it(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(trainer, "_computes_bfloat16", lambda: False)
    with pytest.raises(InputError, match="needs a CPU with bfloat16 .*; give --precision 32"):
        pipeline.train(sine(), small("forecast", precision="bf16-mixed"), ignore)


def test_float16_is_refused_without_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="needs a GPU"):
        pipeline.train(sine(), small("forecast", precision="16-mixed"), ignore)


def test_more_devices_than_available_are_refused():
    with pytest.raises(InputError, match="not 100000; give --devices"):
        pipeline.train(sine(), small("forecast", devices=100_000), ignore)
