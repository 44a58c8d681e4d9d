"""A process that measures one thing: `python child.py JSON`, started by supernet_step.py.

    {"task": "step", "setting": ..., "engine": ..., "threads": ...}    takes a step for each line `step` that it reads
    {"task": "floor", "settings": ..., "threads": ...}                 peak, bandwidth, and the work of a step of each setting
    {"task": "pipeline", "data": ..., "crops": ..., "batches": ...}    samples a second of the input pipeline

Every answer is a line of JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from floor import bandwidth, peak_flops, work_of_step
from segnas.costs.memory import peak_memory, resident_memory
from segnas.data import DEMO, open_dataset
from segnas.data.base import Dataset
from segnas.data.demo import Demo
from segnas.data.loading import TrainingBatches
from segnas.data.transforms import DataConfig, Normalization
from segnas.errors import UserError
from segnas.nets import compiled
from settings import ENGINES, Setting, setting_of
from step import SearchStep

NO_WORK = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh"}  # besides views
NO_WORK |= {"detach", "_unsafe_view", "squeeze_", "unsqueeze_", "t_", "transpose_"}  # views too, by another name
DRAWN_SIZE, DRAWN_TRAIN, DRAWN_VAL = (360, 480), 48, 2  # of the drawn scenes that are decoded


def main(task: dict[str, Any]) -> None:
    """What the JSON asks for."""
    if task.get("threads") is not None:
        torch.set_num_threads(task["threads"])
    if task["task"] == "step":
        take_steps(setting_of(task["setting"]), task["engine"])
    elif task["task"] == "floor":
        answer(peak=peak_flops(), bandwidth=bandwidth(), work=[asdict(work_of_step(setting_of(one))) for one in task["settings"]])
    else:
        measure_pipeline(task["data"], task["crops"], task["batches"])


def answer(**values: Any) -> None:
    """One line for the process that asked."""
    print(json.dumps(values), flush=True)


def take_steps(setting: Setting, engine: str) -> None:
    """A step for each line `step`; at the first other line the peak of the memory, and if it is `kernels` also their number."""
    step: SearchStep | None = None
    before = 0
    last = ""

    def work() -> None:
        nonlocal step, before, last
        before = resident_memory()
        ready = not ENGINES[engine].fused or compiled.library() is not None
        step = SearchStep(setting, ENGINES[engine])
        answer(ready=True, compiled=ready, threads=torch.get_num_threads(), torch=torch.__version__)
        for line in sys.stdin:
            last = line.strip()
            if last != "step":
                return
            begin = time.perf_counter()
            step()
            answer(seconds=time.perf_counter() - begin)

    peak = peak_memory(work, "cpu")
    assert step is not None
    answer(memory_mib=(peak - before) / 2**20, kernels=count_kernels(step) if last == "kernels" else None)


class Counter(TorchDispatchMode):
    """Counts operations as torch carries them out: no views, no allocations; one over a list of tensors counts once."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation._schema.name.split("::")[1]
        viewing = any(out.alias_info is not None and not out.alias_info.is_write for out in operation._schema.returns)
        if not viewing and name not in NO_WORK:
            self.count += 1
        return operation(*args, **(kwargs or {}))


def count_kernels(step: SearchStep) -> int:
    """Operations of torch and calls of compiled kernels in one step."""
    call = compiled._call
    with Counter() as counter:

        def counted(*arguments: Any) -> None:
            counter.count += 1
            call(*arguments)

        compiled._call = counted  # type: ignore[assignment]
        try:
            step()
        finally:
            compiled._call = call
    return counter.count


def measure_pipeline(data: str, crops: Sequence[int], batches: Sequence[int]) -> None:
    """Samples a second of an epoch that decodes and of one that finds the samples in memory, for each crop with its batch."""
    with tempfile.TemporaryDirectory() as folder:
        if data == DEMO:
            data = str(drawn(Path(folder)))
        found = []
        for crop, batch in zip(crops, batches, strict=True):
            dataset = open_dataset(data)  # anew, as its samples would be in memory
            found.append(samples_a_second(dataset, DataConfig(crop=(crop, crop)), batch))
        height, width = dataset.size("train", 0)
    answer(samples=found, size=[height, width], images=len(dataset.splits["train"]))


def samples_a_second(dataset: Dataset, config: DataConfig, batch: int) -> dict[str, float]:
    """decoding: the first epoch; kept: the second."""
    indices = range(len(dataset.splits["train"]))
    normalization = Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    loaded = TrainingBatches(dataset, "train", indices, config, normalization, batch, seed=0, stream="benchmark")
    rates = {}
    for epoch, name in enumerate(("decoding", "kept")):
        begin = time.perf_counter()
        count = sum(len(one.images) for one in loaded.epoch(epoch))
        rates[name] = count / (time.perf_counter() - begin)
    return rates


def drawn(folder: Path) -> Path:
    """Scenes of the demo set as PNG files of a usual size, so that there is something to decode."""
    demo = Demo(size=DRAWN_SIZE, train=DRAWN_TRAIN, val=DRAWN_VAL, test=0)
    for split, names in demo.splits.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for index, name in enumerate(names):
            sample = demo.read(split, index)
            Image.fromarray(sample.image).save(folder / "images" / split / f"{name}.png")
            Image.fromarray(sample.label).save(folder / "labels" / split / f"{name}.png")
    return folder


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
