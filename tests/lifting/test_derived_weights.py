import modules
import numpy as np
import onnxruntime as ort
import pytest
import refused_modules
import torch
from lift_modules import X, lift_module
from torch import nn
from torch.nn import utils
from torch.nn.utils import parametrizations, prune

import lstm_deploy
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.lifting import lift

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]


class Doubled(nn.Module):
    """A parametrization of the user's own."""

    def forward(self, weight):
        return weight * 2


def own(module, name):
    utils.parametrize.register_parametrization(module, name, Doubled())


WAYS = {
    "weight norm": parametrizations.weight_norm,
    "old weight norm": utils.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "old spectral norm": utils.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "own": own,
    "pruning": lambda module, name: prune.l1_unstructured(module, name, 0.5),
}


def changed_since(module):
    """As training leaves it: what weights are computed from has moved since they were computed last."""
    with torch.no_grad():
        for _ in range(20):
            module.train()(torch.randn(2, 5, 3))  # spectral norms are estimated step by step
        for name, parameter in module.named_parameters():
            if name.endswith(("_g", "original0", "_raw", "_orig")):
                parameter.mul_(1.5)
    return module.eval()


def assert_exported_as_the_author_runs_it(module, folder):
    """In ONNX and TorchScript; weights are plain."""
    bundle = lstm_deploy.export(
        module, folder / "b", inputs={"x": "float32[batch,seq,3]"}, formats=["onnx", "torchscript"]
    )
    x = torch.randn(2, 5, 3)
    with torch.no_grad():
        expected = module(x)
    state = bundle.signature.initial_state(2)
    session = ort.InferenceSession(bundle.path / "model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x.numpy(), **state})[0], expected.numpy(), atol=1e-5)
    script = torch.jit.load(str(bundle.path / "model.torchscript"))
    torch.testing.assert_close(script(x, *map(torch.from_numpy, state.values()))[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("way", WAYS)
def test_weights_that_are_computed_from_others_are_exported_as_plain_ones(tmp_path, way):
    torch.manual_seed(0)
    module = modules.HidesState(num_layers=2)
    WAYS[way](module.lstm, "weight_hh_l0")
    WAYS[way](module.lstm, "weight_ih_l1")
    WAYS[way](module.fc, "weight")
    assert_exported_as_the_author_runs_it(changed_since(module), tmp_path)


@pytest.mark.parametrize("make", [modules.DropsWeights, modules.DropsWeightsAsParameters, modules.SharesWeights])
def test_weights_that_forward_sets_are_exported_as_it_sets_them(tmp_path, make):
    """As in AWD-LSTM, by attributes of the LSTM; and one parameter in two LSTMs."""
    torch.manual_seed(0)
    assert_exported_as_the_author_runs_it(changed_since(make()), tmp_path)


def test_a_forward_may_read_and_flatten_the_weights_of_its_lstm(tmp_path):
    torch.manual_seed(0)
    assert_exported_as_the_author_runs_it(modules.ReadsWeights().eval(), tmp_path)


def test_the_authors_module_is_left_as_it_was():
    module = modules.HidesState()
    parametrizations.weight_norm(module.lstm, "weight_hh_l0")
    utils.weight_norm(module.fc)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    lift_module(module)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert len(before) == len(module.state_dict())
    assert utils.parametrize.is_parametrized(module.lstm, "weight_hh_l0")


def test_tensors_of_an_autograd_graph_on_the_module_do_not_matter():
    """As a training step leaves them."""
    module = modules.HidesState()
    module.kept = [{"y": module(torch.randn(2, 5, 3))}]
    assert lift_module(module).signature.output_names == ["y", "h_out", "c_out"]


def test_weights_that_depend_on_the_input_are_refused():
    with pytest.raises(LiftingError, match="weight_ih_l0 of lstm is another tensor in each call"):
        lift(refused_modules.MakesWeights().eval(), [X])


def test_a_forward_that_takes_its_lstm_apart_is_refused():
    with pytest.raises(LiftingError, match=r"must call its recurrent modules as they are"):
        lift(refused_modules.TakesItsLSTMApart().eval(), [X])
