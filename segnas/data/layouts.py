"""Where images and masks lie in a folder, which belong together, and which split each pair is in.

    images/{train,val,test}/*  labels/{train,val,test}/*       split folders inside
    {train,val,test}/images/*  {train,val,test}/labels/*       split folders outside
    train/* train_labels/*  val/* val_labels/*                 (also train_masks, trainannot)
    images/* labels/* train.txt val.txt test.txt               flat, with lists of names
    images/* labels/*                                          flat: a seeded split

`masks` and `annotations` serve as well as `labels`. Folders may be nested deeper; a sample's name is its path below its folder,
without the suffix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from segnas.data.images import IMAGE_SUFFIXES
from segnas.data.masks import MASK_SUFFIXES
from segnas.errors import UserError
from segnas.randomness import numpy_generator

IMAGE_FOLDERS = ("images", "image", "imgs", "img")
LABEL_FOLDERS = ("labels", "label", "masks", "mask", "annotations", "annotation")
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
BESIDE = ("{}_labels", "{}_masks", "{}annot", "{}_annot")
LABEL_ENDINGS = ("_mask", "_masks", "_label", "_labels", "_gt", "_l", "_seg", "_segmentation", "_annotation", "-mask", "-label")
HELD_OUT = 0.15  # share of val, and of test, in a split that is drawn
SHAPE = "images/{train,val,test}/ and labels/{train,val,test}/, or images/ and masks/"


@dataclass(frozen=True)
class Pair:
    """An image and its mask. name: how the sample is called within its split."""

    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class Layout:
    """The pairs of a folder by split ("train", "val" and perhaps "test").

    kind: the arrangement met; rule: how the split came about; notes: what a user should know; problems: one line for every
    image without mask or mask without image.
    """

    kind: str
    rule: str
    splits: Mapping[str, tuple[Pair, ...]]
    notes: tuple[str, ...]
    problems: tuple[str, ...]


def find_layout(root: Path, seed: int) -> Layout:
    """The layout of a folder; raises UserError when it is missing, empty, or holds no pairs.

    A split that is drawn depends on the names of the samples and on the seed alone.
    """
    refuse_no_folder(root, SHAPE)
    kind, folders = _split_folders(root)
    if not folders:
        images, labels = _folder(root, IMAGE_FOLDERS), _folder(root, LABEL_FOLDERS)
        if images is None or labels is None:
            raise UserError(_what_is_missing(root, images, labels))
        pairs, problems = pairs_of(images, labels)
        lists = _lists(root)
        if not lists:
            return _draw_held_out({"train": pairs}, "flat folders", "", (), problems, seed)
        splits, problems = _listed(pairs, lists)
        unlisted = len(pairs) - sum(len(listed) for listed in splits.values())
        notes: tuple[str, ...] = (f"{unlisted} images are in no list and left out",) if unlisted else ()
        rule = f"lists {', '.join(path.name for path in lists.values())}"
        return _draw_held_out(splits, "flat folders", rule, notes, problems, seed)
    splits, problems, notes = {}, (), ()
    for split, (images, labels) in folders.items():
        if labels is None or (split != "train" and not _files(images, IMAGE_SUFFIXES, "images")):
            notes += (f"the split '{split}' is left out: {images} has no {'images' if labels else 'masks'}",)
            continue
        pairs, wrong = pairs_of(images, labels)
        splits[split], problems = pairs, problems + wrong
    if "train" not in splits:
        raise UserError(f"{root} has no training images with masks (splits found: {', '.join(folders)}); expected {SHAPE}")
    return _draw_held_out(splits, kind, "folders", notes, problems, seed)


def has_layout(root: Path) -> bool:
    """Whether a folder is arranged as above, complete or not."""
    if not root.is_dir():
        return False
    return bool(_split_folders(root)[1]) or None not in (_folder(root, IMAGE_FOLDERS), _folder(root, LABEL_FOLDERS))


def _draw_held_out(
    splits: Mapping[str, tuple[Pair, ...]], kind: str, rule: str, notes: tuple[str, ...], problems: tuple[str, ...], seed: int
) -> Layout:
    """The layout, with a val split drawn from train where there is none, and a test split too where nothing is split.

    rule: how the splits came about; "" when nothing is split.
    """
    if "val" in splits:
        return Layout(kind, rule, splits, notes, problems)
    train = splits["train"]
    if len(train) < 2:
        raise UserError(f"a training and a validation split need at least 2 images with masks, found {len(train)}")
    order = numpy_generator(seed, "split").permutation(len(train)).tolist()
    held_out = int(HELD_OUT * len(train))
    val, order = order[: max(1, held_out)], order[max(1, held_out) :]
    test, order = ([], order) if rule else (order[:held_out], order[held_out:])
    drawn = {"train": order, "val": val, "test": test}
    result = {split: tuple(train[place] for place in sorted(places)) for split, places in drawn.items() if places}
    result |= {split: pairs for split, pairs in splits.items() if split != "train"}
    counts = ", ".join(f"{split} {len(pairs)}" for split, pairs in result.items())
    note = f"there was no {'validation split' if rule else 'split'}: drawn with seed {seed} ({counts})"
    made = f"{rule}; val drawn from train with seed {seed}" if rule else f"drawn with seed {seed}"
    return Layout(kind, made, result, (*notes, note), problems)


def _split_folders(root: Path) -> tuple[str, dict[str, tuple[Path, Path | None]]]:
    """The kind of arrangement and split -> (folder of images, folder of masks or None), empty when there are no split folders."""
    images, labels = _folder(root, IMAGE_FOLDERS), _folder(root, LABEL_FOLDERS)
    found: dict[str, tuple[Path, Path | None]] = {}
    if images is not None:
        for split, names in SPLITS.items():
            inside = _folder(images, names)
            if inside is not None:
                found[split] = (inside, None if labels is None else _folder(labels, names))
        return "split folders inside", found
    for split, names in SPLITS.items():
        outside = _folder(root, names)
        if outside is None:
            continue
        inner = _folder(outside, IMAGE_FOLDERS)
        beside = _folder(root, tuple(pattern.format(name) for name in names for pattern in BESIDE))
        if inner is not None:
            found[split] = (inner, _folder(outside, LABEL_FOLDERS))
        elif beside is not None:
            found[split] = (outside, beside)
    return "split folders outside", found


def pairs_of(images: Path, labels: Path) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """The pairs of two folders in the order of their names, and a line for each file left over.

    A mask belongs to the image of the same name, or of the same name and an ending such as `_mask`. Raises UserError when there
    are no images, or no pairs at all.
    """
    image_files, mask_files = _files(images, IMAGE_SUFFIXES, "images"), _files(labels, MASK_SUFFIXES, "masks")
    by_lower = {name.lower(): name for name in mask_files}
    pairs, problems, used = [], [], set()
    for name, image in image_files.items():
        candidates = [name, *(by_lower.get(name.lower() + ending) for ending in LABEL_ENDINGS)]
        mask = next((candidate for candidate in candidates if candidate in mask_files), None)
        if mask is None:
            problems.append(f"{image} has no mask in {labels}")
        else:
            used.add(mask)
            pairs.append(Pair(name, image, mask_files[mask]))
    if not pairs:
        raise UserError(_no_pairs(images, labels, image_files, mask_files))
    for name, mask_file in mask_files.items():
        # a second mask of an image that has one (a coloured copy, say) is nobody's loss
        if name not in used and not any(name.startswith(image) for image in image_files):
            problems.append(f"{mask_file} has no image in {images}")
    return tuple(pairs), tuple(problems)


def _files(folder: Path, suffixes: tuple[str, ...], what: str) -> dict[str, Path]:
    """name -> file for the files of these types below a folder, by name; hidden files are passed over."""
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.suffix.lower() not in suffixes or any(part.startswith(".") for part in relative.parts) or not path.is_file():
            continue
        name = relative.with_suffix("").as_posix()
        if name in files:
            raise UserError(f"two {what} have one name: {files[name]} and {path}; remove or rename one of them")
        files[name] = path
    return dict(sorted(files.items()))


def _no_pairs(images: Path, labels: Path, image_files: Mapping[str, Path], mask_files: Mapping[str, Path]) -> str:
    if not image_files:
        return f"{images} holds no images ({', '.join(suffix[1:] for suffix in IMAGE_SUFFIXES)})"
    if not mask_files:
        lossy = any(path.suffix.lower() in (".jpg", ".jpeg") for path in labels.rglob("*"))
        hint = "; JPEG changes the ids of masks, store them as PNG" if lossy else f" ({', '.join(s[1:] for s in MASK_SUFFIXES)})"
        return f"{labels} holds no masks{hint}"
    image, mask = next(iter(image_files.values())), next(iter(mask_files.values()))
    return (
        f"no image in {images} has a mask of the same name in {labels} "
        f"(the first are {image.name} and {mask.name}); name the masks like the images"
    )


def _lists(root: Path) -> dict[str, Path]:
    """split -> its list of names (train.txt, ...), when there is one for train."""
    lists = {}
    for split, names in SPLITS.items():
        found = [root / f"{name}.txt" for name in names if (root / f"{name}.txt").is_file()]
        if found:
            lists[split] = found[0]
    return lists if "train" in lists else {}


def _listed(pairs: Iterable[Pair], lists: Mapping[str, Path]) -> tuple[dict[str, tuple[Pair, ...]], tuple[str, ...]]:
    """The pairs that the lists name, in their order, and a line for each name that is none or stands in the lists twice.

    A name may have a folder before it and a suffix behind it.
    """
    by_name = {pair.name: pair for pair in pairs}
    by_stem = {Path(pair.name).name: pair for pair in by_name.values()}
    splits: dict[str, tuple[Pair, ...]] = {}
    taken: dict[str, str] = {}
    problems = []
    for split, path in lists.items():
        chosen = []
        for number, line in read_list(path):
            bare = line.rsplit(".", 1)[0] if line.lower().endswith(IMAGE_SUFFIXES) else line
            pair = by_name.get(bare) or by_stem.get(Path(bare).name)
            if pair is None:
                problems.append(f"{path}, line {number}: there is no image with a mask named '{line}'")
            elif pair.name in taken:
                problems.append(f"{path}, line {number}: '{line}' is in {taken[pair.name]} already")
            else:
                taken[pair.name] = path.name
                chosen.append(pair)
        if chosen:
            splits[split] = tuple(chosen)
    if "train" not in splits:
        raise UserError(f"{lists['train']} names no image that has a mask")
    return splits, tuple(problems)


def read_list(path: Path) -> list[tuple[int, str]]:
    """(line number, name) for each name in a list; raises UserError when it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"cannot read {path}: a list is UTF-8 text with one name a line") from None
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def _folder(parent: Path, names: Iterable[str]) -> Path | None:
    """The first sub-folder with one of these names, in any case."""
    there = {path.name.lower(): path for path in sorted(parent.iterdir(), reverse=True) if path.is_dir()}
    return next((there[name] for name in names if name in there), None)


def refuse_no_folder(root: Path, shape: str) -> None:
    """Raise UserError for what is no folder or holds nothing; `shape` says what it should hold."""
    if not root.exists():
        raise UserError(f"there is no folder {root}; give a folder with {shape}, or 'demo'")
    if not root.is_dir():
        raise UserError(f"{root} is a file; give the folder with {shape}")
    if not any(path for path in root.iterdir() if not path.name.startswith(".")):
        raise UserError(f"the folder {root} is empty; expected {shape}")


def _what_is_missing(root: Path, images: Path | None, labels: Path | None) -> str:
    """Why a folder is no data set, with the folder that was probably meant."""
    for other in (root.resolve().parent, *sorted(path for path in root.iterdir() if path.is_dir())):
        if _folder(other, IMAGE_FOLDERS) and _folder(other, LABEL_FOLDERS):
            return f"{root} does not hold images and masks side by side; did you mean {other}?"
    if images is not None:
        return f"{root} has images ({images.name}/) but no masks: put them into {root / 'masks'} or {root / 'labels'}"
    if labels is not None:
        return f"{root} has masks ({labels.name}/) but no images: put them into {root / 'images'}"
    return f"{root} holds neither images/ nor masks/; expected {SHAPE}"
