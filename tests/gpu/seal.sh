#!/usr/bin/env bash
# Makes one archive of folders and splits it into parts that a transfer carries each; unpack.sh undoes it.
#
#     seal.sh OUT NAME TREE FOLDER…     TREE/FOLDER… → OUT/N/NAME.00, OUT/N+1/NAME.01 …, and their sha256 in OUT/sums
#
# N is the first number that OUT has no folder of. PART: size of a part, 56 MiB if it is not set.
set -euo pipefail
out=$1 name=$2 tree=$3; shift 3
parts=$(mktemp -d "$out/parts.XXXXXX")
tar -c --owner=0 --group=0 --mtime=2026-01-01 -C "$tree" "$@" | xz -6 -T2 > "$parts/$name.tar.xz"
split -d -b "${PART:-56M}" "$parts/$name.tar.xz" "$parts/$name."
(cd "$parts" && sha256sum "$name.tar.xz") >> "$out/sums"
rm "$parts/$name.tar.xz"
number=1
while [ -e "$out/$number" ]; do number=$((number + 1)); done
for part in "$parts/$name".[0-9][0-9]; do
    mkdir "$out/$number"
    (cd "$parts" && sha256sum "$(basename "$part")") >> "$out/sums"
    mv "$part" "$out/$number/"
    number=$((number + 1))
done
rmdir "$parts"
