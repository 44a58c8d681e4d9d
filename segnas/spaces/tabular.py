"""Spaces of tabular benchmarks: small enough that somebody trained every architecture and published the results.

    NAS-Bench-201       Dong and Yang, ICLR 2020: a cell of 4 nodes, an operation on each of its 6 edges; 5^6 = 15,625
    TransNAS-Bench-101  Duan et al., CVPR 2021: micro, the same cell with 4 operations (4^6 = 4,096), and macro, where a network
                        of 4 to 6 modules doubles its channels and halves its resolution (3,256)
    NAS-Bench-Macro     Su et al., CVPR 2021: one of 3 blocks in each of 8 layers; 3^8 = 6,561

Each family says how the benchmark itself writes an architecture (`name`). They have no networks here: what they are for is to
see in seconds how a strategy searches (estimators/tabular.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
from pydantic import ConfigDict

from segnas.errors import did_you_mean
from segnas.spaces.architecture import Architecture, families
from segnas.spaces.choice import Choose, NotInSpace, search_spaces

EDGES = 6  # of a cell of 4 nodes, by target node, then by source: 1<-0, 2<-0, 2<-1, 3<-0, 3<-1, 3<-2
NASBENCH201_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
TRANSNAS_OPERATIONS = ("none", "skip_connect", "conv_1x1", "conv_3x3")  # the digits 0 to 3
MACRO_BLOCKS = ("identity", "mb3_k3", "mb6_k5")  # expansion and kernel of inverted bottlenecks; the digits 0 to 2
MACRO_LAYERS = 8
DEPTHS = (4, 5, 6)  # modules of a TransNAS macro network
MODULES = (1, 2, 3, 4)  # plain, twice the channels, half the resolution, both
DOUBLING, HALVING = (2, 4), (3, 4)  # the modules that do so
DOUBLINGS, HALVINGS = (1, 3), (1, 4)  # fewest and most in a network


def _require(values: tuple[str, ...], count: int, allowed: tuple[str, ...], name: str) -> None:
    """Raise ValueError unless there are `count` values, all of them allowed."""
    if len(values) != count:
        raise ValueError(f"{name} has {len(values)} entries; it needs {count}")
    for place, value in enumerate(values):
        if value not in allowed:
            raise ValueError(f"{name}.{place}: unknown operation '{value}'{did_you_mean(value, allowed)}")


@families.register("nasbench201")
@dataclass(frozen=True)
class NasBench201:
    """The operation on each edge of the cell, by target node, then by source."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    edges: tuple[str, ...]

    def __post_init__(self) -> None:
        _require(self.edges, EDGES, NASBENCH201_OPERATIONS, "edges")

    @property
    def name(self) -> str:
        """As the benchmark writes it: |nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|."""
        a, b, c, d, e, f = self.edges
        return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"


@families.register("transnas-micro")
@dataclass(frozen=True)
class TransNasMicro:
    """The operation on each edge of the cell, by target node, then by source."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    edges: tuple[str, ...]

    def __post_init__(self) -> None:
        _require(self.edges, EDGES, TRANSNAS_OPERATIONS, "edges")

    @property
    def name(self) -> str:
        """As the benchmark writes it: 64-41414-3_02_011, a digit an edge, after what the network fixes."""
        a, b, c, d, e, f = (TRANSNAS_OPERATIONS.index(operation) for operation in self.edges)
        return f"64-41414-{a}_{b}{c}_{d}{e}{f}"


@families.register("transnas-macro")
@dataclass(frozen=True)
class TransNasMacro:
    """depth: number of modules. modules: 1 plain, 2 twice the channels, 3 half the resolution, 4 both."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    depth: int
    modules: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.depth not in DEPTHS or len(self.modules) != self.depth:
            raise ValueError(f"depth is {self.depth} for {len(self.modules)} modules; there are 4 to 6 of them")
        for place, module in enumerate(self.modules):
            if module not in MODULES:
                raise ValueError(f"modules.{place} is {module}; allowed: 1 to 4")
        for kind, (least, most), digits in (("doublings", DOUBLINGS, DOUBLING), ("halvings", HALVINGS, HALVING)):
            count = sum(module in digits for module in self.modules)
            if not least <= count <= most:
                raise ValueError(f"modules has {count} {kind}; it needs {least} to {most}")

    @property
    def name(self) -> str:
        """As the benchmark writes it: 64-2311-basic."""
        return f"64-{''.join(map(str, self.modules))}-basic"


