import json
import subprocess

from command_line import COMMAND


def test_env_json_is_clean_in_a_pipe():
    result = subprocess.run([*COMMAND, "env", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout)["providers"]["CPUExecutionProvider"] == "loads"
