#!/usr/bin/env bash
# On the machine: joins the parts of one archive, checks them, unpacks them. Says nothing if some are still missing.
#
#     unpack.sh FROM SITE NAME      FROM: folder with the parts and `sums`; SITE/… afterwards, and SITE/NAME.ready
#
# Nothing is installed: what was unpacked is put on PYTHONPATH. Takes seconds; the parts are removed.
set -euo pipefail
from=$1 site=$2 name=$3
mkdir -p "$site"
exec 9> "$site/$name.lock"
flock --nonblock 9 || exit 0 # another call's is at it
[ -e "$site/$name.ready" ] && exit 0
wanted=$(grep -c " $name\.[0-9][0-9]$" "$from/sums")
[ "$(ls "$from" | grep -c "^$name\.[0-9][0-9]$")" = "$wanted" ] || exit 0
(cd "$from" && grep " $name\.[0-9][0-9]$" sums | sha256sum --check --quiet)
cat "$from/$name".[0-9][0-9] > "$from/$name.tar.xz"
(cd "$from" && grep " $name.tar.xz$" sums | sha256sum --check --quiet)
# Python's own xz, since a bare machine may have none
python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1], "r:xz").extractall(sys.argv[2], filter="fully_trusted")' \
    "$from/$name.tar.xz" "$site"
rm "$from/$name".[0-9][0-9] "$from/$name.tar.xz"
touch "$site/$name.ready"
