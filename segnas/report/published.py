"""Published networks to compare with: what their papers print, and the same networks counted as this run's was."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from segnas import zoo
from segnas.costs.counts import count
from segnas.spaces.architecture import task_of

LARGEST_SMALL_IMAGE = 64  # side up to which an image is compared with CIFAR's 32, and not with ImageNet's 224


@dataclass(frozen=True)
class Published:
    """A network of the zoo. `printed_*`: the paper's figures, in its own convention, for an image of `printed_size`; None for
    multiply-adds that it does not print."""

    name: str
    parameters: int
    multiply_adds: int
    printed_parameters: float
    printed_multiply_adds: float | None
    printed_size: tuple[int, int]


@functools.cache
def published_networks(
    size: tuple[int, int], num_classes: int, task: str = "segmentation", form: str | None = None
) -> tuple[Published, ...]:
    """The zoo's networks for a task whose papers print their cost, counted for an image of `size` (height, width); smallest
    first.

    form: of cells that come in several forms, the one to compare with; None: the classifiers that are for images about as large.
    """
    if form is None and task == "classification":
        form = "cifar" if max(size) <= LARGEST_SMALL_IMAGE else "imagenet"
    found = []
    for name in zoo.names():
        entry = zoo.load(name)
        entry = entry if form is None else zoo.in_form(entry, form)
        if task_of(entry.architecture) != task or not {"parameters_m", "size"} <= entry.paper.keys():
            continue
        printed = entry.paper.get("multiply_adds_g")
        ours = count(entry.architecture, size, num_classes)
        height, width = entry.paper["size"]
        found.append(
            Published(
                name=str(entry.paper.get("network", name)),
                parameters=ours.parameters,
                multiply_adds=ours.multiply_adds,
                printed_parameters=1e6 * entry.paper["parameters_m"],
                printed_multiply_adds=None if printed is None else 1e9 * printed,
                printed_size=(height, width),
            )
        )
    return tuple(sorted(found, key=lambda network: network.parameters))
