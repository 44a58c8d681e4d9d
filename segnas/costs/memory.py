"""Peak memory of a piece of work, and how much there is: what a preflight compares before hours are spent.

Both figures count in the same way, so that `peak_memory(step, device) <= available_memory(device)` says whether it fits:

    CPU    the resident set of this process            and what it may grow to: free memory of the machine and of its
                                                        control group (a container's limit), plus what the process holds already
    CUDA   what torch's allocator has handed out        and what it may hand out: free on the device, plus what it holds already
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")
SAMPLE_SECONDS = 0.002

# The files of a control group: its limit, what is used, and the line of memory.stat that counts cache the kernel can drop.
V2_FILES = ("memory.max", "memory.current", "inactive_file")
V1_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def peak_memory(work: Callable[[], object], device: str | torch.device) -> int:
    """Bytes held at the highest moment while `work()` runs, with everything that was held before it.

    On the CPU the peak of the process' resident set: the kernel's own high-water mark where it may be reset, else sampled
    every 2 ms, and outside Linux the mark since the process began. On CUDA the peak of what torch's allocator handed out.
    Whatever `work` raises is passed on.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    if not (PROC / "self" / "statm").exists():
        work()
        return _peak_since_start()
    _give_back_freed()
    if _reset_high_water_mark():
        work()
        return _high_water_mark()
    with _sampled_peak() as peak:
        work()
    return peak[0]


def available_memory(device: str | torch.device) -> int:
    """Bytes that this process may hold in all: what is free on the device now, and what the process holds already."""
    device = torch.device(device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    if not (PROC / "meminfo").exists():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([_machine_free(), *_group_free()]) + resident_memory()


def resident_memory() -> int:
    """Bytes of the process' resident set now (Linux)."""
    pages = (PROC / "self" / "statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _give_back_freed() -> None:
    """Hand freed heap back to the system (glibc), or `work` would seem to need none of what it finds there."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _reset_high_water_mark() -> bool:
    """Ask the kernel to forget the peak so far (proc(5), clear_refs, value 5); some containers forbid it."""
    try:
        (PROC / "self" / "clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _high_water_mark() -> int:
    return _kib_of(PROC / "self" / "status", "VmHWM") * 1024


def _machine_free() -> int:
    return _kib_of(PROC / "meminfo", "MemAvailable") * 1024


def _kib_of(path: Path, name: str) -> int:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise RuntimeError(f"{path} has no line {name}")


def _peak_since_start() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


@contextlib.contextmanager
def _sampled_peak() -> Iterator[list[int]]:
    """A list of one number that holds the largest resident set seen from the block's first line to its last."""
    peak = [resident_memory()]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_SECONDS):
            peak[0] = max(peak[0], resident_memory())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
        peak[0] = max(peak[0], resident_memory())


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
