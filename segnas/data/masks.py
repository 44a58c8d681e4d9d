"""Mask files: which class each pixel has, whether they store ids, palette indices, colours, or black and white."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segnas.data.images import SIXTEEN_BITS, opened
from segnas.errors import UserError

MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
INDEX_MODES = ("L", "P", *SIXTEEN_BITS)
THREADS = 4


class UnknownIds(UserError):
    """A mask holds ids (or colours) that are no class. ids: as written in the file; allowed: the same for the classes."""

    def __init__(self, file: Path, ids: tuple[str, ...], allowed: tuple[str, ...], what: str) -> None:
        shown = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
        known = ", ".join(allowed[:12]) + (f", ... ({len(allowed)} in all)" if len(allowed) > 12 else "")
        super().__init__(f"{file} holds the unknown {what} {shown}; allowed: {known}; mend the mask or classes.json")
        self.file = file
        self.ids = ids
        self.allowed = allowed


@dataclass(frozen=True)
class MaskTable:
    """How the values of mask files become train ids.

    ids: id in the files -> train id or IGNORE; colors: packed colour (`pack`) -> train id or IGNORE, for masks in three
    channels (empty: these are taken when they are grey, as ids, and refused when they are in colour).
    """

    ids: dict[int, int]
    colors: dict[int, int]
    _id_table: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        table = np.full(65536, -1, dtype=np.int16)
        for source, train in self.ids.items():
            table[source] = train
        object.__setattr__(self, "_id_table", table)

    def read(self, path: Path) -> np.ndarray:
        """(H, W) uint8 train ids and IGNORE; raises UserError when the file is damaged, UnknownIds when it holds others."""
        values = read_mask(path)
        if values.ndim == 3 and self.colors:
            return self._from_colors(values, path)
        if values.ndim == 3:
            if (values != values[..., :1]).any():
                raise UserError(
                    f"{path} is a mask in colour, but there is no table of colours; give each class one in classes.json"
                )
            values = values[..., 0]
        label = self._id_table[values]
        if label.min() < 0:
            unknown = tuple(str(value) for value in np.unique(values[label < 0]).tolist())
            raise UnknownIds(path, unknown, tuple(str(value) for value in sorted(self.ids)), "id")
        return label.astype(np.uint8)

    def _from_colors(self, values: np.ndarray, path: Path) -> np.ndarray:
        keys = np.asarray(sorted(self.colors))
        train = np.asarray([self.colors[key] for key in keys.tolist()], dtype=np.uint8)
        packed = pack(values)
        place = np.minimum(np.searchsorted(keys, packed), len(keys) - 1)
        wrong = keys[place] != packed
        if wrong.any():
            unknown = tuple(_color_text(key) for key in np.unique(packed[wrong]).tolist())
            raise UnknownIds(path, unknown, tuple(_color_text(key) for key in keys.tolist()), "colour")
        return train[place]


@dataclass(frozen=True)
class Found:
    """What masks hold: ids, packed colours (of the masks in colour), and the palette of the first mask that has one."""

    ids: frozenset[int] = frozenset()
    colors: frozenset[int] = frozenset()
    palette: tuple[tuple[int, int, int], ...] = ()

    def all_ids(self) -> frozenset[int] | None:
        """The ids, with those stored as grey in three channels; None when there are real colours."""
        colors = [unpack(key) for key in self.colors]
        if any(len({*color}) > 1 for color in colors):
            return None
        return self.ids | {red for red, _, _ in colors}


def read_mask(path: Path) -> np.ndarray:
    """The values as stored: (H, W) ids (1, 8 or 16 bits, palette indices), or (H, W, 3) uint8 for a mask in colour."""
    with opened(path, "mask") as image:
        if image.mode == "1":
            return np.asarray(image).astype(np.uint8)
        if image.mode in INDEX_MODES:
            values = np.asarray(image)
            if values.dtype != np.uint8 and (values.min() < 0 or values.max() > 65535):
                raise UserError(f"{path} holds ids outside 0..65535")
            return values
        if image.mode in ("LA", "La"):
            return np.asarray(image)[..., 0]
        if image.mode in ("RGB", "RGBA", "PA"):
            return np.asarray(image.convert("RGB"))
        raise UserError(f"{path} is no mask: it stores '{image.mode}' pixels; use an 8-bit PNG with one id a pixel")


def find_values(paths: Iterable[Path]) -> Found:
    """All the values in these masks. A file that cannot be read adds nothing here: reading it for use says what is wrong."""
    ids: set[int] = set()
    colors: set[int] = set()
    stored: tuple[tuple[int, int, int], ...] = ()
    with ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(_values, paths):
            ids |= found.ids
            colors |= found.colors
            stored = stored or found.palette
    return Found(frozenset(ids), frozenset(colors), stored)


def pack(colors: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 RGB -> (...) int64, red in the highest bits."""
    wide = colors.astype(np.int64)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def unpack(key: int) -> tuple[int, int, int]:
    """The colour of a packed number."""
    return key >> 16, (key >> 8) & 255, key & 255


def _values(path: Path) -> Found:
    try:
        values = read_mask(path)
    except UserError:
        return Found()
    if values.ndim == 3:
        return Found(colors=frozenset(np.unique(pack(values)).tolist()))
    ids = frozenset(np.flatnonzero(np.bincount(values.ravel())).tolist())
    with opened(path, "mask") as image:
        stored = (image.getpalette("RGB") or []) if image.mode == "P" else []
    return Found(ids, palette=tuple(zip(stored[::3], stored[1::3], stored[2::3], strict=True)))


def _color_text(key: int) -> str:
    return f"({', '.join(str(part) for part in unpack(key))})"
