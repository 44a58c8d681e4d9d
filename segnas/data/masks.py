"""Mask files: which class each pixel has, whether they store ids, palette indices, colours, or black and white."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segnas.data.base import palette
from segnas.data.images import SIXTEEN_BITS, opened
from segnas.errors import UserError

MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
INDEX_MODES = ("L", "P", *SIXTEEN_BITS)
THREADS = 4
MADE_FOR_IDS = 16  # a palette of as many entries in the order of PASCAL VOC, or a ramp of greys, was made for any ids
Palette = tuple[tuple[int, int, int], ...]
MEND = "mend the mask or classes.json"


class UnknownIds(UserError):
    """A mask holds ids (or colours) that are no class. ids: as written in the file; allowed: the same for the classes."""

    def __init__(self, file: Path, ids: tuple[str, ...], allowed: tuple[str, ...], what: str, advice: str = MEND) -> None:
        shown = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
        known = ", ".join(allowed[:12]) + (f", ... ({len(allowed)} in all)" if len(allowed) > 12 else "")
        super().__init__(f"{file} holds the unknown {what} {shown}; allowed: {known}; {advice}")
        self.file = file
        self.ids = ids
        self.allowed = allowed


@dataclass(frozen=True)
class MaskTable:
    """How the values of mask files become train ids.

    ids: id in the files -> train id or IGNORE; colors: packed colour (`pack`) -> train id or IGNORE, for masks in three
    channels (empty: these are taken when they are grey, as ids, and refused when they are in colour).

    A mask with a palette is read by index, unless its palette gives an index that is used the colour of another class: then
    by colour, if all the colours used are known, and not at all otherwise. Tools that count colours (quantisation, GIMP,
    oxipng) number them anew in every file. Palettes that were made for any ids (`made_for_ids`) prove nothing of the kind.
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
        values, stored = read_mask(path)
        if stored and self.colors:
            train = self._from_palette(values, stored, path)
            if train is not None:
                return train
        if values.ndim == 3 and self.colors:
            return self._from_colors(values, path)
        if values.ndim == 3:
            if (values != values[..., :1]).any():
                raise UserError(
                    f"{path} is a mask in colour, but there is no table of colours; give each class one in classes.json"
                )
            values = values[..., 0]
        return self.from_ids(values, path)

    def from_ids(self, values: np.ndarray, path: Path, advice: str = MEND) -> np.ndarray:
        """(H, W) ids as stored -> uint8 train ids and IGNORE; raises UnknownIds, which says `advice`, for any other id."""
        label = self._id_table[values]
        if label.min() < 0:
            unknown = tuple(str(value) for value in np.unique(values[label < 0]).tolist())
            raise UnknownIds(path, unknown, tuple(str(value) for value in sorted(self.ids)), "id", advice)
        return label.astype(np.uint8)

    def _from_palette(self, values: np.ndarray, stored: Palette, path: Path) -> np.ndarray | None:
        """The labels by the colours of the palette; None when the indices are the ids."""
        shown = _shown(values, stored)
        if all(index in self.ids for index in shown) and made_for_ids(stored):
            return None
        misled = [index for index, key in shown.items() if key in self.colors and self.ids.get(index) != self.colors[key]]
        if not misled:
            return None
        unknown = tuple(_color_text(key) for key in sorted({*shown.values()} - {*self.colors}))
        if unknown:
            advice = (
                f"its index {misled[0]} has the colour of another class, so the indices are no ids either: "
                "list every colour in classes.json, or store grey ids"
            )
            raise UnknownIds(path, unknown, tuple(_color_text(key) for key in sorted(self.colors)), "palette colour", advice)
        table = np.zeros(256, dtype=np.uint8)
        for index, key in shown.items():
            table[index] = self.colors[key]
        return table[values]

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
    """What masks hold.

    ids: of masks that store ids, palette indices among them; colors: packed, of masks in colour; palettes: index -> the
    packed colours that palettes show it in; plain: whether some masks store ids without a palette that says something.
    """

    ids: frozenset[int] = frozenset()
    colors: frozenset[int] = frozenset()
    palettes: Mapping[int, frozenset[int]] = field(default_factory=dict)
    plain: bool = False

    def all_ids(self) -> frozenset[int] | None:
        """The ids, with those stored as grey in three channels; None when there are real colours."""
        colors = [unpack(key) for key in self.colors]
        if any(len({*color}) > 1 for color in colors):
            return None
        return self.ids | {red for red, _, _ in colors}

    def contradiction(self) -> str:
        """An index that palettes show in different colours: `index 1 is (0, 0, 0) here and (9, 9, 9) there`, or nothing."""
        for index, keys in sorted(self.palettes.items()):
            if len(keys) > 1:
                one, other = (_color_text(key) for key in sorted(keys)[:2])
                return f"index {index} is {one} here and {other} there"
        return ""

    def all_colors(self) -> frozenset[int]:
        """The colours, with those of the palettes."""
        return self.colors.union(*self.palettes.values())


