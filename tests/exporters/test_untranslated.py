from pathlib import Path

import pytest
import torch
from modules import OneLSTM

import lstm_deploy
from lstm_deploy.contract import TensorSpec
from lstm_deploy.errors import LiftingError, ParityError
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.lifting.lifting import lift

INPUTS = {"x": "float32[batch,seq,3]"}


class Spectrum(OneLSTM):
    """Puts a phase back with complex numbers, as networks for speech do."""

    def forward(self, x):
        spectrum = torch.fft.rfft(self.lstm(x)[0])
        return torch.fft.irfft(spectrum.abs() * torch.exp(1j * spectrum.angle()))


class PolarSpectrum(OneLSTM):
    def forward(self, x):
        spectrum = torch.fft.rfft(self.lstm(x)[0])
        return torch.fft.irfft(torch.polar(spectrum.abs(), spectrum.angle()))


class Largest(OneLSTM):
    """Calls two functions that ONNX lacks, each in a line of its own."""

    def forward(self, x):
        largest = torch.cummax(self.lstm(x)[0], 1).values
        return torch.lgamma(largest + 2)


class Overlapped(OneLSTM):
    """Is translated to a graph that onnxruntime refuses."""

    def forward(self, x):
        window = torch.hann_window(4)
        spectrum = torch.stft(self.lstm(x)[0].reshape(x.shape[0], -1), 4, 2, window=window, return_complex=True)
        return torch.istft(spectrum, 4, 2, window=window)


@pytest.mark.parametrize(
    ("module", "operators", "lines", "rewrite"),
    [
        (
            Spectrum,
            ["aten::mul of complex numbers", "aten::exp of complex numbers"],
            ["torch.exp(1j * spectrum.angle())"],
            "torch.polar",
        ),
        (Largest, ["aten::cummax", "prims::lgamma"], ["torch.cummax(", "torch.lgamma("], "other operators"),
    ],
)
def test_operators_without_a_counterpart_in_onnx_are_named_with_their_lines(
    module, operators, lines, rewrite, tmp_path
):
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    lifted = lift(module().eval(), [TensorSpec.parse(INPUTS["x"], "x")])
    with pytest.raises(LiftingError) as raised:
        export_onnx(lifted, tmp_path / "model.onnx")
    message = str(raised.value)
    assert all(operator in message for operator in operators)
    for line in lines:
        number = next(number for number, text in enumerate(source, 1) if line in text)
        assert f"{__file__}:{number}" in message
    assert rewrite in message
    assert "--format torchscript" in message
    assert message.isprintable()


def test_the_remedies_for_complex_numbers_work(tmp_path):
    lstm_deploy.export(PolarSpectrum().eval(), tmp_path / "polar", inputs=INPUTS, formats=["onnx"])
    lstm_deploy.export(Spectrum().eval(), tmp_path / "script", inputs=INPUTS, formats=["torchscript"])


def test_onnx_that_onnxruntime_refuses_is_no_fault_of_forward(tmp_path):
    with pytest.raises(ParityError, match=r"onnxruntime cannot load model\.onnx .*--format torchscript") as raised:
        lstm_deploy.export(Overlapped().eval(), tmp_path / "both", inputs=INPUTS)
    assert str(tmp_path) not in str(raised.value)
    lstm_deploy.export(Overlapped().eval(), tmp_path / "script", inputs=INPUTS, formats=["torchscript"])
