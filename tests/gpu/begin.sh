#!/usr/bin/env bash
# The first call on the machine, from the folder that the parts came with: bash .kit/1/begin.sh [PLAN] [SECONDS]
# Unpacks the project, starts the measurements behind the call, and says how they stand after 25 s.
set -euo pipefail
export LEASE=${LEASE:-/tmp/lease}
mkdir -p "$LEASE/in" "$LEASE/site"
from=$(cd "$(dirname "$0")" && pwd)
python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1], "r:xz").extractall(sys.argv[2], filter="fully_trusted")' \
    "$from/project.tar.xz" "$LEASE"
cp "$from/sums" "$LEASE/in/"
kit=$LEASE/repo/tests/gpu
bash "$kit/more.sh" 0 || true
for _ in $(seq 60); do # what came along is unpacked in seconds, and nothing is worth running before
    if [ -e "$LEASE/site/small.ready" ] || ! grep -q ' small\.tar\.xz$' "$LEASE/in/sums"; then break; fi
    sleep 0.5
done
rm -f "$LEASE/out/state.txt" # of an earlier plan
setsid nohup python3 "$kit/lease.py" run --plan "${1:-developer}" --seconds "${2:-1500}" \
    >> "$LEASE/driver.log" 2>&1 < /dev/null &
python3 "$kit/lease.py" wait --seconds 25 ${OUT:+--to "$OUT"}
