"""The classes of a folder: read from its classes.json, or found in its masks.

classes.json is one of

    {"classes": [{"id": 0, "name": "sky", "color": [128, 128, 128]}, ..., {"id": 11, "name": "void", "ignore": true}]}
    {"names": ["sky", "road"], "colors": [[128, 128, 128], [128, 64, 128]], "ignore_index": 255}
    {"classes": ["sky", "road"]}

Ids default to the position in the list, colours to PASCAL VOC's, `ignore_index` to 255 (null: no pixel is ignored).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segnas.data.base import IGNORE, Classes, palette
from segnas.data.masks import Found, MaskTable, pack, unpack
from segnas.errors import UserError

CLASS_FILE = "classes.json"
MOST_CLASSES = 255  # train ids are 8 bits, and 255 is IGNORE
MOST_FOUND = 64  # more values than this, without a class file, are smoothed edges or photographs rather than classes
BINARY = {0, 255}
LEAST_GREY = 64  # smaller ids are no grey levels, whatever gaps they leave: Cityscapes has 0..33, and seldom all of them


@dataclass(frozen=True)
class ClassTable:
    """Named classes and how masks encode them. note: where they come from; bare: only names were written down, no ids."""

    classes: Classes
    masks: MaskTable
    note: str
    bare: bool = False


@dataclass(frozen=True)
class _Entry:
    id: int
    name: str
    color: tuple[int, int, int] | None
    ignore: bool


def read_class_file(path: Path) -> ClassTable:
    """The classes of a classes.json; raises UserError in one line for anything wrong with it."""
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON file: {error}") from None
    if isinstance(values, list):
        values = {"classes": values}
    if not isinstance(values, dict) or not ("classes" in values or "names" in values):
        raise UserError(f'{path} names no classes; write for example {{"classes": ["background", "building"]}}')
    entries = _entries(values, path)
    ignore_index = values.get("ignore_index", IGNORE)
    if ignore_index is not None and not _is_id(ignore_index):
        raise UserError(f"{path}: ignore_index must be a whole number of 0..65535 or null, not {ignore_index!r}")
    if "ignore_index" not in values and any(entry.id == IGNORE for entry in entries):
        ignore_index = None
    bare = "ignore_index" not in values and not any(isinstance(item, dict) and "id" in item for item in values.get("classes", ()))
    return class_table(entries, ignore_index, str(path), f"classes from {CLASS_FILE}", bare)


def found_class_table(found: Found, root: Path) -> ClassTable:
    """The classes that the masks of a set without a class file hold.

    Only 0 and 255, or 0 and 1: background and foreground. Otherwise every id is a class and 255 is ignored. In colour: every
    colour is a class, black first. So it is with masks whose palettes contradict each other, or stand beside masks in colour.
    Raises UserError when there are fewer than 2 or more than MOST_FOUND values.
    """
    ids, contradiction = found.all_ids(), found.contradiction()
    if ids is not None and not contradiction:
        return _found_ids(ids, found.palettes, root)
    if found.plain and contradiction:
        raise UserError(
            f"the palettes of the masks in {root} differ ({contradiction}), and other masks store plain ids; "
            f"store all as grey ids, or write a {CLASS_FILE} with ids and colours"
        )
    if found.plain:
        raise UserError(f"some masks in {root} store ids and some colours; write a {CLASS_FILE} with ids and colours")
    colors = found.all_colors()
    _refuse_many(len(colors), "colours", root)
    ordered = [unpack(key) for key in sorted(colors)]
    entries = [_Entry(place, "color_{:02x}{:02x}{:02x}".format(*color), color, False) for place, color in enumerate(ordered)]
    note = f"{len(entries)} colours found in the masks, each taken as a class; name them in {CLASS_FILE}"
    if contradiction:
        note += f"; the palettes differ ({contradiction}), so the colours count, not the indices"
    table = class_table(entries, None, str(root), note)
    return dataclasses.replace(table, masks=MaskTable({}, table.masks.colors))  # no index is an id


def _found_ids(ids: frozenset[int], shown: Mapping[int, frozenset[int]], root: Path) -> ClassTable:
    if ids in (BINARY, {0, 1}):
        entries = [_Entry(0, "background", None, False), _Entry(max(ids), "foreground", None, False)]
        return class_table(entries, None, str(root), f"masks of 0 and {max(ids)}: background and foreground")
    ordered = sorted(ids - {IGNORE})
    _refuse_many(len(ordered), "ids", root)
    colors: list[tuple[int, int, int] | None] = [unpack(min(shown[value])) if value in shown else None for value in ordered]
    if len({*colors, None}) <= len(colors) or all(color is None or len({*color}) == 1 for color in colors):
        colors = [None] * len(ordered)  # two classes of one colour, or a palette of greys: of no use to look at
    entries = [_Entry(value, f"class_{value}", color, False) for value, color in zip(ordered, colors, strict=True)]
    ignored = f"; {IGNORE} is ignored" if IGNORE in ids else ""
    note = f"{len(entries)} ids found in the masks, each taken as a class{ignored}; name them in {CLASS_FILE}"
    return class_table(entries, IGNORE, str(root), note)


def like_grey_levels(ids: Sequence[int]) -> bool:
    """Whether ids found beside 255 look like grey levels: they reach far, and fewer than half of those below are in use."""
    return max(ids) >= LEAST_GREY and 2 * len(ids) < max(ids)


def class_table(entries: Sequence[_Entry], ignore_index: int | None, where: str, note: str, bare: bool = False) -> ClassTable:
    """Train ids for the entries that are no ignore class, in their order; raises UserError when they contradict each other."""
    kept = [entry for entry in entries if not entry.ignore and entry.id != ignore_index]
    ignored = {entry.id for entry in entries} - {entry.id for entry in kept}
    ignored |= set() if ignore_index is None else {ignore_index}
    _refuse_repeated([entry.id for entry in entries], "id", where)
    _refuse_repeated([entry.name for entry in entries], "name", where)
    _refuse_repeated([entry.color for entry in entries if entry.color is not None], "colour", where)
    if len(kept) < 2:
        raise UserError(f"{where} has {len(kept)} class{'es' * (not kept)}; segmentation needs at least 2 (background counts)")
    if len(kept) > MOST_CLASSES:
        raise UserError(f"{where} has {len(kept)} classes; at most {MOST_CLASSES} can be told apart in 8 bits")
    ids = {entry.id: place for place, entry in enumerate(kept)} | dict.fromkeys(ignored, IGNORE)
    train_ids = {entry.color: ids[entry.id] for entry in entries if entry.color is not None}
    default = palette(len(kept))
    classes = Classes(
        names=tuple(entry.name for entry in kept),
        colors=tuple(entry.color or default[place] for place, entry in enumerate(kept)),
        source_ids=tuple(entry.id for entry in kept),
        ignore_source_id=min(ignored - {IGNORE}, default=None),
    )
    colors = {int(pack(np.asarray(color))): train for color, train in train_ids.items()}
    return ClassTable(classes, MaskTable(ids, colors), note, bare)


def black_and_white(table: ClassTable) -> ClassTable:
    """The same two classes, the second one stored as 255 (for a bare list of two names beside 0/255 masks)."""
    classes = dataclasses.replace(table.classes, source_ids=(0, 255))
    masks = MaskTable({0: 0, 255: 1}, table.masks.colors)
    return ClassTable(classes, masks, f"{table.note}; the masks store 0 and 255")


def _entries(values: Mapping[str, Any], path: Path) -> list[_Entry]:
    listed = values.get("classes", values.get("names"))
    colors = values.get("colors", [None] * len(listed) if isinstance(listed, list) else None)
    if not isinstance(listed, list) or not isinstance(colors, list) or len(colors) != len(listed):
        raise UserError(f"{path}: classes (or names) and colors must be lists of equal length")
    entries = []
    for place, (item, color) in enumerate(zip(listed, colors, strict=True)):
        described = item if isinstance(item, dict) else {"name": item}
        name, number = described.get("name"), described.get("id", place)
        color = described.get("color", color)
        if not isinstance(name, str) or not name:
            raise UserError(f"{path}: class number {place} has no name")
        if not _is_id(number):
            raise UserError(f"{path}: the id of '{name}' must be a whole number of 0..65535, not {number!r}")
        if color is not None and not _is_color(color):
            raise UserError(f"{path}: the color of '{name}' must be three whole numbers of 0..255, not {color!r}")
        ignore = bool(described.get("ignore", False))
        entries.append(_Entry(number, name, None if color is None else tuple(color), ignore))  # type: ignore[arg-type]
    return entries


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 65535


def _is_color(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(part) is int and 0 <= part <= 255 for part in value)


def _refuse_repeated(values: Sequence[Any], what: str, where: str) -> None:
    repeated = {value for value in values if values.count(value) > 1}
    if repeated:
        raise UserError(f"{where}: two classes have the {what} {min(repeated)!r}")


def _refuse_many(count: int, what: str, root: Path) -> None:
    if count > MOST_FOUND:
        raise UserError(
            f"the masks in {root} hold {count} different {what}: list them in {CLASS_FILE} if they are classes, "
            "or store the masks without smoothing or JPEG compression"
        )
