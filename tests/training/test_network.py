from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from lstm_deploy.contract import CELLS_BY_NAME
from lstm_deploy.errors import InputError
from lstm_deploy.training.checkpoint import NetworkConfig
from lstm_deploy.training.network import Network, load_network
from lstm_deploy.training.recipe import CellName

CONFIG = NetworkConfig(input="values", input_size=3, hidden_size=4, output_size=2, output_columns=(2, 0), residual=True)


def scaled(low, high):
    network = Network(CONFIG)
    network.scaling.offset.copy_((low + high) / 2)
    network.scaling.scale.copy_(2 / (high - low))
    return network


def test_an_untrained_residual_forecaster_predicts_no_change():
    network = scaled(torch.tensor([0.0, 5, 100]), torch.tensor([1.0, 6, 300]))
    x = torch.tensor([[[0.5, 5.5, 250.0], [0.25, 5.1, 120.0]]])
    torch.testing.assert_close(network(x)[0], x[..., [2, 0]])


def test_the_lstm_sees_scaled_values():
    low, high = torch.tensor([0.0, 5, 100]), torch.tensor([1.0, 6, 300])
    network = scaled(low, high)
    seen = []
    network.lstm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.stack([low, high])[None])
    torch.testing.assert_close(seen[0][0], torch.stack([-torch.ones(3), torch.ones(3)]))


@given(
    st.sampled_from(["values", "one-hot", "embedding"]),
    st.sampled_from(["none", "last", "attention", "max", "mean"]),
    st.booleans(),
    st.sampled_from([0, 2]),
    st.sampled_from([0, 3]),
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3)),
    st.sampled_from(get_args(CellName)),
)
def test_outputs_and_state_have_their_shapes_in_every_form(kind, pooling, both_ways, proj_size, head_size, sizes, cell):
    batch, seq, layers = sizes
    proj_size = proj_size if CELLS_BY_NAME[cell].has_projection else 0
    config = NetworkConfig(
        input=kind,
        input_size=5,
        embedding_size=3 if kind == "embedding" else 0,
        window_norm=seq if kind == "values" else 0,
        cell=cell,
        hidden_size=4,
        num_layers=layers,
        bidirectional=both_ways,
        proj_size=proj_size,
        layer_norm=True,
        pooling=pooling,
        dropout=0.5,
        head_size=head_size,
        output_size=2,
        output_columns=(4, 1) if kind == "values" else (),
        residual=kind == "values",
    )
    x = torch.rand(batch, seq, 5) if kind == "values" else torch.randint(5, (batch, seq))
    y, state = Network(config).eval()(x)
    depth = layers * (2 if both_ways else 1)
    assert y.shape == ((batch, seq, 2) if pooling == "none" else (batch, 2))
    parts = [state] if isinstance(state, torch.Tensor) else state
    assert [part.shape for part in parts] == [
        (depth, batch, (proj_size or 4) if part.is_output else 4) for part in CELLS_BY_NAME[cell].states
    ]


@pytest.mark.parametrize("pooling", ["last", "attention", "max", "mean"])
@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("cell", get_args(CellName))
def test_padding_changes_nothing(pooling, both_ways, cell):
    torch.manual_seed(0)
    config = NetworkConfig(
        input="embedding",
        input_size=9,
        embedding_size=3,
        cell=cell,
        hidden_size=4,
        num_layers=2,
        bidirectional=both_ways,
        pooling=pooling,
        output_size=2,
    )
    network = Network(config).eval()
    texts = [torch.tensor([1, 2, 3, 4, 5]), torch.tensor([6, 7]), torch.tensor([8])]
    padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=3)
    together, _ = network(padded, torch.tensor([5, 2, 1]))
    alone = torch.cat([network(text[None])[0] for text in texts])
    torch.testing.assert_close(together, alone)


def test_tokens_enter_as_one_hot_vectors_that_are_not_trained():
    network = Network(NetworkConfig(input="one-hot", input_size=5, hidden_size=2, output_size=5))
    assert network.one_hot(torch.arange(5)).equal(torch.eye(5))
    assert not network.one_hot.weight.requires_grad


@pytest.mark.parametrize(("name", "size"), [("num_layers", 0), ("num_layers", 10**9), ("hidden_size", 10**30)])
def test_sizes_that_no_network_has_are_refused_at_once(name, size):
    """As in a checkpoint whose spec was edited."""
    sizes = {"input": "values", "input_size": 2, "output_size": 1, "output_columns": (1,), "hidden_size": 3}
    tensors = {key: value.numpy() for key, value in Network(NetworkConfig(**sizes)).state_dict().items()}
    with pytest.raises(InputError, match="contradict"):
        load_network(NetworkConfig(**{**sizes, name: size}), tensors)


@pytest.mark.parametrize(("name", "module"), [("lstm", nn.LSTM), ("gru", nn.GRU), ("rnn", nn.RNN)])
def test_the_layers_are_pytorchs_and_called_after_their_cell(name, module):
    network = Network(NetworkConfig(input="one-hot", input_size=5, cell=name, hidden_size=2, output_size=5))
    assert type(getattr(network, name)) is module
    assert {key.partition(".")[0] for key in network.state_dict()} == {"one_hot", name, "fc"}


def test_a_spec_that_wants_a_projection_of_another_cell_is_refused():
    with pytest.raises(InputError, match="contradict"):
        load_network(
            NetworkConfig(input="one-hot", input_size=5, cell="gru", hidden_size=4, proj_size=2, output_size=5),
            {"a": np.zeros(1)},
        )
