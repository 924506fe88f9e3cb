import pytest
import torch

from lstm_deploy.checkpoint import ForecasterConfig, LanguageModelConfig
from lstm_deploy.errors import InputError
from lstm_deploy.models import Forecaster, LanguageModel, build

CONFIG = ForecasterConfig(input_size=3, output_columns=(2, 0), hidden_size=4, num_layers=1)


def test_an_untrained_residual_forecaster_predicts_no_change():
    network = Forecaster(CONFIG)
    network.scale_to(torch.tensor([0.0, 5, 100]), torch.tensor([1.0, 6, 300]))
    x = torch.tensor([[[0.5, 5.5, 250.0], [0.25, 5.1, 120.0]]])
    torch.testing.assert_close(network(x)[0], x[..., [2, 0]])


def test_the_lstm_sees_the_training_range_as_minus_one_to_one():
    network = Forecaster(CONFIG)
    low, high = torch.tensor([0.0, 5, 100]), torch.tensor([1.0, 6, 300])
    network.scale_to(low, high)
    seen = []
    network.lstm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.stack([low, high])[None])
    torch.testing.assert_close(seen[0][0], torch.stack([-torch.ones(3), torch.ones(3)]))


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("seq", [1, 7])
def test_every_step_has_an_output(batch, seq):
    y, (h, c) = Forecaster(CONFIG)(torch.zeros(batch, seq, 3))
    assert (y.shape, h.shape, c.shape) == ((batch, seq, 2), (1, batch, 4), (1, batch, 4))
    language = LanguageModel(LanguageModelConfig(vocabulary_size=11, hidden_size=4, num_layers=2))
    y, (h, _) = language(torch.zeros(batch, seq, dtype=torch.long))
    assert (y.shape, h.shape) == ((batch, seq, 11), (2, batch, 4))


def test_tokens_enter_as_one_hot_vectors_that_are_not_trained():
    network = LanguageModel(LanguageModelConfig(vocabulary_size=5, hidden_size=2, num_layers=1))
    assert network.one_hot(torch.arange(5)).equal(torch.eye(5))
    assert not network.one_hot.weight.requires_grad


@pytest.mark.parametrize(("name", "size"), [("num_layers", 0), ("num_layers", 10**9), ("hidden_size", 10**30)])
def test_sizes_that_no_network_has_are_refused_at_once(name, size):
    """As in a checkpoint whose spec was changed."""
    sizes = {"input_size": 2, "output_columns": (1,), "hidden_size": 3, "num_layers": 1}
    tensors = {key: value.numpy() for key, value in build(ForecasterConfig(**sizes)).state_dict().items()}
    with pytest.raises(InputError, match="contradict"):
        build(ForecasterConfig(**{**sizes, name: size}), tensors)
