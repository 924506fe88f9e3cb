"""Results of `bench`, made up."""

import numpy as np

ENVIRONMENT = {
    "versions": {"python": "3.11", "lstm-deploy": "0.1.0"},
    "platform": "Linux",
    "cpu": {
        "model": "A CPU",
        "architecture": "x86_64",
        "usable_cores": 2,
        "affinity": [0, 1],
        "features": ["avx2"],
        "governor": None,
    },
    "memory_gib": 8.0,
    "gpu": [],
    "threads": {},
}
PEAKS = {
    "provider": "cpu",
    "threads": 1,
    "operations_per_s": {"float32": 1e11, "int8": 4e11},
    "caches": [["L1", 32768], ["L2", 1048576]],
    "memory": [
        {"name": "L1", "working_set": 16384, "bytes_per_s": 1e11},
        {"name": "L2", "working_set": 262144, "bytes_per_s": 5e10},
        {"name": "memory", "working_set": 67108864, "bytes_per_s": 1e10},
    ],
}


def row(variant="onnx", p50=12.345, rounds=30, spread=0.02, seed=0, **changes):
    medians = p50 * np.exp(np.random.default_rng(seed).normal(0, spread, rounds))
    defaults = {
        "variant": variant,
        "group": "",
        "kind": variant,
        "artifact": "" if variant == "eager" else "model.onnx",
        "provider": "cpu",
        "active": ["CPUExecutionProvider"],
        "precision": "float32",
        "settings": [],
        "again": variant.endswith(" again"),
        "scenario": "stream",
        "scope": "end_to_end",
        "batch": 1,
        "seq_len": 1,
        "threads": 1,
        "p50_us": p50,
        "p50_interval_us": [p50 * 0.99, p50 * 1.01],
        "p90_us": p50 * 1.1,
        "p99_us": None,
        "steps_per_s": 1e6 / p50,
        "baseline": "eager",
        "ratio_to_baseline": p50 / 100,
        "ratio_interval": [p50 / 100 * 0.98, p50 / 100 * 1.02],
        "noise_floor": 0.02,
        "verdict": "faster",
        "error": 1e-7,
        "load_s": 0.1,
        "first_call_us": 50.0,
        "peak_mib": 80.5,
        "calls": 1000,
        "round_medians_us": medians.tolist(),
        "samples_us": [[median] * 5 for median in medians.tolist()],
        "roofline_fraction": 0.25,
        "limit": "L2",
        "limit_us": p50 / 4,
        "operations": 1000.0,
        "bytes": 2000.0,
        "warnings": [],
    }
    return {**defaults, **changes}


def document(*rows, **changes):
    defaults = {
        "schema_version": 1,
        "environment": ENVIRONMENT,
        "state": {"before": {}, "after": {}},
        "plan": {},
        "peaks": [PEAKS],
        "left_out": [],
        "results": list(rows),
    }
    return {**defaults, **changes}
