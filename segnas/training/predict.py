"""Prediction for any image files: class ids, a coloured mask and an overlay as PNG files; large images by overlapping tiles."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segnas.data.base import Classes
from segnas.data.images import IMAGE_SUFFIXES, image_size, read_image
from segnas.errors import UserError
from segnas.runs.progress import StageProgress
from segnas.training.device import Device
from segnas.training.inference import class_probabilities
from segnas.training.model import TrainedModel
from segnas.training.panels import colored
from segnas.training.preflight import SMALLEST

KINDS = ("index", "mask", "overlay")


@dataclass(frozen=True)
class Prediction:
    """What was written for one image. shares: class name -> share of the image's pixels, classes that are not there left out."""

    image: Path
    files: tuple[Path, ...]
    shares: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values: image, files (kind -> path) and shares."""
        files = {kind: str(file) for kind, file in zip(KINDS, self.files, strict=True)}
        return {"image": str(self.image), "files": files, "shares": self.shares}


def predict(
    model: TrainedModel,
    paths: str | Path | Sequence[str | Path],
    out: Path,
    device: Device,
    tile: tuple[int, int] | None = None,
    overlap: float = 0.25,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> list[Prediction]:
    """Predict images (a file or folder, or several) and write three PNGs for each into `out`.

    Of a folder all images are taken, those of its subfolders too, hidden ones not: FOLDER/train/a.jpg becomes
    out/train/a_index.png and so on. A file that is named itself is written directly into `out`.
    NAME_index.png: one channel of 8 bits (mode L; 16 bits where an id is above 255), the class ids of the data set's own files.
    NAME_mask.png: RGB, the classes' colours. NAME_overlay.png: RGB, half image, half mask.
    tile: (height, width) in pixels, each at least 33, of the parts in which larger images are predicted (None: always whole);
    overlap: the share of a tile, 0 to 0.9, that neighbours have in common. The network is moved to the device.
    Raises UserError, before anything is written, when an image is missing or none, two would be written under one name, `out`
    lies in a folder to predict, or pictures would be written beside images; and on the way for an image that is damaged.
    """
    if tile is not None and min(tile) < SMALLEST:
        raise UserError(f"a tile of {tile[0]}x{tile[1]} is too small; each side needs {SMALLEST} pixels or more, such as 512x512")
    if not 0 <= overlap <= 0.9:
        raise UserError(f"overlap={overlap:g} is outside 0 to 0.9")
    require_scales(scales)
    names = named(paths, out)
    sizes = [image_size(path) for path in names.values()]  # a file that is no image is refused before the work begins
    for folder in dict.fromkeys((out / name).parent for name in names):
        make_folder(folder)
    device.place(model.network).eval()
    done = []
    with StageProgress("predict", sum(tile_count(size, tile, overlap) for size in sizes)) as progress:
        for name, path in names.items():
            image = read_image(path)
            ids = predict_image(model, image, device, tile, overlap, scales, flip, progress)
            done.append(Prediction(path, write(out, name, image, ids, model.classes), shares(ids, model.classes)))
    return done


def predict_image(
    model: TrainedModel,
    image: np.ndarray,
    device: Device,
    tile: tuple[int, int] | None = None,
    overlap: float = 0.25,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    progress: StageProgress | None = None,
) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (H, W) uint8 train ids; the network must be placed on the device, in evaluation mode.

    progress: gets one step for each tile, and one for an image that is predicted whole.
    """
    height, width = image.shape[:2]
    if tile is not None and (height > tile[0] or width > tile[1]):
        return by_tiles(model, image, device, tile, overlap, scales, flip, progress)
    probabilities = class_probabilities(model, [image], (height, width), device, scales, flip)[0]
    if progress is not None:
        progress.step()
    return probabilities.argmax(dim=0).cpu().numpy().astype(np.uint8)


def by_tiles(
    model: TrainedModel,
    image: np.ndarray,
    device: Device,
    tile: tuple[int, int],
    overlap: float,
    scales: Sequence[float],
    flip: bool,
    progress: StageProgress | None,
) -> np.ndarray:
    """(H, W) uint8 train ids: the probabilities of all tiles, weighted by a window that fades to a tile's border, are summed.

    One tile at a time is on the device and one row of tiles in memory: (K, tile, W) probabilities.
    """
    height, width = image.shape[:2]
    ids = np.empty((height, width), dtype=np.uint8)
    carried = torch.zeros(len(model.classes), 0, width)  # of the rows that the next tiles share with those before
    tops = starts(height, tile[0], overlap)
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        strip = torch.zeros(len(model.classes), min(tile[0], height - top), width)
        strip[:, : carried.shape[1]] = carried
        for left in starts(width, tile[1], overlap):
            part = image[top : top + tile[0], left : left + tile[1]]
            size = (part.shape[0], part.shape[1])
            probabilities = class_probabilities(model, [part], size, device, scales, flip)[0].cpu()
            strip[:, :, left : left + tile[1]] += probabilities * window(size[0])[:, None] * window(size[1])
            if progress is not None:
                progress.step()
        ids[top:following] = strip[:, : following - top].argmax(dim=0)
        carried = strip[:, following - top :]
    return ids


