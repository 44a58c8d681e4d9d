"""A job for the tiny search in a new run directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_search import Drawn, MakeJob, tiny_config

from segnas.config import to_dict
from segnas.data.base import Dataset
from segnas.data.transforms import Normalization
from segnas.runs.run import Run
from segnas.systems.base import Job
from segnas.systems.settings import RunConfig
from segnas.training.device import launch


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    """A function: name of the run, configuration, data set -> a job in a new run directory (or a resumed one)."""

    def make(name: str = "run", config: RunConfig | None = None, dataset: Dataset | None = None, resume: bool = False) -> Job:
        config = config or tiny_config()
        run = Run.create(tmp_path / name, to_dict(config), resume)
        normalization = Normalization((0.3, 0.3, 0.3), (0.2, 0.2, 0.2))
        return Job(config, dataset or Drawn(), normalization, run, launch(config.device))

    return make
