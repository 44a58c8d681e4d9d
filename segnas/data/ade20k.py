"""ADE20K, the scene parsing benchmark of 150 classes (Zhou et al., CVPR 2017), as it is published.

ADEChallengeData2016/images/{training,validation}/NAME.jpg
ADEChallengeData2016/annotations/{training,validation}/NAME.png   1 .. 150; 0, what is none of them, is ignored
ADEChallengeData2016/objectInfo150.txt                            their names (a table in here takes its place)
"""

from __future__ import annotations

import csv
from pathlib import Path

from segnas.data.base import IGNORE, Classes, palette
from segnas.data.classes import CLASS_FILE
from segnas.data.layouts import Layout, Pair, pairs_of
from segnas.data.masks import MaskTable
from segnas.data.paired import PairedFiles, PublishedMasks, require_folders
from segnas.errors import UserError

LISTED = (
    "wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, "
    "table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, "
    "armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest "
    "of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool "
    "table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, "
    "bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, "
    "towel, light, truck, tower, chandelier, awning, streetlight, booth, television, airplane, dirt track, apparel, "
    "pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, "
    "canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, "
    "ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, "
    "hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, "
    "radiator, glass, clock, flag"
)
NAMES = tuple(LISTED.split(", "))
TITLE = "ADE20K"
IMAGES, MASKS = "images", "annotations"
FOLDER, NAME_FILE = "ADEChallengeData2016", "objectInfo150.txt"
SHAPE = f"{FOLDER}/ with {IMAGES}/{{training,validation}}/ and {MASKS}/{{training,validation}}/"
SPLITS = {"train": "training", "val": "validation"}


class Ade20k(PairedFiles):
    """The set in the folder ADEChallengeData2016, or in the one that holds it.

    The splits are the folders; the seed draws nothing. problems: a line for every image without mask and mask without image.
    Raises UserError for an incomplete set.
    """

    title = TITLE
    shape = SHAPE

    def __init__(self, path: Path, seed: int = 0) -> None:
        root = self.recognises(path) or path
        require_folders(root, (IMAGES, MASKS), TITLE, SHAPE)
        named = (root / NAME_FILE).is_file()
        classes = Classes(
            names=read_names(root / NAME_FILE) if named else NAMES,
            colors=palette(len(NAMES)),
            source_ids=tuple(range(1, len(NAMES) + 1)),
            ignore_source_id=0,
        )
        ids = {0: IGNORE, **{number: train for train, number in enumerate(classes.source_ids)}}
        note = f"classes from {NAME_FILE}" if named else f"classes from the table of the 150 names ({NAME_FILE} is not there)"
        super().__init__(root, TITLE, _layout(root, note), classes, PublishedMasks(TITLE, MaskTable(ids, {})))

    @staticmethod
    def recognises(path: Path) -> Path | None:
        """The folder ADEChallengeData2016 that `path` is or holds; under another name, one with its class names or file names.

        One with a classes.json is left to the reader of folders.
        """
        if (path / FOLDER).is_dir():
            return path / FOLDER
        if not (path / IMAGES).is_dir() or not (path / MASKS).is_dir() or (path / CLASS_FILE).exists():
            return None
        files = (file.name for split in SPLITS.values() for file in (path / MASKS / split).glob("ADE_*.png"))
        return path if path.name == FOLDER or (path / NAME_FILE).is_file() or next(files, None) else None


def read_names(path: Path) -> tuple[str, ...]:
    """The names in objectInfo150.txt: tab-separated, in the last column, of which the first of several counts."""
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()[1:], delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError):
        raise UserError(f"cannot read {path}: it should be UTF-8 text") from None
    names = tuple(row[-1].split(",")[0].strip() for row in rows if row)
    numbers = [row[0].strip() for row in rows if row]
    if numbers != [str(number) for number in range(1, len(NAMES) + 1)] or not all(names) or len({*names}) < len(names):
        raise UserError(f"{path} should list the ids 1 to {len(NAMES)} in their order, each with a name of its own")
    return names


def _layout(root: Path, note: str) -> Layout:
    splits: dict[str, tuple[Pair, ...]] = {}
    problems: tuple[str, ...] = ()
    for split, folder in SPLITS.items():
        images, masks = root / IMAGES / folder, root / MASKS / folder
        if not images.is_dir() and not masks.is_dir():
            continue
        require_folders(root, (f"{IMAGES}/{folder}", f"{MASKS}/{folder}"), TITLE, SHAPE)
        splits[split], wrong = pairs_of(images, masks)
        problems += wrong
    if not splits:
        raise UserError(f"{root / IMAGES} has neither training/ nor validation/; expected {SHAPE}")
    return Layout(TITLE, "folders", splits, (note,), problems)
