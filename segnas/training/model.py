"""A trained network with all that using it takes, in one file: weights, architecture, classes, normalisation, resize factor.

model.safetensors holds the weights as tensors and the rest as one JSON text in its metadata, so that the data set is not needed
to evaluate, predict or export.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from segnas.data.base import Classes, Dataset
from segnas.data.transforms import Normalization
from segnas.errors import UserError
from segnas.nets.build import build
from segnas.runs.run import Run
from segnas.spaces.architecture import Architecture, family_of, from_json, task_of, to_json
from segnas.tasks import Task, tasks

FILE = "model.safetensors"
FORMAT = 1
AUXILIARY = "auxiliary."  # how the names of an auxiliary head's tensors begin; training alone needs it


@dataclass(frozen=True)
class TrainedModel:
    """A trained network and what it was trained for."""

    architecture: Architecture
    network: nn.Module  # normalised images (N, 3, H, W) -> logits (N, K, H, W), or (N, K) for one class an image
    classes: Classes
    normalization: Normalization
    resize: float = 1.0  # images are resized by this factor before the network sees them

    @property
    def task(self) -> Task:
        """What the network says of an image."""
        return tasks[task_of(self.architecture)]

    def logits(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) RGB 0..255, uint8 or float, as large as the network is to see them -> its logits in float32."""
        std = torch.tensor(self.normalization.std, dtype=torch.float64)
        factor = 1 / (255 * std)  # in float64 first, as Normalization does it: the same bits
        offset = -torch.tensor(self.normalization.mean, dtype=torch.float64) / std
        planes = images.float() * factor.to(images.device, torch.float32)[:, None, None]
        planes += offset.to(images.device, torch.float32)[:, None, None]
        logits: Tensor = self.network(planes)
        return logits.float()

    def save(self, run: Run, name: str = FILE) -> Path:
        """Write the model into the run directory, atomically; without the auxiliary head that it may have been trained with."""
        state = {key: tensor for key, tensor in self.network.state_dict().items() if not key.startswith(AUXILIARY)}
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
        about = {
            "format": FORMAT,
            "architecture": to_json(self.architecture),
            "classes": asdict(self.classes),
            "normalization": asdict(self.normalization),
            "resize": self.resize,
        }
        return run.write_bytes(name, safetensors.torch.save(tensors, {"segnas": json.dumps(about, sort_keys=True)}))

    @classmethod
    def load(cls, path: Path) -> TrainedModel:
        """The model in a file or in a run directory, on the CPU, in evaluation mode; UserError when it is not there or broken."""
        about, tensors = _read(path)
        try:
            architecture = from_json(about["architecture"], where=str(path))
            classes = _classes(about["classes"])
            normalization = Normalization(**{key: tuple(value) for key, value in about["normalization"].items()})
            network = build(architecture, len(classes))
            network.load_state_dict(tensors)
            model = cls(architecture, network.eval(), classes, normalization, float(about["resize"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path} is no complete model of segnas ({type(error).__name__}: {error}); train it again") from None
        except RuntimeError:
            raise UserError(f"{path}: the weights do not fit the architecture in the same file; train it again") from None
        return model


def require_task(architecture: Architecture, dataset: Dataset, form_setting: str = "--form ") -> None:
    """Raise UserError unless the architecture's networks predict what the data set labels.

    form_setting: how whoever asked chooses among the forms of network of a family that has several.
    """
    task = task_of(architecture)
    if task != dataset.task:
        has = f"{dataset.name} has one class {'a' if tasks[dataset.task].dense else 'an'} {tasks[dataset.task].counted}"
        forms = architecture.forms_for(dataset.task) if hasattr(architecture, "forms_for") else []
        if forms:
            ways = " or ".join(f"{form_setting}{form}" for form in forms)
            own = f"the form '{architecture.network.form}' of {family_of(architecture)}"
            raise UserError(f"{own} is for {task}, and {has}; use {ways}")
        raise UserError(
            f"{family_of(architecture)} builds networks for {task}, and {has}; choose an architecture for {dataset.task}"
        )


def start_from(network: nn.Module, num_classes: int, path: Path) -> str:
    """Copy the weights of a model file into `network`; what happened, in one line.

    Tensors of the last layer, whose first dimension is the number of classes, stay as initialised when that number differs.
    Raises UserError when anything else does not fit: the file then holds another architecture.
    """
    about, tensors = _read(path)
    stored_classes = len(about["classes"]["names"])
    own = network.state_dict()
    missing = sorted(own.keys() ^ tensors.keys())
    other = sorted(key for key in own.keys() & tensors.keys() if own[key].shape != tensors[key].shape)
    head = [
        key
        for key in other
        if own[key].shape[1:] == tensors[key].shape[1:]
        and (own[key].shape[0], tensors[key].shape[0]) == (num_classes, stored_classes)
    ]
    wrong = missing + [key for key in other if key not in head]
    if wrong:
        raise UserError(
            f"the weights in {path} are of another architecture: {len(wrong)} of {len(own)} tensors do not fit, {wrong[0]}; "
            "choose weights of the same architecture and options"
        )
    network.load_state_dict({key: tensor for key, tensor in tensors.items() if key not in head}, strict=False)
    told = f"weights from {path}: {len(own) - len(head)} tensors"
    if head:
        told += f"; {', '.join(head)} start anew ({stored_classes} classes there, {num_classes} here)"
    return told


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is said about the model and its tensors, from a file or a run directory."""
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        hint = "the run is not trained yet (segnas retrain)" if path.is_dir() else "no such file or folder"
        raise UserError(f"there is no model in {path}: {hint}")
    if file.suffix == ".onnx":
        raise UserError(
            f"{file} is an ONNX file; give the run or its model.safetensors (docs/inference.md shows how to use ONNX)"
        )
    try:
        with safetensors.safe_open(file, framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118 - no mapping
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"cannot read the model {file}: {str(error).splitlines()[0]}") from None
    if "segnas" not in metadata:
        raise UserError(f"{file} was not written by segnas: its metadata does not say which architecture it holds")
    try:
        about = json.loads(metadata["segnas"])
    except json.JSONDecodeError:
        raise UserError(f"cannot read the model {file}: its metadata is no JSON; train it again") from None
    if about.get("format") != FORMAT:
        raise UserError(f"{file} has format {about.get('format')}, this segnas reads {FORMAT}; use the version that wrote it")
    return about, tensors


def _classes(values: dict[str, Any]) -> Classes:
    return Classes(
        names=tuple(values["names"]),
        colors=tuple((red, green, blue) for red, green, blue in values["colors"]),
        source_ids=tuple(values["source_ids"]),
        ignore_source_id=values["ignore_source_id"],
    )
