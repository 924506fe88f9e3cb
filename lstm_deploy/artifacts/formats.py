"""Artifact formats: one record for each, with the properties of all its files.

A new format is a record here, a writer in `exporters.pipeline.WRITERS` and a runtime in `runtimes.opening.RUNTIMES`.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of file that a model is exported to."""

    name: str
    """The name on the command line and in manifests."""
    label: str
    """The name in messages and reports."""
    suffix: str
    """The suffix of its files, by which they are recognized."""
    providers: tuple[str, ...]
    """Execution providers that can run it."""
    rollout: Literal["own file", "same file", "none"]
    """Where the rollout of a model that feeds itself is written."""
    has_header: bool = False
    """Whether there is a header file beside it."""

    def file_name(self, precision: str = "float32") -> str:
        """The name of the model's file in a bundle."""
        infix = {"float32": "", "float16": ".fp16"}.get(precision, f".{precision}")
        return f"model{infix}{self.suffix}"


FORMATS = {
    artifact_format.name: artifact_format
    for artifact_format in (
        Format(name="onnx", label="ONNX", suffix=".onnx", providers=("cpu", "cuda", "tensorrt"), rollout="own file"),
        Format(
            name="torchscript", label="TorchScript", suffix=".torchscript", providers=("cpu", "cuda"), rollout="none"
        ),
        Format(name="c", label="C", suffix=".c", providers=("cpu",), rollout="same file", has_header=True),
    )
}
"""By name, in the order in which they are written."""
SUFFIXES = {artifact_format.suffix: artifact_format for artifact_format in FORMATS.values()}
