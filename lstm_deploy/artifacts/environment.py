"""The machine and the software versions that a result depends on."""

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "lstm-deploy",
    "torch",
    "onnx",
    "onnxscript",
    "onnx-ir",
    "onnxruntime-gpu",
    "onnxruntime",
    "numpy",
    "lightning",
    "openvino",
)

WRITERS = ("lstm-deploy", "torch", "onnx", "onnxscript", "onnx-ir")
"""The packages that decide what an export writes: with the same versions, the same source gives the same bytes."""

KERNEL_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""Variables that limit PyTorch to kernels for older CPUs."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
VNNI = ("avx512_vnni", "avx_vnni")
"""CPU features that add products of bytes in 32 bits; x86 CPUs without them use 16 bits, which saturate."""
BFLOAT16 = ("avx512_bf16", "amx_bf16")
"""CPU features with which oneDNN computes LSTMs in bfloat16."""
_FEATURES = ("avx2", "fma", "avx512f", *VNNI, *BFLOAT16, "avx512_fp16", "amx_int8")
"""CPU features that decide the speed of float32 and int8 kernels on x86-64."""


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages, none of which is imported."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed


def writers(known: Mapping[str, str] | None = None) -> str:
    """The versions that an export depends on as one line, by default those of this installation."""
    known = versions() if known is None else known
    # A build for a GPU or a CPU, as in 2.9.0+cpu, writes the same.
    return ", ".join(f"{name} {known[name].partition('+')[0]}" for name in WRITERS if name in known)


def describe() -> dict[str, Any]:
    """Versions, CPU, memory, GPU and settings: the context of a measurement."""
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "memory_gib": _memory_gib(),
        "gpu": _query_gpus("name", "driver_version", "memory.total", "clocks.max.sm", "power.limit"),
        "threads": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        "kernels": {name: os.environ[name] for name in KERNEL_VARIABLES if name in os.environ},
    }


def state() -> dict[str, Any]:
    """The state that may change during a measurement: load, clocks, and why they are throttled."""
    return {
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "cpu_mhz": _cpuinfo().get("cpu MHz"),
        "gpu": _query_gpus("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw"),
        # Older drivers have the first name, newer ones the second.
        "gpu_throttling": _query_gpus("clocks_throttle_reasons.active") or _query_gpus("clocks_event_reasons.active"),
    }


def machine(described: dict[str, Any]) -> dict[str, Any]:
    """The part of `describe` that must be equal for two measurements to be comparable."""
    cpu = described["cpu"]
    return {
        "cpu": cpu["model"],
        "architecture": cpu["architecture"],
        "cores": cpu["usable_cores"],
        "features": cpu["features"],
        "gpu": [gpu["name"] for gpu in described["gpu"]],
    }


def lacks_vnni(cpu: dict[str, Any] | None = None) -> bool:
    """Whether a CPU is an x86 CPU without VNNI; False if its features are unknown.

    `cpu` is as in `describe`; the default is this machine's.
    """
    cpu = cpu or _cpu()
    return _is_known_x86(cpu) and not set(VNNI).intersection(cpu["features"])


def cpu_limits(cpu: dict[str, Any]) -> list[str]:
    """Features that a CPU lacks, and the consequences, one sentence each; `cpu` is as in `describe`."""
    limits = []
    if lacks_vnni(cpu):
        limits.append("no VNNI: int8 ONNX gains less speed, and files of export --int8-cpus vnni are refused")
    if _is_known_x86(cpu) and "avx512f" not in cpu["features"]:
        limits.append("no bfloat16: train --precision bf16-mixed is refused for an LSTM; use 32")
    elif _is_known_x86(cpu) and not set(BFLOAT16).intersection(cpu["features"]):
        limits.append("no bfloat16 instructions: train --precision bf16-mixed is slower than 32")
    return limits


def _is_known_x86(cpu: dict[str, Any]) -> bool:
    return cpu["architecture"].lower() in ("x86_64", "amd64") and cpu["features"] is not None


def _cpu() -> dict[str, Any]:
    info = _cpuinfo()
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {
        "model": info.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "usable_cores": len(affinity) if affinity is not None else os.cpu_count(),
        "affinity": affinity,
        "features": [flag for flag in _FEATURES if flag in info["flags"].split()] if "flags" in info else None,
        "governor": governor.read_text().strip() if governor.is_file() else None,
    }


def _cpuinfo() -> dict[str, str]:
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return {}
    first = file.read_text().split("\n\n", maxsplit=1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _memory_gib() -> float | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


def _query_gpus(*fields: str) -> list[dict[str, str]]:
    """Fields that the driver reports for each NVIDIA GPU; empty if there is none."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return []
    query = [tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    lines = result.stdout.strip().splitlines()
    return [dict(zip(fields, map(str.strip, line.split(",")), strict=False)) for line in lines]
