import pytest
import torch
from validation_cases import reference_of


@pytest.fixture
def reference():
    torch.manual_seed(0)
    return reference_of(torch.nn.LSTM(3, 5, 2, batch_first=True), "x:float32[batch,seq,3]")
