"""Tensors on disk that several processes share: made once, whole or not at all, made again after a failure."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segnas.errors import UserError
from segnas.estimators import feature_cache
from segnas.estimators.feature_cache import build_or_load, fingerprint

FORK = multiprocessing.get_context("fork")


def tensors() -> dict[str, Tensor]:
    return {"features": torch.arange(24.0).reshape(2, 3, 4), "labels": torch.tensor([3, 255], dtype=torch.uint8)}


def never() -> dict[str, Tensor]:
    raise AssertionError("they are there")


def test_they_are_made_once_and_come_back_as_they_are(tmp_path: Path) -> None:
    made = build_or_load(tmp_path / "new" / "folder", tensors)
    found = build_or_load(tmp_path / "new" / "folder", never)
    for name, tensor in tensors().items():
        assert torch.equal(made[name], tensor)
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype
    assert "other" in build_or_load(tmp_path / "new" / "folder", lambda: {"other": torch.ones(1)}, name="other")


def test_several_processes_make_them_once(tmp_path: Path) -> None:
    def make() -> dict[str, Tensor]:
        with open(tmp_path / "made", "a") as file:
            file.write("x")
        time.sleep(0.2)  # the others arrive meanwhile
        return tensors()

    def work() -> None:
        os._exit(0 if torch.equal(build_or_load(tmp_path, make)["features"], tensors()["features"]) else 1)

    workers = [FORK.Process(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert (tmp_path / "made").read_text() == "x"


def test_after_a_kill_or_a_failure_the_next_makes_them(tmp_path: Path) -> None:
    def die() -> dict[str, Tensor]:
        (tmp_path / "features.safetensors.partial").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    worker = FORK.Process(target=build_or_load, args=(tmp_path, die))
    worker.start()
    worker.join(60)
    assert worker.exitcode == -signal.SIGKILL
    with pytest.raises(AssertionError, match="they are there"):
        build_or_load(tmp_path, never)
    assert torch.equal(build_or_load(tmp_path, tensors)["features"], tensors()["features"])
    assert not list(tmp_path.glob("*.partial"))


def test_a_broken_file_and_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "features.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"cannot read .*features\.safetensors .*; delete it to have it made again") as caught:
        build_or_load(tmp_path, never)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot write in"):
        build_or_load(tmp_path / "features.safetensors", tensors)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_cache.os, "replace", full)
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        build_or_load(tmp_path, tensors)
    assert [path.name for path in tmp_path.iterdir()] == [".features.lock"]


def test_the_fingerprint_sees_settings_names_shapes_and_values() -> None:
    base = fingerprint({"a": 1, "b": [2.5]}, tensors())
    assert base == fingerprint({"b": [2.5], "a": 1}, dict(reversed(tensors().items())))
    others = [
        fingerprint({"a": 1, "b": [2.5]}),
        fingerprint({"a": 2, "b": [2.5]}, tensors()),
        fingerprint({"a": 1, "b": [2.5]}, {**tensors(), "labels": torch.tensor([4, 255], dtype=torch.uint8)}),
        fingerprint({"a": 1, "b": [2.5]}, {**tensors(), "features": tensors()["features"].reshape(3, 2, 4)}),
        fingerprint({"a": 1, "b": [2.5]}, {**tensors(), "features": tensors()["features"].to(torch.float64)}),
    ]
    assert len({base, *others}) == 6