def read_mask(path: Path) -> tuple[np.ndarray, Palette]:
    """(values, palette) as stored.

    values: (H, W) ids (1, 8 or 16 bits, palette indices), or (H, W, 3) uint8 for a mask in colour. palette: empty if none.
    """
    with opened(path, "mask") as image:
        if image.mode == "1":
            return np.asarray(image).astype(np.uint8), ()
        if image.mode in INDEX_MODES:
            values = np.asarray(image)
            if values.dtype != np.uint8 and (values.min() < 0 or values.max() > 65535):
                raise UserError(f"{path} holds ids outside 0..65535")
            flat = (image.getpalette("RGB") or []) if image.mode == "P" else []
            return values, tuple(zip(flat[::3], flat[1::3], flat[2::3], strict=True))
        if image.mode in ("LA", "La"):
            return np.asarray(image)[..., 0], ()
        if image.mode in ("RGB", "RGBA", "PA"):
            return np.asarray(image.convert("RGB")), ()
        raise UserError(f"{path} is no mask: it stores '{image.mode}' pixels; use an 8-bit PNG with one id a pixel")


def find_values(paths: Iterable[Path]) -> Found:
    """All the values in these masks. A file that cannot be read adds nothing here: reading it for use says what is wrong."""
    ids: set[int] = set()
    colors: set[int] = set()
    palettes: dict[int, frozenset[int]] = {}
    plain = False
    with ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(_values, paths):
            ids |= found.ids
            colors |= found.colors
            plain |= found.plain
            for index, keys in found.palettes.items():
                palettes[index] = palettes.get(index, frozenset()) | keys
    return Found(frozenset(ids), frozenset(colors), palettes, plain)


def has_palette(path: Path) -> bool:
    """Whether a mask stores palette indices, from its header alone; False for a file that cannot be opened."""
    try:
        with opened(path, "mask") as image:
            return image.mode == "P"
    except UserError:
        return False


def other_colors(values: np.ndarray, stored: Palette, expected: Palette) -> str:
    """An index in use that the palette shows in another colour than `expected` does, in words; "" when there is none.

    A ramp of greys shows nothing: its indices are ids.
    """
    if len(stored) >= MADE_FOR_IDS and _is_ramp(stored):
        return ""
    for index, key in _shown(values, stored).items():
        right = int(pack(np.asarray(expected[index])))
        if key != right:
            shown = "beyond it" if key < 0 else f"{_color_text(key)} instead of {_color_text(right)}"
            return f"index {index} is {shown}"
    return ""


def made_for_ids(stored: Palette) -> bool:
    """Whether a palette is PASCAL VOC's, or the ramp of greys that files without one of their own have: its indices are ids."""
    count = len(stored)
    return count >= MADE_FOR_IDS and (stored == palette(count) or _is_ramp(stored))


def pack(colors: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 RGB -> (...) int64, red in the highest bits."""
    wide = colors.astype(np.int64)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def unpack(key: int) -> tuple[int, int, int]:
    """The colour of a packed number."""
    return key >> 16, (key >> 8) & 255, key & 255


def _values(path: Path) -> Found:
    try:
        values, stored = read_mask(path)
    except UserError:
        return Found()
    if values.ndim == 3:
        return Found(colors=frozenset(np.unique(pack(values)).tolist()))
    ids = frozenset(np.flatnonzero(np.bincount(values.ravel())).tolist())
    shown = _shown(values, stored)
    if not stored or -1 in shown.values() or (len(stored) >= MADE_FOR_IDS and _is_ramp(stored)):
        return Found(ids, plain=True)
    return Found(ids, palettes={index: frozenset({key}) for index, key in shown.items()})


def _shown(values: np.ndarray, stored: Palette) -> dict[int, int]:
    """The indices that are used -> their packed colours, -1 for an index beyond the palette."""
    used = np.flatnonzero(np.bincount(values.ravel())).tolist() if stored else []
    return {index: int(pack(np.asarray(stored[index]))) if index < len(stored) else -1 for index in used}


def _is_ramp(stored: Palette) -> bool:
    return stored == tuple((level, level, level) for level in range(len(stored)))


def _color_text(key: int) -> str:
    if key < 0:
        return "of an index beyond the palette"
    return f"({', '.join(str(part) for part in unpack(key))})"
