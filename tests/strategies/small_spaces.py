"""Small spaces for strategies; their architectures are plain tuples of options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segnas.spaces.choice import Choose


class Independent:
    """Choices that never depend on each other, with these numbers of options."""

    def __init__(self, *counts: int) -> None:
        self.counts = counts

    def architecture(self, choose: Choose) -> tuple[Any, ...]:
        return tuple(choose(f"values.{place}", range(count)) for place, count in enumerate(self.counts))


class Dependent:
    """What is asked depends on the answers, in number and in options: 2 * 3 + 3 * (1 + 2 + 3) architectures."""

    def architecture(self, choose: Choose) -> tuple[Any, ...]:
        kind = choose("kind", ("short", "long"))
        if kind == "short":
            return (kind, choose("first", "ab"), choose("last", (1, 2, 3)))
        width = choose("width", (1, 2, 3))
        return (kind, width, choose("depth", range(width)), choose("last", (1, 2, 3)))


class Graph:
    """Two cells of growing graphs: each block has two different inputs among the earlier nodes, and an operation."""

    def __init__(self, blocks: int = 2, operations: Sequence[str] = ("conv", "pool", "skip")) -> None:
        self.blocks, self.operations = blocks, operations

    def architecture(self, choose: Choose) -> tuple[Any, ...]:
        return tuple(self._block(choose, cell, block) for cell in ("normal", "reduction") for block in range(self.blocks))

    def _block(self, choose: Choose, cell: str, block: int) -> tuple[Any, ...]:
        states = range(block + 2)
        first = choose(f"{cell}.{block}.inputs.0", states, node=True)
        second = choose(f"{cell}.{block}.inputs.1", [state for state in states if state != first], node=True)
        return first, second, choose(f"{cell}.{block}.operation", self.operations)


class Chain:
    """Layers that each have a kind and read any of the layers before; the first `layers` of up to three are stages."""

    def __init__(self, layers: int = 3, kinds: str = "ab") -> None:
        self.layers, self.kinds, self.stages = layers, kinds, layers

    def stage(self, number: int) -> Chain:
        return Chain(number, self.kinds)

    def architecture(self, choose: Choose) -> tuple[Any, ...]:
        return tuple(self._layer(choose, layer) for layer in range(self.layers))

    def _layer(self, choose: Choose, layer: int) -> tuple[Any, ...]:
        kind = choose(f"layers.{layer}.kind", self.kinds)
        reads = [choose(f"layers.{layer}.skips.{j}", (0, 1), member=f"layers.{j}") for j in range(layer)]
        return kind, tuple(reads)


class FastNasLike:
    """The questions of Fast NAS, in its order: the inputs of three merges, then a cell of one operation and three layers.

    positions: how many the layers of the cell choose from; 2, 5, 8 can name all earlier states.
    """

    OPERATIONS = tuple(f"operation_{number}" for number in range(11))

    def __init__(self, positions: tuple[int, ...] = (2, 5, 8)) -> None:
        self.positions = positions

    def architecture(self, choose: Choose) -> tuple[Any, ...]:
        values: list[Any] = [choose(f"merges.{i}.{j}", range(4 + i), node=True) for i in range(3) for j in range(2)]
        values.append(choose("cell.operation", self.OPERATIONS))
        for layer, count in enumerate(self.positions):
            values += [choose(f"cell.layers.{layer}.inputs.{j}", range(count), node=True) for j in range(2)]
            values += [choose(f"cell.layers.{layer}.operations.{j}", self.OPERATIONS) for j in range(2)]
        return tuple(values)
