"""Peaks of arrays whose size is known, by each way of reading them; free memory against made-up /proc and cgroup files."""

import threading
import time

import numpy as np
import pytest
import torch

from segnas.costs import memory
from segnas.costs.memory import available_memory, peak_memory, resident_memory
from segnas.data import free_memory

MIB = 2**20
SLACK = 24 * MIB  # what the interpreter, other threads and the allocator may add or give back meanwhile


def allocate(mib: int) -> None:
    """Touch `mib` MiB, hold them for a moment, as a step of training does, and let go of them."""
    numbers = np.zeros(mib * MIB, dtype=np.uint8)
    numbers[::1024] = 1
    time.sleep(0.05)


@pytest.mark.skipif(not memory.PROC.joinpath("self/statm").exists(), reason="/proc is Linux's")
@pytest.mark.parametrize("resettable", [True, False])
def test_the_peak_is_what_was_held_plus_the_known_array(monkeypatch, resettable):
    if not resettable:  # as in a container that forbids it: the sampled peak
        monkeypatch.setattr(memory, "_reset_high_water_mark", lambda: False)
    allocate(300)  # an earlier, higher peak must not count
    memory._give_back_freed()  # what earlier tests freed: `peak_memory` gives it back too
    before = resident_memory()
    peak = peak_memory(lambda: allocate(160), "cpu")
    assert before + 160 * MIB - SLACK <= peak <= before + 160 * MIB + SLACK


def test_the_sampler_ends_with_its_work_and_passes_errors_on(monkeypatch):
    monkeypatch.setattr(memory, "_reset_high_water_mark", lambda: False)
    threads = threading.active_count()

    def fail():
        raise ValueError("from the work")

    with pytest.raises(ValueError, match="from the work"):
        peak_memory(fail, "cpu")
    assert threading.active_count() == threads


def test_without_proc_the_peak_since_the_start_is_an_upper_bound(monkeypatch, tmp_path):
    resident = resident_memory()
    monkeypatch.setattr(memory, "PROC", tmp_path)
    monkeypatch.setattr(free_memory, "PROC", tmp_path)
    assert peak_memory(lambda: allocate(8), "cpu") >= resident - SLACK
    assert available_memory("cpu") > 64 * MIB


def test_available_memory_of_this_machine_holds_the_process():
    assert available_memory("cpu") > resident_memory()
    assert available_memory(torch.device("cpu")) == pytest.approx(available_memory("cpu"), rel=0.2)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A made-up machine: 8000 MiB free, 100 pages resident; `groups(listing, files)` adds control groups."""
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    cgroup.mkdir()
    (proc / "meminfo").write_text("MemTotal: 16384000 kB\nMemAvailable:    8192000 kB\n")
    (proc / "self" / "statm").write_text("900 100 30 1 0 300 0\n")
    monkeypatch.setattr(memory, "PROC", proc)
    monkeypatch.setattr(free_memory, "PROC", proc)
    monkeypatch.setattr(free_memory, "CGROUP", cgroup)
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PAGE_SIZE": 4096}.get)

    def groups(listing, files):
        (proc / "self" / "cgroup").write_text(listing)
        for name, text in files.items():
            (cgroup / name).parent.mkdir(parents=True, exist_ok=True)
            (cgroup / name).write_text(f"{text}\n")

    return groups


RESIDENT = 100 * 4096


def test_without_a_control_group_the_machine_limits(machine):
    assert available_memory("cpu") == 8000 * MIB + RESIDENT


def test_the_tightest_group_of_version_2_limits_and_droppable_cache_is_free(machine):
    files = {
        "box/memory.max": 500 * MIB,
        "box/memory.current": 300 * MIB,
        "box/memory.stat": f"anon 1\ninactive_file {120 * MIB}",
        "box/job/memory.max": "max",
        "box/job/memory.current": 10 * MIB,
        "box/job/memory.stat": "inactive_file 0",
    }
    machine("0::/box/job\n", files)
    assert available_memory("cpu") == 320 * MIB + RESIDENT
    assert free_memory.free_memory() == 320 * MIB


def test_a_group_of_version_1_mounted_as_the_root_of_a_container(machine):
    files = {
        "memory/memory.limit_in_bytes": 700 * MIB,
        "memory/memory.usage_in_bytes": 250 * MIB,
        "memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {50 * MIB}",
    }
    machine("9:cpu:/docker/abc\n4:memory:/docker/abc\n0::/\n", files)
    assert available_memory("cpu") == 500 * MIB + RESIDENT


def test_a_group_over_its_limit_leaves_what_is_held(machine):
    files = {"memory.max": 100, "memory.current": 200, "memory.stat": "inactive_file 0"}
    machine("0::/\n", files)
    assert available_memory("cpu") == RESIDENT


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_peak_is_what_torch_allocated():
    before = torch.cuda.memory_allocated()
    peak = peak_memory(lambda: torch.empty(64 * MIB, dtype=torch.uint8, device="cuda"), "cuda")
    assert peak == before + 64 * MIB
    assert available_memory("cuda") > 0
