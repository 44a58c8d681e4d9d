"""One drawn set and one finished tiny run for all tests of the command line; each works on copies where it writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import ARCHITECTURE, TINY, draw, segnas


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a data set that is in order."""
    return draw(tmp_path_factory.mktemp("cli") / "images of mine")


@pytest.fixture(scope="session")
def finished(images: Path) -> Path:
    """A run with all stages but the export. Not to be written in."""
    out = images.parent / "finished"
    answer = segnas("run", "auto-deeplab", "--data", images, "--out", out, "--no-export", *TINY)
    assert answer.status == 0, answer.err
    return out


@pytest.fixture
def finished_copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be written in."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def architecture_file(tmp_path: Path) -> Path:
    """A small architecture written by hand."""
    path = tmp_path / "by_hand.json"
    path.write_text(json.dumps(ARCHITECTURE))
    return path


@pytest.fixture
def images_copy(images: Path, tmp_path: Path) -> Path:
    """A copy of the data set, to be spoiled."""
    return Path(shutil.copytree(images, tmp_path / "set"))
