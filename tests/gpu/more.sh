#!/usr/bin/env bash
# Every later call: bash /tmp/lease/repo/tests/gpu/more.sh [SECONDS]. Takes in the parts that came along in .kit, unpacks
# what is whole behind the call's back, waits so long or until all is done, and copies what was measured so far to $OUT.
set -euo pipefail
export LEASE=${LEASE:-/tmp/lease}
here=$(cd "$(dirname "$0")" && pwd)
if ls .kit/*/*.[0-9][0-9] > /dev/null 2>&1; then mv .kit/*/*.[0-9][0-9] "$LEASE/in/"; fi
for name in $(sed -n 's/.* \(.*\)\.tar\.xz$/\1/p' "$LEASE/in/sums"); do
    setsid nohup bash "$here/unpack.sh" "$LEASE/in" "$LEASE/site" "$name" >> "$LEASE/unpack.log" 2>&1 < /dev/null &
done
[ "${1:-5}" = 0 ] || python3 "$here/lease.py" wait --seconds "${1:-5}" ${OUT:+--to "$OUT"}
tail -n 3 "$LEASE/driver.log" 2> /dev/null || true
tail -n 3 "$LEASE/unpack.log" 2> /dev/null || true
