"""The run directory: one folder that is enough to continue, compare or hand over a run.

    config.yaml        everything resolved              environment.json   versions, device, threads, seed, revision
    metrics.jsonl      one line a measurement           checkpoints/       search.pt, retrain.pt: state to resume from
    tensorboard/       the same for TensorBoard         data.json          classes, splits, normalisation
    architecture.json  what the search found            model.safetensors  retrained weights
    evaluation.json, parity.json, latency.json, model.onnx, report.html    what the later verbs add

Every file is replaced atomically (written beside, synced, renamed): a kill or a full disk leaves the old or the new file,
never half of one. Of several processes (processes.py) rank 0 alone writes and holds the lock: what the others would write is left
out here, and they read what it wrote after they have met it (Device.barrier).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.util
import io
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from segnas.config import load_yaml, save_yaml
from segnas.costs.latency import processor
from segnas.errors import UserError
from segnas.processes import is_first, world

UNBEGUN = (".lock", "checkpoints", "config.yaml.partial")  # all that a run killed before its config.yaml leaves
MAY_CHANGE = (
    *("segnas", "dataset", "device", "data.workers", "data.cache"),  # where and how is computed, not what
    *("search.engine", "search.recompute_cells"),
    "execution",  # of trials
    *("budget", "comparison"),  # what comes after a search; workplace.py refuses a budget that comes too late
)
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Run:
    """A run directory. Make one with `Run.create` (search, retrain) or `Run.open` (whatever works on a finished part)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: io.TextIOWrapper | None = None
        self._boards: dict[str, Any] = {}  # stage -> TensorBoard writer

    @staticmethod
    def begun(path: Path) -> bool:
        """Whether there is a run to go on with, be it one that was killed before it had its config.yaml."""
        names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        return "config.yaml" in names or (bool(names) and names <= set(UNBEGUN))

    @staticmethod
    def check(path: Path, config: Mapping[str, Any], resume: bool = False) -> None:
        """Whether `create` would take the folder; writes nothing.

        Raises UserError when the folder holds a run and `resume` is false, when it holds something else, or when the stored
        configuration differs from `config` in more than `MAY_CHANGE`.
        """
        stored = path / "config.yaml"
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file; choose a folder for the run with --out")
        _require_writable(path)
        if stored.exists() and not resume:
            raise UserError(f"{path} holds a run already; go on with it (--resume), or choose another --out")
        if path.is_dir() and not stored.exists() and any(entry.name not in UNBEGUN for entry in path.iterdir()):
            raise UserError(f"{path} is not empty and holds no run; choose another --out")
        if stored.exists():
            difference = first_difference(load_yaml(stored), dict(config), apart_from=MAY_CHANGE)
            if difference:
                raise UserError(f"{path} was started with {difference}; resume with the same settings, or choose another --out")

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any], resume: bool = False) -> Run:
        """A new run directory with config.yaml, or an existing one to go on with; locked for this process.

        Raises UserError as `check` does, and when another process works in the run.
        """
        if not is_first():  # rank 0 decides, and has perhaps begun to write already
            return cls(path)
        cls.check(path, config, resume)
        run = cls(path)
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {path}: {error.strerror}") from None
        run.lock()
        if not (path / "config.yaml").exists() or run.config() != dict(config):
            run.write_text("config.yaml", save_yaml(config))
        return run

    @classmethod
    def open(cls, path: Path) -> Run:
        """An existing run directory; raises UserError when `path` is none."""
        if not path.is_dir():
            raise UserError(f"there is no run in {path}: no such folder")
        if not (path / "config.yaml").exists():
            raise UserError(f"there is no run in {path}: it has no config.yaml")
        return cls(path)

    def config(self) -> dict[str, Any]:
        """The resolved configuration as plain values."""
        return load_yaml(self.path / "config.yaml")

    def lock(self) -> None:
        """Hold the run for this process until it ends; raises UserError when another process holds it."""
        if not is_first():
            return
        try:
            handle = open(self.path / ".lock", "a+", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write in {self.path}: {error.strerror}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.close()
            raise UserError(f"another process works on the run in {self.path}; wait for it or stop it") from None
        self._lock = handle

    def release(self) -> None:
        """Close the TensorBoard files and give the lock back."""
        for board in self._boards.values():
            board.close()
        self._boards = {}
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def has(self, name: str) -> bool:
        """Whether the file `name` is there."""
        return (self.path / name).exists()

    def write_bytes(self, name: str, content: bytes) -> Path:
        """Replace the file `name` atomically; raises UserError on a full disk and leaves the old file as it was."""
        target = self.path / name
        if not is_first():
            return target
        partial = target.with_name(target.name + ".partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            if error.errno in FULL_DISK:
                kept = f"; the last {name} is intact" if target.exists() else ""
                raise UserError(
                    f"the disk is full: cannot write {target}{kept}; free some space and go on with --resume"
                ) from None
            raise UserError(f"cannot write {target}: {error.strerror}") from None
        return target

    def write_text(self, name: str, text: str) -> Path:
        """Replace a text file atomically."""
        return self.write_bytes(name, text.encode())

    def write_json(self, name: str, value: Any) -> Path:
        """Replace a JSON file atomically (NaN is written as null)."""
        return self.write_text(name, json.dumps(_finite(value), indent=1, ensure_ascii=False) + "\n")

    def read_json(self, name: str) -> Any:
        """The value in a JSON file; raises UserError when it is missing or broken."""
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except OSError:
            raise UserError(f"the run in {self.path} has no {name} yet") from None
        except json.JSONDecodeError:
            raise UserError(f"{path} is no JSON file") from None

    def save_checkpoint(self, stage: str, state: Mapping[str, Any]) -> None:
        """Replace checkpoints/<stage>.pt atomically. `state`: tensors and plain containers only (read with weights_only).

        The length of metrics.jsonl goes along, so that lines of work that is done again are dropped on resume.
        """
        if not is_first():
            return
        buffer = io.BytesIO()
        torch.save({**state, "metrics_length": self._metrics_length()}, buffer)
        self.write_bytes(f"checkpoints/{stage}.pt", buffer.getvalue())

    def load_checkpoint(self, stage: str) -> dict[str, Any] | None:
        """The state saved last for `stage` on the CPU, or None; metrics.jsonl is cut back to what it was then."""
        path = self.path / "checkpoints" / f"{stage}.pt"
        if not path.exists():
            if is_first() and self.has("metrics.jsonl"):  # lines of a stage that was killed before its first checkpoint
                kept = [json.dumps(row) + "\n" for row in self.metrics() if row["stage"] != stage]
                self.write_text("metrics.jsonl", "".join(kept))
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise UserError(
                f"cannot read the checkpoint {path} ({type(error).__name__}); delete it to begin this stage again"
            ) from None
        length = int(state.pop("metrics_length"))
        if is_first() and self._metrics_length() > length:
            with open(self.path / "metrics.jsonl", "r+b") as file:
                file.truncate(length)
        return state

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Append one line a value to metrics.jsonl: stage, step, name, value, and the time in seconds since 1970.

        Where the package tensorboard is installed, the same goes to the folder tensorboard/<stage>.
        """
        if not is_first():
            return
        now = round(time.time(), 3)
        lines = [
            json.dumps({"stage": stage, "step": step, "name": name, "value": _finite(float(value)), "seconds": now}) + "\n"
            for name, value in values.items()
        ]
        try:
            with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write("".join(lines))
        except OSError as error:
            raise UserError(f"cannot write {self.path / 'metrics.jsonl'}: {error.strerror}; go on with --resume") from None

        self._show_on_board(stage, step, values)

    def _show_on_board(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            return
        if stage not in self._boards:
            from torch.utils.tensorboard import SummaryWriter

            # purge_step: what a killed process wrote beyond its last checkpoint is hidden
            self._boards[stage] = SummaryWriter(str(self.path / "tensorboard" / stage), purge_step=step)
        for name, value in values.items():
            self._boards[stage].add_scalar(name, value, step)

    def metrics(self, stage: str | None = None) -> list[dict[str, Any]]:
        """All measurements so far (of one stage), in order."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # the last line of a killed process may be half of one
                rows.append(json.loads(line))
        return [row for row in rows if stage in (None, row["stage"])]

    def _metrics_length(self) -> int:
        path = self.path / "metrics.jsonl"
        return path.stat().st_size if path.exists() else 0


def environment(seed: int, device: str, command: str) -> dict[str, Any]:
    """What a repetition needs to know: versions, machine, processes, threads, device, seed, git revision, the command."""
    packages = ("segnas", "torch", "numpy", "lightning", "kornia", "pillow", "onnx", "onnxruntime", "pydantic", "torchmetrics")
    versions = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "python": platform.python_version(),
        "packages": versions,
        "platform": platform.platform(),
        "processor": processor(),
        "device": device,
        "processes": world(),
        "threads": torch.get_num_threads(),
        "seed": seed,
        "git_revision": _git_revision(),
        "command": command,
    }


def first_difference(stored: Any, given: Any, key: str = "", apart_from: Sequence[str] = ()) -> str | None:
    """`key=stored, not given` for the first leaf in which two nested values differ, or None; keys in `apart_from` may."""
    if key in apart_from:
        return None
    if isinstance(stored, dict) and isinstance(given, dict):
        for name in [*stored, *(name for name in given if name not in stored)]:
            inner = f"{key}.{name}" if key else str(name)
            difference = first_difference(stored.get(name), given.get(name), inner, apart_from)
            if difference:
                return difference
        return None
    return None if stored == given else f"{key}={stored}, not {given}"


@contextlib.contextmanager
def working_on(run: Run) -> Iterator[Run]:
    """Hold the run's lock inside the block."""
    run.lock()
    try:
        yield run
    finally:
        run.release()


def _require_writable(path: Path) -> None:
    """Raise UserError unless the folder, or the nearest one above it that exists, is a folder and can be written in."""
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise UserError(f"cannot make the folder {path}: {existing} is a file; choose another --out")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"cannot write in {existing}: permission denied; choose another --out")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _git_revision() -> str | None:
    """The commit of the checkout that segnas runs from; None for an installed package, wherever it lies."""
    home = Path(__file__).resolve().parents[2]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        ask = ["git", "-C", str(home), "rev-parse", "--show-toplevel", "HEAD"]
        top, revision = subprocess.run(ask, capture_output=True, text=True, timeout=5, check=True).stdout.split("\n")[:2]
        return revision if Path(top).resolve() == home else None
    return None
