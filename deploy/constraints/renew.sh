#!/usr/bin/env bash
# Writes cpu.txt, what is installed and tested here, and gpu.txt, what a resolver takes for an NVIDIA GPU:
#
#   make env && deploy/constraints/renew.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${VENV:-.venv}/bin/python
vllm=$(sed -n 's/^vllm=//p' deploy/setup.sh)
tool=$(mktemp -d)
trap 'rm -rf "$tool"' EXIT
"$python" -m pip install --quiet --target "$tool" uv

{
    echo "# Installed here when every test passed: Linux x86-64, $("$python" --version), no GPU. deploy/constraints/renew.sh"
    "$python" -m pip list --format=freeze --exclude dail --exclude pip
} > "$tool/cpu.txt"
{
    echo "# Resolved, not run: Python >= 3.11, NVIDIA GPU with driver >= 580. deploy/constraints/renew.sh"
    echo "vllm==$vllm" > "$tool/engine.in"
    "$tool/bin/uv" pip compile --quiet --no-header --no-annotate --all-extras --universal --python-version 3.11 \
        pyproject.toml "$tool/engine.in"
} > "$tool/gpu.txt"
mv "$tool/cpu.txt" "$tool/gpu.txt" deploy/constraints/
