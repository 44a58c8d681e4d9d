"""Latency: the time of one whole pass over images of the size that the network sees, from RGB pixels to logits at that size.

One number without its conditions means little, so a `Latency` carries device, input, threads, precision and warm-up, and
its spread: the quartiles of all timed runs, and `unsteady` when they are too far apart for the median to be compared.
"""

from __future__ import annotations

import contextlib
import copy
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from segnas.errors import UserError
from segnas.randomness import numpy_generator

Precision = Literal["32", "bf16"]
Shape = tuple[int, int, int, int]  # (N, C, H, W)

MIN_RUNS = 5  # timed even when one run alone is longer than the time limit: quartiles of fewer say nothing
UNSTEADY = 0.1  # of the median
AMPERE = (8, 0)  # compute capability of the first GPUs with TF32
INCLUDES = (
    "normalisation and network, from a uint8 RGB tensor on the device to logits at the input size; "
    "no decoding, resizing, copy to the device or argmax"
)
NETWORK_INCLUDES = (
    "the network alone, from a normalised float tensor on the device to logits at the input size; "
    "no decoding, resizing, normalisation, copy to the device or argmax"
)
ONNX_INCLUDES = (
    "one call of the session with the normalisation in its graph, from a float32 array of RGB 0..255 in memory to an array of "
    "logits at the input size; no decoding, resizing or argmax"
)


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass over a batch, with the conditions they hold for."""

    device: str
    runtime: str  # "torch" or "onnxruntime", with its version
    input: Shape
    threads: int | None  # of the CPU's arithmetic; None on CUDA
    precision: str
    channels_last: bool
    warmup: int  # runs before the timed ones
    runs: int  # timed
    median_ms: float
    q1_ms: float
    q3_ms: float
    iqr_ms: float
    unsteady: bool  # the interquartile range, or the step between the two halves of the runs, is over 10 % of the median
    includes: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values under the names of the fields."""
        return {**asdict(self), "input": list(self.input)}


def measure_latency(
    network: nn.Module,
    input_shape: Shape,
    device: str | torch.device = "cpu",
    threads: int | None = None,
    precision: Precision = "32",
    channels_last: bool = False,
    warmup: int = 5,
    runs: int = 50,
    time_limit_s: float = 30.0,
    seed: int = 0,
    from_pixels: Callable[[nn.Module, Tensor], Tensor] | None = None,
) -> Latency:
    """Time `network` (a copy of it, in evaluation mode) on a random input (N, C, H, W) drawn from `seed`.

    from_pixels: (the network, uint8 RGB 0..255) -> logits, with all that lies between pixels and network; it is then timed as a
    whole. None times the network alone, on standard normal numbers.

    `threads` None keeps torch's number; bf16 is mixed, as in training. Fewer than `warmup` and `runs` are made when
    `time_limit_s` is used up before, but never fewer than 1 and 5. Raises UserError for a device that is not there.
    """
    where = _device(device)
    _check(input_shape, warmup, runs, threads)
    checked_precision(precision)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    timed = copy.deepcopy(network).to(where).to(memory_format=layout).eval()  # type: ignore[call-overload]
    generator = numpy_generator(seed, "latency")
    whole = from_pixels is not None
    numbers = generator.integers(0, 256, input_shape, np.uint8) if whole else generator.standard_normal(input_shape, np.float32)
    image = torch.from_numpy(numbers).to(where).to(memory_format=layout)
    autocast = torch.autocast(where.type, dtype=torch.bfloat16, enabled=precision == "bf16")

    def forward() -> None:
        timed(image) if from_pixels is None else from_pixels(timed, image)
        if where.type == "cuda":
            torch.cuda.synchronize(where)

    with _torch_threads(threads if where.type == "cpu" else None), torch.inference_mode(), autocast:
        used_threads = torch.get_num_threads() if where.type == "cpu" else None
        warm, times = _time(forward, warmup, runs, time_limit_s)
    return _summary(
        times,
        device=torch.cuda.get_device_name(where) if where.type == "cuda" else f"cpu ({processor()})",
        runtime=f"torch {torch.__version__}",
        input=input_shape,
        threads=used_threads,
        precision=precision_title(precision, where),
        channels_last=channels_last,
        warmup=warm,
        includes=INCLUDES if whole else NETWORK_INCLUDES,
    )


