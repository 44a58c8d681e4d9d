"""A trained network as an ONNX file that needs nothing of segnas: pixels in, logits out, names and colours inside.

    input   image   (N, 3, H, W) float32, RGB 0..255 as decoded; any N, the chosen H x W; normalised inside the graph
    output  logits  (N, K, H, W) float32, or (N, K) for one class an image; argmax over K is the class

The file's metadata holds what using it takes (`METADATA` below lists the keys). Nothing is written before the checker and the
parity check (parity.py) have passed.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.util
import io
import json
import logging
import math
import warnings
from collections.abc import Iterable, Iterator
from importlib import metadata as installed
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segnas.data.base import Sample
from segnas.errors import UserError
from segnas.export.parity import Parity, check_parity
from segnas.runs.run import Run
from segnas.spaces.architecture import identity, to_json
from segnas.training.model import TrainedModel
from segnas.training.preflight import require_packages

OPSET = 20
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
METADATA = (
    "class_names",
    "class_colors",
    "class_source_ids",
    "mean",
    "std",
    "resize",
    "architecture",
    "architecture_id",
    "segnas",
)


def missing_packages() -> list[str]:
    """The packages that exporting needs and that are not installed; empty when all are."""
    return [package for package in PACKAGES if importlib.util.find_spec(package) is None]


def stored_parameters(path: Path) -> int:
    """How many floating-point numbers an ONNX file holds: weights, biases and whatever its graph made of batch norms."""
    import onnx

    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    return sum(math.prod(item.dims) for item in onnx.load(str(path)).graph.initializer if item.data_type in floats)


def export_onnx(model: TrainedModel, size: tuple[int, int], path: Path, samples: Iterable[Sample]) -> Parity:
    """Write `model` for images of `size` (height, width) to `path`, and what the parity check found to parity.json beside it.

    samples: real images with labels, on which the file is compared with torch; they are resized to `size`. At least one.

    Raises UserError when a package is missing, the size is impossible, the disk is full (the earlier files stay as they were), or
    when the exported file disagrees with torch: then parity.json says by how much, the file lies under `<path>.rejected`, and
    there is none under `path`.
    """
    require_packages(missing_packages())
    if min(size) < 1:
        raise UserError(f"the export size {size[0]}x{size[1]} is no image size; height and width are at least 1")
    network = copy.deepcopy(model.network).to(device="cpu", dtype=torch.float32, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    model = dataclasses.replace(model, network=network.eval())
    content = graph_of(model, size)
    parity = check_parity(content, model, size, samples, OPSET, path.name)
    return publish(content, parity, path)


def graph_of(model: TrainedModel, size: tuple[int, int]) -> bytes:
    """The serialised ONNX model for images (N, 3, *size), checked by onnx's own checker with shape inference."""
    import onnx

    network = _Deployed(model).eval()
    example = torch.zeros(2, 3, *size)  # two images: a batch of one would be taken for a constant
    with _quiet(), torch.inference_mode():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export made no program")
    proto = program.model_proto
    _forget_sources(proto)
    proto.producer_name, proto.producer_version = "segnas", _version()
    onnx.helper.set_model_props(proto, describe(model))
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString()
    return content


def describe(model: TrainedModel) -> dict[str, str]:
    """The metadata of the file: under each of the keys in METADATA a text, JSON except for the id and the version."""
    classes = model.classes
    values = {
        "class_names": list(classes.names),
        "class_colors": [list(color) for color in classes.colors],
        "class_source_ids": list(classes.source_ids or range(len(classes))),
        "mean": list(model.normalization.mean),
        "std": list(model.normalization.std),
        "resize": model.resize,
        "architecture": to_json(model.architecture),
    }
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
    return {**texts, "architecture_id": identity(model.architecture), "segnas": _version()}


def publish(content: bytes, parity: Parity, path: Path) -> Parity:
    """Write the file under its name when it passed, else under `<path>.rejected` and raise UserError; parity.json either way."""
    folder = Run(path.parent)
    rejected = path.with_name(f"{path.name}.rejected")
    if parity.passed:
        folder.write_bytes(path.name, content)
        rejected.unlink(missing_ok=True)
        folder.write_json("parity.json", parity.to_json())
        return parity
    folder.write_bytes(rejected.name, content)
    path.unlink(missing_ok=True)  # an earlier export is not what parity.json speaks of any more
    folder.write_json("parity.json", parity.to_json())
    raise UserError(
        f"the exported ONNX file disagrees with torch: {parity.problem}; it was put aside as {rejected}, see parity.json"
    )


class _Deployed(nn.Module):
    """The network with its normalisation in front: RGB 0..255 -> logits in float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.network = model.network
        self.register_buffer("mean", 255 * torch.tensor(model.normalization.mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(model.normalization.std).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network((image - self.mean) / self.std)
        return logits


def _forget_sources(proto: Any) -> None:
    """Drop the exporter's notes on every node: they hold stack traces with paths of this machine."""
    graph = proto.graph
    for entry in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        del entry.metadata_props[:]
        entry.doc_string = ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter prints, warns and logs off the terminal; its errors are raised as ever."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)


def _version() -> str:
    return installed.version("segnas")
