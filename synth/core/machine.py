"""How much memory this machine has."""

from __future__ import annotations

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
