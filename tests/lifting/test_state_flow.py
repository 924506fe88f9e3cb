import modules
import pytest
import refused_modules
import torch

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.lifting import lift


def test_rows_that_are_not_those_of_the_batch_begin_anew_in_each_call():
    torch.manual_seed(0)
    module = modules.WordsOfCharacters().eval()
    lifted = lift(module, [TensorSpec.parse("x:float32[batch,seq,6,3]")])
    assert [spec.module for spec in lifted.signature.recurrent] == ["words"]
    assert lifted.signature.streaming == "exact"
    x = torch.randn(3, 5, 6, 3)
    with torch.no_grad():
        y, *_ = lifted(x, torch.zeros(1, 3, 4), torch.zeros(1, 3, 4))
        torch.testing.assert_close(y, module(x))


def test_the_flow_says_where_each_state_is():
    torch.manual_seed(0)
    lifted = lift(modules.DemandsBoth().eval(), [TensorSpec.parse("x:float32[batch,seq,3]")])
    states = lifted.signature.states
    assert [(spec.name, spec.argument, spec.result) for spec in states] == [
        ("h", "h", '["state"]["h"]'),
        ("c", "c", '["state"]["c"]'),
    ]
    assert [spec.bounded for spec in states] == [True, False]
    assert lifted.flow.is_authored


def test_a_state_that_every_call_computes_is_refused_with_what_to_do():
    inputs = [TensorSpec.parse("x:float32[batch,seq,3]"), TensorSpec.parse("past:float32[batch,4]")]
    with pytest.raises(LiftingError, match=r"lstm starts from .* as in forward\(x, past, state\)"):
        lift(refused_modules.StartsFromAnInput(), inputs)
    inputs[1] = TensorSpec.parse("first:float32[1,batch,4]")
    with pytest.raises(LiftingError, match=r"leave first out of the inputs"):
        lift(refused_modules.StartsAsGiven(), inputs)
    states = lift(refused_modules.StartsAsGiven(), inputs[:1]).signature.state_inputs
    assert [spec.name for spec in states] == ["h_in"]
