"""The options of artifacts of lower precision, and their file names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from msgspec import Struct

from lstm_deploy.artifacts import FORMATS, environment
from lstm_deploy.contract import StateDtype
from lstm_deploy.errors import InputError

INT8_FILES = {name: format_.file_name("int8") for name, format_ in FORMATS.items()}
FLOAT16_FILE = FORMATS["onnx"].file_name("float16")


class PrecisionOptions(Struct, frozen=True, kw_only=True):
    """The precisions to export beside float32, and how much they may lose."""

    quantize: Literal["int8", "auto"] | None = None
    """`auto` keeps int8 ONNX and C only where they are faster than float32 on this machine, and within the budget."""
    int8_cpus: Literal["any", "vnni"] = "any"
    """CPUs on which int8 ONNX must be exact: all, or only those with VNNI, which allows one more bit for weights."""
    half: bool = False
    state_dtype: StateDtype = "float16"
    """Type of the state of the float16 artifact."""
    data: Path | None = None
    """File to measure the loss on; by default the held-out part of the training data."""
    max_metric_loss: float | None = None
    """Largest relative loss of the metric, 0.01 by default; without data, of the outputs' variation, 0.1 by default."""

    @property
    def requested(self) -> bool:
        """Whether there are any."""
        return self.half or self.quantize is not None

    def check(self, formats: Sequence[str]) -> None:
        """Raise `InputError` for invalid options, and for options that do not apply to the formats."""
        if self.quantize not in (None, "int8", "auto"):
            raise InputError(f"{self.quantize!r} is not a way to quantize; use int8 or auto.")
        if self.int8_cpus not in ("any", "vnni"):
            raise InputError(f"{self.int8_cpus!r} is not a choice of CPUs; use any or vnni.")
        if self.int8_cpus == "vnni" and not (self.quantize and "onnx" in formats):
            raise InputError("--int8-cpus is for ONNX in int8; add --quantize int8 and --format onnx.")
        if self.int8_cpus == "vnni" and environment.lacks_vnni():
            raise InputError("This CPU has no VNNI, so such weights cannot be proven here; leave out --int8-cpus vnni.")
        if self.half and "onnx" not in formats:
            raise InputError("float16 is for ONNX; add --format onnx.")
        if self.quantize == "auto" and not {"onnx", "c"} & set(formats):
            raise InputError("--quantize auto is for ONNX and C; add --format onnx.")
        if (self.data is not None or self.max_metric_loss is not None) and not self.requested:
            raise InputError(
                "--data and --max-metric-loss are for int8 and float16; ask for one with --quantize or --half."
            )
        loss = self.max_metric_loss
        if loss is not None and (isinstance(loss, bool) or not isinstance(loss, int | float) or not 0 <= loss <= 1):
            raise InputError(f"max_metric_loss is {loss!r}; give a fraction from 0 to 1, such as 0.01 for 1 %.")
        if self.state_dtype != "float16" and not self.half:
            raise InputError("--state-dtype is for float16; add --half.")
        if self.data is not None and not self.data.is_file():
            raise InputError(f"{self.data} does not exist or is not a file; check --data.")
        if not isinstance(self.half, bool):
            raise InputError(f"half is {self.half!r}; give True or False.")
        if self.state_dtype not in get_args(StateDtype):
            raise InputError(f"{self.state_dtype!r} is not a type of a state; use {' or '.join(get_args(StateDtype))}.")

    def files(self, formats: Sequence[str]) -> list[str]:
        """The artifacts that may result; int8 is left out where it loses too much, or is not faster with `auto`."""
        int8 = [INT8_FILES[name] for name in formats if self.quantize == "int8" or name != "torchscript"]
        return [*(int8 if self.quantize else ()), *([FLOAT16_FILE] if self.half else ())]