@families.register("nasbench-macro")
@dataclass(frozen=True)
class NasBenchMacro:
    """The block of each layer."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    layers: tuple[str, ...]

    def __post_init__(self) -> None:
        _require(self.layers, MACRO_LAYERS, MACRO_BLOCKS, "layers")

    @property
    def name(self) -> str:
        """As the benchmark writes it: 22212220, a digit a layer."""
        return "".join(str(MACRO_BLOCKS.index(block)) for block in self.layers)


@search_spaces.register("nasbench201")
@dataclass(frozen=True)
class NasBench201Space:
    """5 operations on each of 6 edges."""

    def architecture(self, choose: Choose) -> NasBench201:
        """The architecture of one series of choices, edge by edge."""
        return NasBench201(tuple(choose(f"edges.{edge}", NASBENCH201_OPERATIONS) for edge in range(EDGES)))


@search_spaces.register("transnas-micro")
@dataclass(frozen=True)
class TransNasMicroSpace:
    """4 operations on each of 6 edges."""

    def architecture(self, choose: Choose) -> TransNasMicro:
        """The architecture of one series of choices, edge by edge."""
        return TransNasMicro(tuple(choose(f"edges.{edge}", TRANSNAS_OPERATIONS) for edge in range(EDGES)))


@search_spaces.register("nasbench-macro")
@dataclass(frozen=True)
class NasBenchMacroSpace:
    """3 blocks in each of 8 layers."""

    def architecture(self, choose: Choose) -> NasBenchMacro:
        """The architecture of one series of choices, layer by layer."""
        return NasBenchMacro(tuple(choose(f"layers.{layer}", MACRO_BLOCKS) for layer in range(MACRO_LAYERS)))


@search_spaces.register("transnas-macro")
@dataclass(frozen=True)
class TransNasMacroSpace:
    """The depth, then module by module what still leads to a legal network: 1 to 3 doublings, 1 to 4 halvings.

    Uniform choices would favour shallow networks, and changing the depth would draw most modules anew; so `sample` is uniform
    over architectures, and to mutate is to change one module.
    """

    def architecture(self, choose: Choose) -> TransNasMacro:
        """The architecture of one series of choices."""
        depth = choose("depth", DEPTHS)
        modules: tuple[int, ...] = ()
        for place in range(depth):
            legal = [module for module in MODULES if _can_be_legal((*modules, module), depth)]
            modules += (choose(f"modules.{place}", legal),)
        return TransNasMacro(depth, modules)

    def sample(self, generator: np.random.Generator) -> TransNasMacro:
        """Uniform over the 3,256 architectures."""
        every = all_macro()
        return every[int(generator.integers(len(every)))]

    def mutate(self, architecture: Architecture, generator: np.random.Generator) -> TransNasMacro:
        """One module is changed, uniformly over all changes that are legal; the depth stays."""
        others = tuple(self.neighbours(architecture))
        return others[int(generator.integers(len(others)))]

    def neighbours(self, architecture: Architecture) -> Iterator[TransNasMacro]:
        """Every legal architecture of the same depth with one other module; raises NotInSpace for one of another family."""
        if not isinstance(architecture, TransNasMacro):
            raise NotInSpace(f"the architecture is not in this space: it is a {type(architecture).__name__}")
        modules = architecture.modules
        for place, module in itertools.product(range(architecture.depth), MODULES):
            changed = (*modules[:place], module, *modules[place + 1 :])
            if changed != modules and _can_be_legal(changed, architecture.depth):
                yield TransNasMacro(architecture.depth, changed)


@cache
def _can_be_legal(modules: tuple[int, ...], depth: int) -> bool:
    """Whether a network of this depth that begins so can have the doublings and halvings that it needs, and no more."""
    left = depth - len(modules)
    for digits, (least, most) in ((DOUBLING, DOUBLINGS), (HALVING, HALVINGS)):
        count = sum(module in digits for module in modules)
        if not (count <= most and count + left >= least):
            return False
    return True


@cache
def all_macro() -> tuple[TransNasMacro, ...]:
    """Every architecture of the TransNAS macro space, shallow ones first, then by digits."""
    return tuple(
        TransNasMacro(depth, modules)
        for depth in DEPTHS
        for modules in itertools.product(MODULES, repeat=depth)
        if _can_be_legal(modules, depth)
    )
