"""`dail completion`: the scripts are click's, and a real bash completes by its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from dail.serve.cli import dail
from dail.serve.completion import SHELLS
from tests.flow.conftest import BIN

# what bash does on TAB after each of these lines
ASK = """
eval "$(dail completion bash)"
complete -p dail > /dev/null
compopt() { :; }  # works within a TAB alone
for line in "dail tra" "dail train --set gam" "dail synth --config qwen3" "dail completion "; do
    read -ra COMP_WORDS <<< "$line"; [[ $line == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    COMPREPLY=()
    _dail_completion dail
    echo "$line: ${COMPREPLY[*]}"
done
"""


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_asks_dail(shell: str):
    done = CliRunner().invoke(dail, ["completion", shell])
    assert done.exit_code == 0
    assert f"_DAIL_COMPLETE={shell}_complete" in done.output


def test_bash_completes_verbs_settings_and_presets(tmp_path: Path):
    env = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", ASK], env=env, capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "dail tra: train",
        "dail train --set gam: train.gamma=",
        "dail synth --config qwen3: qwen3-8b-official qwen3-8b-paper-v1",
        "dail completion : bash zsh fish",
    ]
