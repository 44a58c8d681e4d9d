"""One export of a small network, made once a session."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from export_models import make_model, make_sample

from segnas.data.base import Sample
from segnas.export import Parity, export_onnx
from segnas.training.model import TrainedModel

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@dataclass(frozen=True)
class Exported:
    """What one export was made of and what it gave."""

    model: TrainedModel
    size: tuple[int, int]
    samples: list[Sample]
    file: Path
    parity: Parity


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Exported:
    """A path that goes down, up and ends at stride 8, for an odd and an even side; three images of other sizes."""
    model, size = make_model((1, 2, 1)), (65, 78)
    samples = [make_sample(10, 80, 100), make_sample(11, 65, 78), make_sample(12, 50, 120)]
    file = tmp_path_factory.mktemp("exported") / "model.onnx"
    return Exported(model, size, samples, file, export_onnx(model, size, file, samples))
