"""How much memory this machine has, and which of its folders lie on another one."""

from __future__ import annotations

import re
from pathlib import Path


def main_memory(group: Path = Path("/sys/fs/cgroup"), table: Path = Path("/proc/meminfo")) -> tuple[int, int]:
    """Bytes that there are and that are free, for this container if it has a limit."""
    lines = table.read_text().splitlines()
    known = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    total, free = known["MemTotal"], known["MemAvailable"]
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        kinds = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group, or it has no limit
        return total, free
    used -= int(kinds.get("inactive_file", 0))  # read files, which make room
    return min(total, limit), min(free, max(0, limit - used))


_REMOTE = ("nfs", "cifs", "smb", "fuse", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "gfs", "ocfs")


def remote_file_system(path: Path, table: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The kind of file system that a path lies on, such as nfs4, if other machines may have it too; else none.

    Where the system keeps no such table, none.
    """
    found, kind = "", ""
    try:
        lines = table.read_text().splitlines()
    except OSError:
        return None
    wanted = str(path.resolve())
    for line in lines:
        mount, _, rest = line.partition(" - ")
        place = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), mount.split()[4])  # a space is \040
        is_above = wanted == place or wanted.startswith(place.rstrip("/") + "/")
        if is_above and len(place) >= len(found):  # of two at one place the later one is on top
            found, kind = place, rest.split()[0]
    return kind if kind.startswith(_REMOTE) else None
