"""Small shapes and one thread: the suite runs two processes side by side on two cores."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference figures beside the repository; tests that need it skip without it."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the folder ../shared is not here")
    return SHARED
