"""Data sets: `open_dataset("demo")` or `open_dataset("path/to/folder")`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segnas.data.base import Dataset
from segnas.data.folder import Folder


def open_dataset(data: str | Path, seed: int = 0) -> Dataset:
    """The data set named by `data`: "demo" for the one drawn on the spot, else a folder (`./demo` for a folder of that name).

    seed: for the split of a folder that has none. Raises UserError when there is no data set.
    """
    if str(data) == "demo":
        from segnas.data.demo import Demo

        return Demo()
    return Folder(Path(data).expanduser(), seed)


def task_of_data(data: str) -> str:
    """What the labels of the data set named by `data` are, before it is opened: "segmentation" or "classification"."""
    return "segmentation"


def describe(dataset: Dataset) -> dict[str, Any]:
    """Plain values to write down with a run: name, classes, the names in each split, and what a folder reader decided."""
    classes = dataset.classes
    source_ids = classes.source_ids or tuple(range(len(classes)))
    listed = [
        {"train_id": train_id, "name": name, "color": list(color), "source_id": source_id}
        for train_id, (name, color, source_id) in enumerate(zip(classes.names, classes.colors, source_ids, strict=True))
    ]
    return {
        "name": dataset.name,
        "task": dataset.task,
        **(dataset.description() if isinstance(dataset, Folder) else {}),
        "classes": listed,
        "ignored_source_id": classes.ignore_source_id,
        "splits": {split: list(names) for split, names in dataset.splits.items()},
    }
