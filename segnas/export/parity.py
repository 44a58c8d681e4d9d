"""Does an exported network say what the trained one says? Both are run on real images, and the difference is measured.

torch's side is the trained model itself with its own normalisation, so a fault of the graph's normalisation shows as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segnas.data.base import Sample
from segnas.data.transforms import nearest, resize_image
from segnas.errors import UserError
from segnas.tasks.base import confusion_matrix, scores
from segnas.training.model import TrainedModel

RELATIVE_TOLERANCE = 1e-3  # of the standard deviation of torch's logits
SMALLEST_TOLERANCE = 1e-5  # for logits that hardly differ from one another
SMALLEST_AGREEMENT = 0.999  # share of pixels or images; rounding turns a few near ties only

Prepared = tuple[np.ndarray, np.ndarray]  # image (H, W, 3) uint8 and label, (H, W) or (), at the export size


@dataclass(frozen=True)
class Parity:
    """What the comparison found. `problem` is None when it passed, else what was wrong in a few words."""

    images: int
    largest_logit_difference: float
    agreement: float  # share of pixels, or of images with one class, that get the same class, 0..1
    metric: str  # the task's figure that decides
    score_torch: float  # its value in percent, at the export size
    score_onnx: float
    tolerance: float  # for the largest difference, in logits
    passed: bool
    problem: str | None
    onnx: str  # the file's name
    size: tuple[int, int]  # height, width
    opset: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values under the names of the fields, and <metric>_torch and <metric>_onnx for the two scores."""
        scored = {"score_torch": f"{self.metric}_torch", "score_onnx": f"{self.metric}_onnx"}
        values = {scored.get(key, key): value for key, value in asdict(self).items() if key != "metric"}
        return {**values, "size": list(self.size)}


def check_parity(
    content: bytes, model: TrainedModel, size: tuple[int, int], samples: Iterable[Sample], opset: int, name: str
) -> Parity:
    """Run a serialised ONNX model in onnxruntime and `model` in torch, both on the CPU in float32, and compare the logits.

    samples: real images with labels, resized to `size`; the first is run alone, then all in pairs. It passes when no logit is
    further off than a thousandth of the logits' standard deviation and 99.9 % of the pixels (or images) get the same class.
    Raises UserError without a single sample; a disagreement is told by `passed` and `problem`.
    """
    prepared = [_at_size(sample, size) for sample in samples]
    if not prepared:
        raise UserError("the exported network cannot be checked without an image; give a split that holds at least one")
    tally = _Tally(len(model.classes))
    problem = None
    try:
        session = _session(content)
        for batch, new in _batches(prepared):
            normalized = torch.stack([model.normalization(image) for image, _ in batch])
            with torch.inference_mode():
                expected = model.network(normalized)
            pixels = np.stack([image.transpose(2, 0, 1) for image, _ in batch]).astype(np.float32)
            (got,) = session.run(["logits"], {"image": pixels})
            labels = torch.from_numpy(np.stack([label for _, label in batch]))
            tally.add(expected, torch.from_numpy(got), labels, new)
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):  # its errors have no common class
            raise
        problem = f"onnxruntime cannot run it: {str(error).splitlines()[0]}"
    tolerance = max(SMALLEST_TOLERANCE, RELATIVE_TOLERANCE * tally.spread)
    problem = problem or tally.problem(tolerance, model.task.counted)
    return Parity(
        images=len(prepared),
        largest_logit_difference=tally.largest,
        agreement=tally.agreement,
        metric=model.task.metric,
        score_torch=model.task.deciding(scores(tally.confusion_torch)),
        score_onnx=model.task.deciding(scores(tally.confusion_onnx)),
        tolerance=tolerance,
        passed=problem is None,
        problem=problem,
        onnx=name,
        size=size,
        opset=opset,
        bytes=len(content),
    )


class _Tally:
    """Sums over the images compared so far."""

    def __init__(self, num_classes: int) -> None:
        self.confusion_torch = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.confusion_onnx = torch.zeros_like(self.confusion_torch)
        self.largest = float("nan")
        self.equal = self.pixels = self.logits = 0
        self.sum = self.sum_of_squares = 0.0

    def add(self, expected: Tensor, got: Tensor, labels: Tensor, new: int) -> None:
        """expected, got: (N, K, ...) logits of torch and onnxruntime; labels: (N, ...), of which the first `new` are scored."""
        difference = float((expected - got).abs().max())
        # max of torch, unlike Python's, never loses a NaN
        self.largest = float(torch.tensor([self.largest, difference]).max()) if self.pixels else difference
        classes, classes_onnx = expected.argmax(1), got.argmax(1)
        self.equal += int((classes == classes_onnx).sum())
        self.pixels += classes.numel()
        exact = expected.double()
        self.logits += exact.numel()
        self.sum += float(exact.sum())
        self.sum_of_squares += float(exact.square().sum())
        self.confusion_torch += confusion_matrix(classes[:new], labels[:new], len(self.confusion_torch))
        self.confusion_onnx += confusion_matrix(classes_onnx[:new], labels[:new], len(self.confusion_onnx))

    @property
    def agreement(self) -> float:
        return self.equal / self.pixels if self.pixels else float("nan")

    @property
    def spread(self) -> float:
        """Standard deviation of torch's logits over classes, images and their pixels."""
        if not self.logits:
            return 0.0
        return max(0.0, self.sum_of_squares / self.logits - (self.sum / self.logits) ** 2) ** 0.5

    def problem(self, tolerance: float, counted: str = "pixel") -> str | None:
        """What is wrong, or None. A logit that is no number is never within the tolerance. counted: "pixel" or "image"."""
        if not self.largest <= tolerance:
            return f"the logits differ by up to {self.largest:.3g} ({tolerance:.3g} is allowed)"
        if self.agreement < SMALLEST_AGREEMENT:
            return f"only {100 * self.agreement:.2f} % of the {counted}s get the same class"
        return None


def _at_size(sample: Sample, size: tuple[int, int]) -> Prepared:
    whole = slice(0, size[0]), slice(0, size[1])
    label = nearest(sample.label, size, *whole) if sample.label.ndim else sample.label
    return resize_image(sample.image, size), label


def _batches(prepared: list[Prepared]) -> list[tuple[list[Prepared], int]]:
    """(images with labels, how many of them are new): the first alone, then all two by two, a last odd one beside itself."""
    batches = [(prepared[:1], 0)]
    for start in range(0, len(prepared), 2):
        pair = prepared[start : start + 2]
        batches.append((pair if len(pair) == 2 else pair * 2, len(pair)))
    return batches


def _session(content: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
