"""The files of CIFAR-10 in their two forms: Python batches as published, and JPEG copies in npz files.

The batches are pickles, which can hold instructions to run any code. Here they are read with stand-ins in place of NumPy's own
classes: what a file says is taken down as plain bytes and numbers, and nothing else that it names is looked up.
"""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from segnas.data.images import BROKEN
from segnas.errors import UserError

CLASSES = 10
SIDE = 32
BYTES = 3 * SIDE * SIDE  # an image of a batch: the red plane, the green and the blue, each row by row
BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
ARCHIVES = {"train": "train.npz", "test": "test.npz"}
AGAIN = "take the file of the download again"


class Images(Protocol):
    """The images of one part of the set, training or test, in the order of the files."""

    @property
    def labels(self) -> np.ndarray:
        """(N,) uint8, 0 .. 9."""
        ...

    def image(self, index: int) -> np.ndarray:
        """(32, 32, 3) uint8 RGB, the caller's own; raises UserError that names the file when it is damaged."""
        ...


@dataclass(frozen=True)
class Pixels:
    """Decoded images: (N, 3, 32, 32) uint8."""

    planes: np.ndarray
    labels: np.ndarray

    def image(self, index: int) -> np.ndarray:
        """One image."""
        return np.ascontiguousarray(self.planes[index].transpose(1, 2, 0))


@dataclass(frozen=True)
class Jpegs:
    """Images decoded when asked for: image i is the bytes offsets[i] .. offsets[i + 1] - 1 of `jpeg`."""

    jpeg: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    path: Path

    def image(self, index: int) -> np.ndarray:
        """One image, decoded now."""
        stored = self.jpeg[self.offsets[index] : self.offsets[index + 1]].tobytes()
        try:
            with Image.open(io.BytesIO(stored)) as opened:
                pixels = np.array(opened.convert("RGB"))
        except BROKEN:
            raise UserError(f"cannot read image {index} of {self.path}: it is no image, or damaged; {AGAIN}") from None
        if pixels.shape != (SIDE, SIDE, 3):
            size = f"{pixels.shape[0]}x{pixels.shape[1]}"
            raise UserError(f"image {index} of {self.path} is {size}, but the images of CIFAR-10 are {SIDE}x{SIDE}")
        return pixels


def read_batches(root: Path, part: str) -> Pixels:
    """The images of the batches of "train" or "test"; raises UserError that names the file that is missing or damaged."""
    for name in (file for files in BATCHES.values() for file in files):
        if not (root / name).is_file():
            raise UserError(f"the batch {root / name} is missing; a CIFAR-10 set is data_batch_1 to data_batch_5 and test_batch")
    batches = [_read_batch(root / name) for name in BATCHES[part]]
    planes = np.concatenate([batch.planes for batch in batches]) if len(batches) > 1 else batches[0].planes
    return Pixels(planes, np.concatenate([batch.labels for batch in batches]))


def read_label_names(path: Path) -> tuple[str, ...]:
    """The class names in batches.meta."""
    names = _entry(_unpickled(path), "label_names", path)
    if not isinstance(names, list) or not all(isinstance(name, (bytes, str)) for name in names):
        raise UserError(f"{path} holds no list of names; {AGAIN}")
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names)


def read_archive(root: Path, part: str) -> Jpegs:
    """The images of train.npz or test.npz; raises UserError that names the file when it is missing or damaged."""
    path = root / ARCHIVES[part]
    if not path.is_file():
        raise UserError(f"the file {path} is missing; this form of CIFAR-10 is {' and '.join(ARCHIVES.values())}")
    try:
        with np.load(path) as archive:
            jpeg, offsets, labels = (archive[name] for name in ("jpeg", "offsets", "labels"))
    except KeyError:
        raise UserError(f"{path} should hold the arrays jpeg, offsets and labels, and does not") from None
    except (OSError, ValueError, TypeError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error):
        raise UserError(f"cannot read {path}: it is no npz file, or damaged; {AGAIN}") from None
    whole = all(array.ndim == 1 and array.dtype.kind in "ui" for array in (jpeg, offsets)) and jpeg.dtype == np.uint8
    if not whole or len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != len(jpeg) or (offsets[1:] < offsets[:-1]).any():
        raise UserError(f"{path} is damaged: its offsets do not divide its {jpeg.size} bytes of JPEG; {AGAIN}")
    return Jpegs(jpeg, offsets, _labels(labels, len(offsets) - 1, path), path)


