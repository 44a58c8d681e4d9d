"""Cityscapes (Cordts et al., CVPR 2016), the finely annotated images, as they are published.

    leftImg8bit/{train,val,test}/CITY/NAME_leftImg8bit.png
    gtFine/{train,val,test}/CITY/NAME_gtFine_labelIds.png          the 34 ids of the annotation
    gtFine/{train,val,test}/CITY/NAME_gtFine_labelTrainIds.png     0 .. 18 and 255: taken when there are no labelIds

Of the 34 ids, 19 are trained and scored, the others ignored (`labels.py` of the official scripts). Polygons, colours and
instances beside them are not read. The published labels of test are dummies.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segnas.data.base import IGNORE, Classes
from segnas.data.layouts import Layout, Pair
from segnas.data.masks import MaskTable
from segnas.data.paired import PairedFiles, PublishedMasks, matched, named_files, require_folders
from segnas.errors import UserError

TRAINED = (  # id, name, colour in the order of the train ids
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
IDS = {**dict.fromkeys((*range(34), 255), IGNORE), **{number: train for train, (number, _, _) in enumerate(TRAINED)}}
TRAIN_IDS = {**{train: train for train in range(len(TRAINED))}, 255: IGNORE}  # -1, the licence plate, is 255 in 8 bits
TITLE = "Cityscapes"
IMAGES, LABELS = "leftImg8bit", "gtFine"
IMAGE, LABEL_IDS, LABEL_TRAIN_IDS = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"
SHAPE = f"{IMAGES}/{{train,val}}/CITY/*{IMAGE} and {LABELS}/{{train,val}}/CITY/*{LABEL_IDS}"
LOOKED_AT = 16  # labels of test that are looked at for a pixel that counts


class Cityscapes(PairedFiles):
    """The set in the folder that holds leftImg8bit and gtFine.

    The splits are the folders, "test" only where its labels have a pixel that counts; the seed draws nothing. problems: a line
    for every image without label and label without image. Raises UserError for an incomplete set.
    """

    title = TITLE
    shape = SHAPE

    def __init__(self, path: Path, seed: int = 0) -> None:
        require_folders(path, (IMAGES, LABELS), TITLE, SHAPE)
        by_id = any(True for _ in (path / LABELS).rglob(f"*{LABEL_IDS}"))
        ending = LABEL_IDS if by_id else LABEL_TRAIN_IDS
        masks = PublishedMasks(TITLE, MaskTable(IDS if by_id else TRAIN_IDS, {}))
        classes = Classes(
            names=tuple(name for _, name, _ in TRAINED),
            colors=tuple(color for _, _, color in TRAINED),
            source_ids=tuple(number for number, _, _ in TRAINED) if by_id else (),
            ignore_source_id=0 if by_id else None,
        )
        super().__init__(path, TITLE, _layout(path, ending, masks), classes, masks)

    @staticmethod
    def recognises(path: Path) -> Path | None:
        """`path` itself, when it holds leftImg8bit or gtFine."""
        return path if (path / IMAGES).is_dir() or (path / LABELS).is_dir() else None


def _layout(root: Path, ending: str, masks: PublishedMasks) -> Layout:
    splits: dict[str, tuple[Pair, ...]] = {}
    notes: tuple[str, ...] = (f"classes from *{ending}",)
    problems: tuple[str, ...] = ()
    for split in ("train", "val", "test"):
        images, labels = root / IMAGES / split, root / LABELS / split
        if not images.is_dir():
            notes += (f"the split '{split}' is left out: {images} is not there",) if labels.is_dir() else ()
            continue
        pairs, wrong = matched(named_files(images, IMAGE), named_files(labels, ending), f"label *{ending} in {labels}")
        if split == "test" and not _counts(pairs, masks):
            notes += ("the split 'test' is left out: its labels are missing, or dummies without a pixel that counts",)
            continue
        if not pairs:
            raise UserError(_no_pairs(images, labels, ending))
        splits[split], problems = pairs, problems + wrong
    if not splits:
        raise UserError(f"{root / IMAGES} has neither train/ nor val/; expected {SHAPE}")
    return Layout(TITLE, "folders", splits, notes, problems)


def _counts(pairs: Sequence[Pair], masks: PublishedMasks) -> bool:
    """Whether one of some labels has a pixel that counts, or cannot be read (which the check will say)."""
    for pair in pairs[:: max(1, len(pairs) // LOOKED_AT)]:
        try:
            if (masks.read(pair.mask) != IGNORE).any():
                return True
        except UserError:
            return True
    return False


def _no_pairs(images: Path, labels: Path, ending: str) -> str:
    if not any(True for _ in images.rglob(f"*{IMAGE}")):
        return f"{images} holds no images CITY/*{IMAGE}"
    return f"no image in {images} has its label *{ending} in {labels}; unpack the gtFine download beside {IMAGES}"
