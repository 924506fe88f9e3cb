"""What follows from a tensor, through operators that hide it, views, writes in place and numbers of Python."""

import pytest
import torch
from torch import nn

from lstm_deploy.lifting.data_flow import DataFlow


def written(a):
    target = torch.ones(2, 3)
    target[:] = a
    return target


def overwritten(a):
    a.copy_(torch.ones(2, 3))
    return a + 1


def branched(a):
    return torch.ones(1) if a.sum() > 0 else torch.zeros(1)


@pytest.mark.parametrize(
    ("compute", "follows"),
    [
        (lambda a: a * 0, True),
        (lambda a: (a > 1e9).float(), True),
        (lambda a: a.clamp(0, 0).t()[0], True),
        (lambda a: nn.LSTM(3, 4)(a)[1][0], True),
        (written, True),
        (branched, True),
        (torch.zeros_like, False),
        (lambda a: a.new_ones(2) + a.shape[0], False),
        (overwritten, False),
    ],
)
def test_a_result_follows_from_a_tensor_if_any_operator_leads_there(compute, follows):
    a, other = torch.randn(2, 3), torch.randn(2, 3)
    with torch.no_grad(), DataFlow({"a": [a], "other": [other]}) as flow:
        result = compute(a)
    assert flow.labels([result]) == ({"a"} if follows else set())


def test_weights_follow_from_nothing_that_they_are_used_with():
    lstm, x = nn.LSTM(3, 4), torch.randn(2, 3)
    with torch.no_grad(), DataFlow({"x": [x]}) as flow:
        if x.sum() > 0 or x.sum() <= 0:
            lstm(x)
    assert flow.labels(lstm.parameters()) == set()
    assert flow.of_numbers == {"x"}
