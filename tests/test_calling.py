import modules
import pytest
import torch

from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting import lift
from lstm_deploy.signature import TensorSpec

X = TensorSpec.parse("x:float32[batch,seq,3]")


def lifted(module, spec=X, **options):
    torch.manual_seed(0)
    return lift(module.eval(), [spec], **options)


def test_an_argument_that_is_no_state_must_be_described():
    with pytest.raises(LiftingError, match="forward also needs lengths"):
        lifted(modules.Packs())
