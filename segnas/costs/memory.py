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

import torch

from segnas.data.free_memory import PROC, free_memory, kib_of

SAMPLE_SECONDS = 0.002


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
        return free_memory()
    return free_memory() + resident_memory()


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
    return kib_of(PROC / "self" / "status", "VmHWM") * 1024


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