def measure_onnx_latency(
    path: Path,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    threads: int | None = None,
    warmup: int = 5,
    runs: int = 50,
    time_limit_s: float = 30.0,
    seed: int = 0,
) -> Latency:
    """Time a file of `segnas export` in onnxruntime on the CPU, on an input (batch, 3, *size) of numbers 0..255 from `seed`.

    size: (height, width); None means that of the graph. `threads` None takes torch's number, so that both runtimes are timed
    alike. Raises UserError when onnxruntime is missing, the file cannot be loaded, or it was exported for another size.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError("timing an ONNX file needs the package onnxruntime; pip install 'segnas[onnx]'") from None
    used_threads = threads if threads is not None else torch.get_num_threads()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = used_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    if not path.is_file():
        raise UserError(f"cannot read {path}: no such file")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class
        raise UserError(f"onnxruntime cannot load {path}: {str(error).splitlines()[0]}") from None
    (declared, *others) = session.get_inputs()
    if others or declared.type != "tensor(float)" or not _is_image_shape(declared.shape):
        raise UserError(f"{path} does not take images (N, 3, H, W) of one size in float32; time a file of `segnas export`")
    own_size = (declared.shape[2], declared.shape[3])
    if size not in (None, own_size):
        raise UserError(f"{path} takes images of {own_size[0]}x{own_size[1]}; leave out the size, or export it for another one")
    input_shape = (batch, 3, *own_size)
    _check(input_shape, warmup, runs, threads)
    image = numpy_generator(seed, "latency").integers(0, 256, input_shape).astype(np.float32)
    warm, times = _time(lambda: session.run(None, {declared.name: image}), warmup, runs, time_limit_s)
    return _summary(
        times,
        device=f"cpu ({processor()})",
        runtime=f"onnxruntime {onnxruntime.__version__}",
        input=input_shape,
        threads=used_threads,
        precision="float32",
        channels_last=False,
        warmup=warm,
        includes=ONNX_INCLUDES,
    )


def processor() -> str:
    """The name of the CPU."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def checked_precision(name: str) -> Precision:
    """`name` as a Precision; UserError when it is none."""
    for precision in get_args(Precision):
        if name == precision:
            return cast(Precision, precision)
    raise UserError(f"unknown precision '{name}'; allowed: {', '.join(get_args(Precision))}")


def precision_title(precision: Precision, device: torch.device) -> str:
    """The arithmetic that is really used: cuDNN's convolutions of float32 round their factors to TF32 where the GPU has it."""
    if precision == "bf16":
        return "bfloat16 (mixed)"
    tf32 = device.type == "cuda" and torch.backends.cudnn.allow_tf32 and torch.cuda.get_device_capability(device) >= AMPERE
    return "float32 (TF32 in convolutions)" if tf32 else "float32"


def _time(call: Callable[[], object], warmup: int, runs: int, time_limit_s: float) -> tuple[int, list[float]]:
    """(warm-up runs made, milliseconds of each timed run). A fifth of the time limit may go to the warm-up."""
    clock = time.perf_counter
    begin = clock()
    warm = 0
    while warm < warmup and (warm == 0 or clock() - begin < time_limit_s / 5):
        call()
        warm += 1
    times: list[float] = []
    while len(times) < runs and (len(times) < MIN_RUNS or clock() - begin < time_limit_s):
        start = clock()
        call()
        times.append((clock() - start) * 1e3)
    return warm, times


def _summary(times_ms: list[float], **conditions: Any) -> Latency:
    q1, median, q3 = (float(value) for value in np.percentile(times_ms, [25, 50, 75]))
    half = len(times_ms) // 2
    drift = abs(float(np.median(times_ms[:half])) - float(np.median(times_ms[half:])))
    unsteady = q3 - q1 > UNSTEADY * median or drift > UNSTEADY * median
    return Latency(
        runs=len(times_ms), median_ms=median, q1_ms=q1, q3_ms=q3, iqr_ms=q3 - q1, unsteady=bool(unsteady), **conditions
    )


@contextlib.contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    """`threads` for torch's arithmetic inside the block; None changes nothing."""
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before)


def _is_image_shape(shape: Sequence[object]) -> bool:
    """Whether an ONNX input is (any number, 3, H, W); dimensions left open are no integers."""
    return (
        len(shape) == 4 and not isinstance(shape[0], int) and shape[1] == 3 and all(isinstance(side, int) for side in shape[2:])
    )


def _device(device: str | torch.device) -> torch.device:
    try:
        where = torch.device(device)
    except RuntimeError:
        raise UserError(f"unknown device '{device}'; allowed: cpu, cuda, cuda:0, ...") from None
    if where.type not in ("cpu", "cuda"):
        raise UserError(f"latency is measured on cpu or cuda, not on '{device}'")
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise UserError(f"there is no device '{device}' here; torch sees {torch.cuda.device_count()} CUDA devices; use cpu")
    return where


def _check(input_shape: Shape, warmup: int, runs: int, threads: int | None) -> None:
    if len(input_shape) != 4 or min(input_shape) < 1:
        raise UserError(f"the input {list(input_shape)} must be four positive numbers: batch, channels, height, width")
    if warmup < 1:
        raise UserError(f"warmup={warmup} is too few; the first run is never like the others, so at least 1")
    if runs < MIN_RUNS:
        raise UserError(f"runs={runs} is too few for quartiles; at least {MIN_RUNS}")
    if threads is not None and threads < 1:
        raise UserError(f"threads={threads} is too few; at least 1")
