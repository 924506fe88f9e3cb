"""Execution providers: their names, their settings, and what each has no kernel for."""

PROVIDERS = ("cpu", "cuda", "tensorrt")
"""Execution providers by the names of the command line."""

SETTINGS = ("tf32", "graph")
"""What may be asked of CUDA: to round factors to 10 bits; to replay a captured graph in `Recurrence.step`."""

NO_KERNEL = {
    ("float16", "cpu"): "the CPU has no float16 LSTM",
    ("int8", "cuda"): "CUDA has no int8 LSTM, and would leave it to the CPU",
    ("int8", "tensorrt"): "TensorRT has no int8 LSTM of this kind, and would leave it to the CPU",
}
"""Precisions that a provider cannot run, and why."""
