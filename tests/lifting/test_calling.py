import modules
import pytest
import torch
from lift_modules import lift_module

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.lifting import lift
from lstm_deploy.lifting.probing import example_inputs
from lstm_deploy.lifting.state_structure import StatePair


def test_an_argument_that_is_no_state_must_be_described():
    with pytest.raises(LiftingError, match="forward also needs lengths"):
        lift_module(modules.Packs())


def test_inputs_that_forward_changes_are_the_callers_still():
    module = modules.ChangesItsInput().eval()
    lifted = lift_module(module)
    tensors = example_inputs(lifted.signature)
    before = tensors[0].clone()
    with torch.no_grad():
        y = lifted(*tensors)[0]
        assert tensors[0].equal(before)
        torch.testing.assert_close(y, module(before))


def test_a_state_in_a_mapping_is_found_by_names_of_its_own():
    state = StatePair((torch.zeros(1), torch.ones(1)))
    assert state["h"] == state["hidden"] == 0
    assert state["c"] == state["cell_state"] == 1
    for key in ("x", "", "memory"):
        with pytest.raises(KeyError):
            state[key]
    module = modules.DemandsMapping().eval()
    lifted = lift_module(module)
    x, h, c = example_inputs(lifted.signature)
    with torch.no_grad():
        y, new_h, _ = lifted(x, h + 1, c + 1)
        expected, new = module(x, {"h": h + 1, "c": c + 1})
    torch.testing.assert_close((y, new_h), (expected, new["h"]))


@pytest.mark.parametrize("read", ["batch['{}']", "batch.{}"])
@pytest.mark.parametrize("names", [("mels",), ("mels", "scale")])
def test_inputs_in_one_batch_are_inputs_by_their_names(read, names):
    lifted = lift(
        modules.TakesBatch(read, names).eval(), [TensorSpec.parse(f"{name}:float32[batch,seq,3]") for name in names]
    )
    assert [spec.name for spec in lifted.signature.inputs] == list(names)


def test_an_input_that_the_batch_lacks_is_named():
    with pytest.raises(LiftingError, match="no input 'scale'; describe it"):
        lift(
            modules.TakesBatch("batch.{}", ("mels", "extra", "scale")).eval(),
            [TensorSpec.parse(f"{name}:float32[batch,seq,3]") for name in ("mels", "extra")],
        )
