import json
import subprocess
import sys

from lstm_deploy import environment


def test_versions_need_no_import():
    code = (
        "import sys; from lstm_deploy.environment import versions as v; print('torch' in v(), 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True", "False"]


def test_the_description_is_json_and_names_the_machine():
    found = json.loads(json.dumps(environment.describe()))
    assert found["cpu"]["model"]
    assert found["cpu"]["usable_cores"] >= 1
    assert found["versions"]["lstm-deploy"]
