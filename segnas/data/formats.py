"""Which reader a path is for: found by the layout on disk, or named before it (`voc:DIR`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

from segnas.data.ade20k import Ade20k
from segnas.data.base import Reader
from segnas.data.cifar10 import Cifar10
from segnas.data.cityscapes import Cityscapes
from segnas.data.folder import Folder
from segnas.data.layouts import refuse_no_folder
from segnas.data.voc import Voc
from segnas.errors import UserError, did_you_mean

PUBLISHED: Mapping[str, type[Reader]] = {"voc": Voc, "cityscapes": Cityscapes, "ade20k": Ade20k, "cifar10": Cifar10}
FORMATS: Mapping[str, type[Reader]] = {**PUBLISHED, "folder": Folder}
PREFIX = re.compile(r"([a-z][a-z0-9_-]+):")
ABOVE = 4  # folders above a path that are looked at for the set of which it is a part
BESIDE = 100  # folders in a path that are looked at for sets


def find_reader(data: str) -> tuple[type[Reader], Path]:
    """The reader of what `data` names, and the folder to read; raises UserError when none was named and none is found."""
    name, path = split_prefix(data)
    path = at_home(path)
    try:
        if name:
            return FORMATS[name], _forced(name, path)
        return _detected(path)
    except OSError as error:
        raise UserError(f"cannot look into {error.filename or path}: {error.strerror}") from None


def at_home(path: Path) -> Path:
    """The path with `~` and `~name` replaced; raises UserError for a user who has no home here."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise UserError(f"there is no home folder for {path.parts[0]}; write the path in full") from None


def split_prefix(data: str) -> tuple[str, Path]:
    """(format, path), format "" where none is named. A folder whose name looks like one is given as `./voc:x`."""
    match = PREFIX.match(data)
    if match is None or (match[1] not in FORMATS and Path(data).exists()):
        return "", Path(data)
    name, path = match[1], data[match.end() :]
    if name not in FORMATS:
        raise UserError(f"unknown data format '{name}' in '{data}'{did_you_mean(name, FORMATS)}")
    if not path:
        raise UserError(f"'{data}' names no folder; write {name}:DIR")
    return name, Path(path)


def _forced(name: str, path: Path) -> Path:
    reader = FORMATS[name]
    refuse_no_folder(path, reader.shape)
    root = reader.recognises(path)
    if root is None and (meant := _part_of(path, {name: reader}) or _holds(path, {name: reader})):
        raise UserError(meant)
    return root or path


def _detected(path: Path) -> tuple[type[Reader], Path]:
    """A set that lies in `path` itself comes before a folder of images and masks, and that before sets in folders below."""
    found = {name: root for name, reader in PUBLISHED.items() if (root := reader.recognises(path)) is not None}
    if Folder.recognises(path) is not None and path not in found.values():
        return Folder, path
    if len(found) > 1:
        choices = ", ".join(f"{name}:{path} ({FORMATS[name].title})" for name in found)
        raise UserError(f"{path} holds several data sets; say which: {choices}")
    for name, root in found.items():
        return FORMATS[name], root
    if path.exists() and (meant := _part_of(path, PUBLISHED) or _holds(path, FORMATS)):
        raise UserError(meant)
    return Folder, path


def _part_of(path: Path, formats: Mapping[str, type[Reader]]) -> str:
    """That `path` lies within a published set, with the folder that was probably meant; "" when it does not."""
    for above in path.resolve().parents[:ABOVE]:
        for reader in formats.values():
            if reader.recognises(above) == above:
                return f"{path} is a part of a set in the layout of {reader.title}; did you mean {above}?"
    return ""


def _holds(path: Path, formats: Mapping[str, type[Reader]]) -> str:
    """That sets lie in the folders of `path`, a published one among them; "" when there are none."""
    below = islice((child for child in sorted(_visible(path)) if child.is_dir()), BESIDE)
    found = ((child, next((one for one in formats.values() if one.recognises(child)), None)) for child in below)
    sets = [(child, reader) for child, reader in found if reader is not None]
    if not any(reader is not Folder for _, reader in sets):
        return ""
    if len(sets) == 1:
        return f"{path} is no data set; did you mean {sets[0][0]} ({sets[0][1].title})?"
    shown = ", ".join(f"{child.name} ({reader.title})" for child, reader in sets[:6])
    return f"{path} holds several data sets, name one of them: {shown}{f' and {len(sets) - 6} more' * (len(sets) > 6)}"


def _visible(path: Path) -> Iterable[Path]:
    return (child for child in path.iterdir() if not child.name.startswith(".")) if path.is_dir() else ()