def require_scales(scales: Sequence[float]) -> None:
    """Raise UserError unless there are scales and all are positive."""
    if not scales or min(scales) <= 0:
        raise UserError("scales must be one or more positive factors, such as 0.75 1.0 1.25")


def starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin along a side: as few as reach the end with at least this overlap, evenly spread."""
    if length <= tile:
        return [0]
    step = max(1, int(tile * (1 - overlap)))
    count = 1 + -(-(length - tile) // step)
    return [round(index * (length - tile) / (count - 1)) for index in range(count)]


def tile_count(size: tuple[int, int], tile: tuple[int, int] | None, overlap: float) -> int:
    """In how many parts an image of this (height, width) is predicted; 1 when whole."""
    if tile is None:
        return 1
    return len(starts(size[0], tile[0], overlap)) * len(starts(size[1], tile[1], overlap))


def window(length: int) -> Tensor:
    """(length,) weights along one side of a tile: a squared sine, largest in the middle, never 0."""
    places = (torch.arange(length) + 0.5) / length
    return torch.sin(torch.pi * places).square().clamp(min=1e-3)


def named(paths: str | Path | Sequence[str | Path], out: Path) -> dict[str, Path]:
    """Name of the output below `out`, such as train/a -> image. Raises UserError as `predict` says."""
    for path in _each(paths):
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise UserError(f"{out} lies in {path}, whose images are to be predicted; choose another --out")
    names: dict[str, Path] = {}
    for name, file in found_images(paths):
        other = names.setdefault(name, file)
        if other is not file and other.resolve() != file.resolve():
            raise UserError(f"{other} and {file} would both be written as {name}_*.png; predict them into two folders")
    written = {(out / name).parent.resolve() for name in names}
    for file in names.values():
        if file.resolve().parent in written:
            raise UserError(f"pictures would be written beside {file} and could overwrite its neighbours; choose another --out")
    return names


def found_images(paths: str | Path | Sequence[str | Path]) -> list[tuple[str, Path]]:
    """(name without suffix, below its folder where one was given; image) of files and of all images in folders.

    Raises UserError for a path that is not there, and without a single image.
    """
    found: list[tuple[str, Path]] = []
    for path in _each(paths):
        if path.is_dir():
            found += [(file.relative_to(path).with_suffix("").as_posix(), file) for file in images_below(path)]
        elif path.is_file():
            found.append((path.stem, path))
        else:
            raise UserError(f"there is no image {path}: no such file or folder")
    if not found:
        raise UserError("no image to predict; name image files or folders")
    return found


def _each(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]


def images_below(folder: Path) -> list[Path]:
    """The images in a folder and its subfolders, by path; hidden ones are passed over. Raises UserError when there is none."""
    found = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    ]
    if not found:
        raise UserError(f"there is no image in {folder}; images end in {', '.join(IMAGE_SUFFIXES)}")
    return found


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; raises UserError when a file is in the way or the disk refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder} is a file, or below one; choose a folder with --out") from None
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from None


def write(out: Path, name: str, image: np.ndarray, ids: np.ndarray, classes: Classes) -> tuple[Path, ...]:
    """Write the three PNGs of one image; raises UserError when the disk refuses.

    They are compressed lightly: at the usual level, large images take longer to compress than to predict.
    """
    source = np.array(classes.source_ids or range(len(classes)))
    index = source[ids].astype(np.uint8 if source.max() <= 255 else np.uint16)
    mask = colored(ids, classes)
    overlay = ((image.astype(np.uint16) + mask + 1) // 2).astype(np.uint8)
    written = []
    for kind, pixels in zip(KINDS, (index, mask, overlay), strict=True):
        file = out / f"{name}_{kind}.png"
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
        try:
            file.write_bytes(buffer.getvalue())
        except OSError as error:
            file.unlink(missing_ok=True)
            raise UserError(f"cannot write {file}: {error.strerror}") from None
        written.append(file)
    return tuple(written)


def shares(ids: np.ndarray, classes: Classes) -> dict[str, float]:
    """Class name -> share of the pixels, in the order of the classes, those that are not there left out."""
    counts = np.bincount(ids.ravel(), minlength=len(classes))
    return {name: float(count) / ids.size for name, count in zip(classes.names, counts, strict=True) if count}
