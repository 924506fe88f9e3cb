import modules
import torch

from lstm_deploy.contract.signature import TensorSpec
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
