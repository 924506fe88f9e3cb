import json
import subprocess
import sys

import pytest

from lstm_deploy.artifacts import environment


def test_versions_need_no_import():
    code = "import sys; from lstm_deploy.artifacts import environment as e; "
    code += "print('torch' in e.versions(), 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True", "False"]


def test_the_description_is_json_and_names_the_machine():
    found = json.loads(json.dumps(environment.describe()))
    assert found["cpu"]["model"]
    assert found["cpu"]["usable_cores"] >= 1
    assert found["versions"]["lstm-deploy"]


@pytest.mark.parametrize(
    ("architecture", "features", "lacking"),
    [
        ("x86_64", ["avx2"], ["no VNNI", "no bfloat16: "]),
        ("AMD64", ["avx2", "avx_vnni"], ["no bfloat16: "]),
        ("x86_64", ["avx512f", "avx512_vnni"], ["no bfloat16 instructions"]),
        ("x86_64", ["avx512f", "avx512_vnni", "avx512_bf16"], []),
        ("x86_64", None, []),
        ("aarch64", None, []),
    ],
)
def test_limits_of_a_cpu_are_reported_with_their_consequences(architecture, features, lacking):
    found = environment.cpu_limits({"architecture": architecture, "features": features})
    assert len(found) == len(lacking)
    assert all(sentence.startswith(words) for sentence, words in zip(found, lacking, strict=True))


def test_the_state_of_the_machine_is_json():
    found = json.loads(json.dumps(environment.state()))
    assert set(found) == {"load_average", "cpu_mhz", "gpu", "gpu_throttling"}


def test_machines_are_compared_by_their_hardware():
    described = environment.describe()
    again = json.loads(json.dumps(described))
    assert environment.machine(described) == environment.machine(again)
    again["cpu"]["model"] = "another"
    assert environment.machine(described) != environment.machine(again)


def test_a_gpu_is_described_by_the_fields_of_nvidia_smi(monkeypatch):
    answer = subprocess.CompletedProcess([], 0, stdout="NVIDIA H200, 570.1, 143771 MiB, 1980 MHz, 700.00 W\n")
    monkeypatch.setattr(environment.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(environment.subprocess, "run", lambda *_, **__: answer)
    (gpu,) = environment.describe()["gpu"]
    assert gpu["name"] == "NVIDIA H200"
    assert gpu["power.limit"] == "700.00 W"
    assert environment.machine(environment.describe())["gpu"] == ["NVIDIA H200"]
