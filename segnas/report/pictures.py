"""The pictures of the panels, re-encoded small enough for one page and embedded as data URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

from segnas.errors import UserError
from segnas.report.information import Panel
from segnas.runs.run import Run

WIDTHS = (560, 440, 320, 220, 140)  # pixels; the first at which all pictures fit the budget is taken
LOSSLESS = 32  # pixels; pictures this small are shown enlarged, and JPEG would show
BUDGET = 1_200_000  # bytes of all pictures together, as written into the page


@dataclass(frozen=True)
class PanelPictures:
    """A panel with its pictures as data URIs; without those of label and prediction where an image has one class."""

    panel: Panel
    image: str
    label: str = ""
    prediction: str = ""


def embed(run: Run, panels: tuple[Panel, ...]) -> tuple[PanelPictures, ...]:
    """All panels, as wide as the page's budget allows; raises UserError for a picture that is missing or broken."""
    loaded = [(panel, _open(run, panel.image), _maps(run, panel)) for panel in panels]
    pictures: tuple[PanelPictures, ...] = ()
    for width in WIDTHS:
        pictures = tuple(
            PanelPictures(panel, _photograph(image, width), *(_map(drawn, width) for drawn in maps))
            for panel, image, maps in loaded
        )
        if sum(len(item.image) + len(item.label) + len(item.prediction) for item in pictures) <= BUDGET:
            break
    return pictures


def _maps(run: Run, panel: Panel) -> list[Image.Image]:
    """Label and prediction, or nothing where an image has one class."""
    return [_open(run, name) for name in (panel.label, panel.prediction) if name is not None]


def _open(run: Run, name: str) -> Image.Image:
    try:
        with Image.open(run.path / name) as picture:
            return picture.convert("RGB")
    except OSError as error:
        raise UserError(f"cannot read the picture {run.path / name} ({error}); run segnas evaluate again") from None


def _resized(picture: Image.Image, width: int, how: Image.Resampling) -> Image.Image:
    if picture.width <= width:
        return picture
    return picture.resize((width, max(1, round(picture.height * width / picture.width))), how)


def _photograph(picture: Image.Image, width: int) -> str:
    buffer = io.BytesIO()
    if picture.width <= LOSSLESS:
        picture.save(buffer, "PNG", optimize=True)
        return _data_uri("image/png", buffer)
    _resized(picture, width, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=84, optimize=True)
    return _data_uri("image/jpeg", buffer)


def _map(picture: Image.Image, width: int) -> str:
    """Flat colours: a palette PNG, never interpolated."""
    buffer = io.BytesIO()
    small = _resized(picture, width, Image.Resampling.NEAREST)
    small.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return _data_uri("image/png", buffer)


def _data_uri(kind: str, buffer: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
