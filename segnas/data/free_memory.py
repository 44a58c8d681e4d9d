"""How much memory there is for this process: what the machine has free, and what its control groups (a container) leave."""

from __future__ import annotations

import os
from pathlib import Path

from segnas.processes import on_this_machine

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")

# The files of a control group: its limit, what is used, and the line of memory.stat that counts cache the kernel can drop.
V2_FILES = ("memory.max", "memory.current", "inactive_file")
V1_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def free_memory() -> int:
    """Bytes that this process may still take: the least of what the machine and its control groups leave.

    Cache that the kernel would drop counts as free. Outside Linux all the memory of the machine. The processes of one command
    share it evenly.
    """
    if not (PROC / "meminfo").exists():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // on_this_machine()
    return min([kib_of(PROC / "meminfo", "MemAvailable") * 1024, *_group_free()]) // on_this_machine()


def kib_of(path: Path, name: str) -> int:
    """The number of the line `name: number kB` in a file of /proc; raises RuntimeError when there is none."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise RuntimeError(f"{path} has no line {name}")


def _group_free() -> list[int]:
    """Bytes left in every memory-limited control group around this process; empty where there is no limit."""
    listing = PROC / "self" / "cgroup"
    if not listing.exists():
        return []
    free = []
    for line in listing.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, files = CGROUP, V2_FILES
        elif "memory" in controllers.split(","):
            root, files = CGROUP / "memory", V1_FILES
        else:
            continue
        # A container may show the host's path with its own group mounted as the root: folders that are not there are passed over.
        inner = root / path.lstrip("/")
        for folder in [inner, *inner.parents]:
            if folder.is_relative_to(root) and (folder / files[0]).exists() and (folder / files[1]).exists():
                free += _left_in(folder, files)
    return free


def _left_in(folder: Path, files: tuple[str, str, str]) -> list[int]:
    limit_file, used_file, reclaimable = files
    limit = (folder / limit_file).read_text(encoding="ascii").strip()
    if limit == "max":
        return []
    used = int((folder / used_file).read_text(encoding="ascii"))
    for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines():
        name, value = line.split()
        if name == reclaimable:
            used -= int(value)
    return [max(0, int(limit) - used)]
