"""Tensors that are computed once and read by every worker of a search: features of an encoder that does not change.

    features = build_or_load(folder, lambda: {"images": ..., "labels": ...})

One file a name, of plain tensors, mapped into memory: processes of one machine share its pages. The first process that asks makes
the tensors, the others wait for it, and the file is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from segnas.errors import UserError


def build_or_load(folder: Path, make: Callable[[], Mapping[str, Tensor]], name: str = "features") -> dict[str, Tensor]:
    """The tensors in folder/<name>.safetensors, on the CPU, not to be changed; when there is no such file, `make` makes them.

    Whoever asks while another process makes them waits; when that one fails or is killed, the next makes them. What depends on
    settings has a `name` of these settings (see `fingerprint`). Raises UserError when the file cannot be read or written.
    """
    target = folder / f"{name}.safetensors"
    if not target.exists():
        with _locked(folder, name):
            if not target.exists():  # nobody was faster
                _write(target, make())
    try:
        return safetensors.torch.load_file(target)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"cannot read {target} ({str(error).splitlines()[0]:.120}); delete it to have it made again") from None


def fingerprint(settings: Any, tensors: Mapping[str, Tensor] | None = None) -> str:
    """12 hex digits of plain values and of tensors, names and bytes: the same for the same, on every machine."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted((tensors or {}).items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


@contextlib.contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock of the file inside the block; the system lets go of it when the process ends, however it does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / f".{name}.lock", "a", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror}") from None
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _write(target: Path, tensors: Mapping[str, Tensor]) -> None:
    partial = target.with_name(target.name + ".partial")
    try:
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
    except (safetensors.SafetensorError, OSError) as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"cannot write {target} ({str(error).splitlines()[0]:.120}); is the disk full?") from None
