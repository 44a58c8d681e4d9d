"""Data sets: `open_dataset("demo")`, `open_dataset("path/to/folder")` or `open_dataset("voc:path/to/folder")`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segnas.data.base import Dataset, FromFiles
from segnas.data.formats import FORMATS, at_home, find_reader, split_prefix
from segnas.errors import UserError

DEMO = "demo"


def open_dataset(data: str | Path, seed: int = 0) -> Dataset:
    """The data set named by `data`: "demo" for the one drawn on the spot, else a folder (`./demo` for a folder of that name).

    Its format is found by its layout; a format before it, as in `voc:DIR` (formats.py), is taken without looking.
    seed: for the split of a set that has none. Raises UserError when there is no data set.
    """
    if str(data) == DEMO:
        from segnas.data.demo import Demo

        return Demo()
    reader, path = find_reader(str(data))
    return reader(path, seed)


def task_of_data(data: str) -> str:
    """The task of what `data` names, without reading the set; "segmentation" for what is none, which `open_dataset` refuses."""
    if data == DEMO:
        return "segmentation"
    try:
        name, _ = split_prefix(data)
        return FORMATS[name].task if name else find_reader(data)[0].task
    except UserError:
        return "segmentation"


def absolute_data(data: str) -> str:
    """The same data, named so that it is found from any directory; raises UserError for an unknown format."""
    if data == DEMO:
        return data
    name, path = split_prefix(data)
    path = at_home(path).absolute()
    return f"{name}:{path}" if name else str(path)


def describe(dataset: Dataset) -> dict[str, Any]:
    """Plain values to write down with a run: name, classes, the names in each split, and what a reader of files decided."""
    classes = dataset.classes
    source_ids = classes.source_ids or tuple(range(len(classes)))
    listed = [
        {"train_id": train_id, "name": name, "color": list(color), "source_id": source_id}
        for train_id, (name, color, source_id) in enumerate(zip(classes.names, classes.colors, source_ids, strict=True))
    ]
    return {
        "name": dataset.name,
        "task": dataset.task,
        **(dataset.description() if isinstance(dataset, FromFiles) else {}),
        "classes": listed,
        "ignored_source_id": classes.ignore_source_id,
        "splits": {split: list(names) for split, names in dataset.splits.items()},
    }
