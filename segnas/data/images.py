"""Image files as they are found: any usual format and depth, decoded to the end, turned upright."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from segnas.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I")
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)  # what Pillow raises


@contextmanager
def opened(path: Path, what: str) -> Iterator[Image.Image]:
    """The opened file; whatever Pillow finds wrong with it inside the block becomes a UserError that names it."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise UserError(f"the {what} {path} is missing") from None
    except BROKEN as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "it is no image, or damaged"
        raise UserError(f"cannot read the {what} {path}: {reason}") from None


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned as its EXIF orientation says.

    Grey becomes three equal channels, transparency is dropped, the 65536 levels of 16 bits become 256. Raises UserError for a
    file that is missing or damaged, or that stores numbers no image has (floating point).
    """
    with opened(path, "image") as image:
        if image.mode == "F":
            raise UserError(f"the image {path} stores floating-point numbers; convert it to 8 or 16 bits")
        if image.mode in SIXTEEN_BITS:
            grey = (np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) as `read_image` will return it, from the header alone."""
    with opened(path, "image") as image:
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in TURNED
        return (width, height) if turned else (height, width)