def _read_batch(path: Path) -> Pixels:
    batch = _unpickled(path)
    data, labels = _entry(batch, "data", path), _entry(batch, "labels", path)
    if not isinstance(data, _Array):
        raise UserError(f"{path} is no batch of CIFAR-10: its data is no array; {AGAIN}")
    pixels = data.pixels()
    if pixels is None:
        raise UserError(f"{path} is no batch of CIFAR-10: its data should be N x {BYTES} bytes; {AGAIN}")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise UserError(f"{path} is no batch of CIFAR-10: its labels are no list of numbers; {AGAIN}")
    return Pixels(pixels.reshape(-1, 3, SIDE, SIDE), _labels(labels, len(pixels), path))


def _labels(labels: np.ndarray | Sequence[int], count: int, path: Path) -> np.ndarray:
    """(count,) uint8; raises UserError for another number of labels, or others than 0 .. 9."""
    values = np.asarray(labels)
    if values.shape != (count,):
        raise UserError(f"{path} holds {count} images but {values.size} labels; {AGAIN}")
    if count == 0:
        raise UserError(f"{path} holds no images; {AGAIN}")
    wrong = np.unique(values[(values < 0) | (values >= CLASSES)]) if values.dtype.kind in "ui" else values[:1]
    if len(wrong):
        shown = ", ".join(str(value) for value in wrong[:5].tolist())
        raise UserError(f"{path} holds the unknown label{'s' * (len(wrong) > 1)} {shown}; allowed: 0 to {CLASSES - 1}; {AGAIN}")
    return values.astype(np.uint8)


class _Array:
    """Stands for a pickled NumPy array and keeps what was stored of it."""

    stored: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.stored = state if isinstance(state, tuple) else ()

    def pixels(self) -> np.ndarray | None:
        """(N, BYTES) uint8; None for an array of anything else. State: (version, shape, dtype, column by column, bytes)."""
        if len(self.stored) != 5:
            return None
        _, shape, dtype, by_column, content = self.stored
        if not isinstance(dtype, _DType) or dtype.code not in ("u1", "|u1", "uint8") or by_column not in (False, 0):
            return None
        if not isinstance(content, bytes) or shape != (len(content) // BYTES, BYTES) or len(content) % BYTES:
            return None
        return np.frombuffer(content, dtype=np.uint8).reshape(-1, BYTES)


class _DType:
    """Stands for a pickled NumPy dtype and keeps its code, such as "u1"."""

    def __init__(self, code: Any = "", *rest: Any) -> None:
        self.code = code.decode("ascii", "replace") if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        pass


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(content: Any = b"", dtype: Any = None, shape: Any = (), order: Any = "C", *_: Any) -> _Array:
    """The form of pickle protocol 5."""
    array = _Array()
    array.__setstate__((1, shape, dtype, order != "C", bytes(content) if isinstance(content, (bytes, bytearray)) else content))
    return array


def _encode(text: Any, encoding: Any = "") -> bytes:
    """How Python 3 stores bytes in old protocols: as text, one character a byte."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("text in an unknown encoding")
    return text.encode("latin1")


STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name; nothing is ever imported. Raises UnpicklingError for any other name."""
        if (module, name) not in STAND_INS:
            raise _Foreign(f"{module}.{name}")
        return STAND_INS[module, name]


class _Foreign(pickle.UnpicklingError):
    """A name that no batch of CIFAR-10 holds."""


def _unpickled(path: Path) -> dict[Any, Any]:
    try:
        with path.open("rb") as file:
            values = _Unpickler(file, encoding="bytes").load()
    except _Foreign as error:
        raise UserError(f"{path} asks for {error}, which no batch of CIFAR-10 does; it was not run; {AGAIN}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError):
        raise UserError(f"cannot read {path}: it is no batch of CIFAR-10, or damaged; {AGAIN}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is no batch of CIFAR-10: it holds no dictionary; {AGAIN}")
    return values


def _entry(values: dict[Any, Any], name: str, path: Path) -> Any:
    """The entry of a name that Python 2 stored as bytes and Python 3 as text."""
    for key in (name.encode(), name):
        if key in values:
            return values[key]
    raise UserError(f"{path} is no batch of CIFAR-10: it holds no '{name}'; {AGAIN}")
