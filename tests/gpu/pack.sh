#!/usr/bin/env bash
# Packs what must travel to a GPU machine without a network into folders that one transfer carries each.
#
#     pack.sh [FOLDER]            default .kit in the project's root, which git ignores
#     VERSIONS="0.26.0" pack.sh   which vLLM; default 0.26.0 and 0.32.0
#     pack.sh --project [FOLDER]  the project alone again, as it is now, commits and changes alike: seconds
#
# FOLDER/1 … FOLDER/5 then hold one transfer each (56 MiB at most) and FOLDER/sums the sha256 of every part:
#     1    the project, and small: pydantic and the like, enough for the trainer and the loss bench
#     2 3  vllm-0.26.0 with its imports: the newest that pins the machine's torch 2.11.0 (first model runner)
#     4 5  vllm-0.32.0: what `make env` installs on a GPU today (second model runner); made for torch 2.13, and the
#          compiled parts that are packed were seen to load into torch 2.11
# Left out of vLLM, as no dense model in bfloat16 on compute capability 9.0 calls it: FlashAttention 2, mixture of
# experts, MLA, DeepGEMM, the Rust front end. Takes 10 minutes, mostly xz. Needs git, pip, tar, xz, 3 GB of disk.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
only_project=; [ "${1:-}" = --project ] && { only_project=yes; shift; }
out=${1:-$root/.kit}
out=$(mkdir -p "$out" && cd "$out" && pwd)
versions=${VERSIONS:-0.26.0 0.32.0}
pip=(python3 -m pip --disable-pip-version-check -q)
for_it=(--no-deps --only-binary=:all: --python-version 3.12 --implementation cp)
for n in $(seq 39 -1 5); do for_it+=(--platform "manylinux_2_${n}_x86_64"); done
for_it+=(--platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --platform manylinux1_x86_64)

tree() { # NAME REQUIREMENT…: the packages, unpacked as Python 3.12 there wants them
    local name=$1; shift
    rm -rf "$out/tree/$name"; mkdir -p "$out/wheels" "$out/tree/$name"
    "${pip[@]}" download "${for_it[@]}" -d "$out/wheels" "$@"
    "${pip[@]}" install "${for_it[@]}" --no-index --find-links "$out/wheels" --no-compile --target "$out/tree/$name" "$@"
}

trim() { # TREE
    rm -rf "$1"/vllm/vllm-rs "$1"/vllm/vllm_flash_attn/_vllm_fa2_C* "$1"/vllm/_moe_C* "$1"/vllm/_qutlass* \
        "$1"/vllm/_flashmla* "$1"/vllm/_deepselect* "$1"/vllm/_flashkda* "$1"/vllm/_rust* "$1"/pycountry/locales \
        "$1"/vllm/third_party/deep_gemm/_C* "$1"/vllm/third_party/*/cutlass "$1"/vllm/third_party/deep_gemm/include
}

project() { # what git knows or does not ignore as repo/, and the packages' names for it as site/project/
    local copy="$out/tree/project"
    rm -rf "$copy"; mkdir -p "$copy/repo" "$copy/site/project/dail" "$out/1"
    (cd "$root" && git ls-files -co --exclude-standard -z | tar -c --null --ignore-failed-read -T -) | tar -x -C "$copy/repo"
    touch "$copy/repo/tests/__init__.py" # else any package named tests on that machine hides the folder
    for room in synth train serve; do ln -s "../../../repo/$room" "$copy/site/project/dail/$room"; done
    python3 "$here/metadata.py" "$root/pyproject.toml" "$copy/site/project"
    tar -c --owner=0 --group=0 -C "$copy" . | xz -3 > "$out/1/project.tar.xz"
    touch "$out/sums" # none yet where no archive was packed
    cp "$here/begin.sh" "$out/sums" "$out/1/"
}

[ -z "$only_project" ] || { project; du -sm "$out/1"; exit 0; }
rm -rf "${out:?}"/[0-9]* "$out/sums"
tree small -r "$here/small.txt"
"$here/seal.sh" "$out" small "$out/tree" small
first=1
for version in $versions; do
    tree "vllm-$version" "vllm==$version"; trim "$out/tree/vllm-$version"
    if [ $first = 1 ]; then
        tree engine -r "$here/engine.txt"; trim "$out/tree/engine"; first=0
        "$here/seal.sh" "$out" "vllm-$version" "$out/tree" engine "vllm-$version"
    else
        "$here/seal.sh" "$out" "vllm-$version" "$out/tree" "vllm-$version"
    fi
done
project
du -sm "$out"/[0-9]*; cat "$out/sums"
