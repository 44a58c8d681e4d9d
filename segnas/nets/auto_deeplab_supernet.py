"""The supernet of Auto-DeepLab: every path through the trellis and every cell at once (Liu et al., CVPR 2019, section 4.1).

    H^l_s = sum over s' in {s/2, s, 2s} of beta^l_{s'->s} * Cell(H^{l-1}_{s'}, H^{l-2}_s; alpha)                   (equation 7)
    H_i   = sum over the states j before block i, sum over the operations O, of alpha_{j->i}(O) * O(H_j)           (equations 3-5)

The forward pass takes the mixture (alpha and beta as probabilities) as an argument: how choices are relaxed is not the
network's business. nets/operations.py has the mixed cell.

One node (layer l, scale s) owns its operations and uses the same weights for its up to three incoming directions; each
direction has a preprocessing of its own and its own batch statistics. Where H^{l-2}_s does not exist, the node takes the
tensor of l-2 with the most similar size, reduced with stride 2 or 4 (the authors' rule).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce

import torch
from torch import Tensor, nn

from segnas.nets.blocks import FactorizedReduction, ReLUConvBN, Stem, resize, search_norm
from segnas.nets.engines import is_fused
from segnas.nets.fused import fused_graph
from segnas.nets.heads import ASPP
from segnas.nets.operations import MixedGraph
from segnas.spaces.auto_deeplab import LEVELS, AutoDeepLab, level_sizes, moves
from segnas.spaces.cells import edges

MOVES = (-1, 0, 1)  # the columns of beta: to s/2 (finer), stay, to 2s (coarser)


@dataclass(frozen=True)
class Mixture:
    """What a forward pass of the supernet weighs its terms with.

    alpha: (edges, operations) weight of each operation on each edge of the cell, shared by all cells.
    beta: (layers, levels, 3) weight of the moves that leave (layer l-1, level) in the order of `MOVES`.
    sparse: terms of weight exactly 0 are left out instead of being computed and multiplied, and so are the heads of scales
    that no path reaches; a one-hot mixture then evaluates one path and one operation an edge.
    """

    alpha: Tensor
    beta: Tensor
    sparse: bool = False


class Node(nn.Module):
    """One scale of one layer: a cell, the preprocessing of H^{l-2} and that of H^{l-1} from each direction."""

    def __init__(
        self,
        level: int,
        channels: int,
        blocks: int,
        operations: Sequence[str],
        before: tuple[int, int],
        sources: dict[int, int],
    ) -> None:
        """before: (channels, reduction factor) of H^{l-2}; sources: level of each existing H^{l-1} -> its channels."""
        super().__init__()
        self.level = level
        self.channels = channels
        width, factor = before
        reduced = partial(FactorizedReduction, stride=factor)
        self.before: nn.Module = (ReLUConvBN if factor == 1 else reduced)(width, channels, norm=search_norm)
        self.directions = nn.ModuleDict()
        for source, width in sources.items():
            if source < level:
                self.directions[str(source)] = FactorizedReduction(width, channels, stride=2, norm=search_norm)
            else:  # from 2s the input is resized first
                self.directions[str(source)] = ReLUConvBN(width, channels, norm=search_norm)
        self.cell = MixedGraph(blocks, operations, channels, search_norm)

    def enter(self, source: int, x: Tensor, size: tuple[int, int]) -> Tensor:
        """H^{l-1} of level `source`, brought to this node's size and channels."""
        entered: Tensor = self.directions[str(source)](resize(x, size) if source > self.level else x)
        return entered


class AutoDeepLabSupernet(nn.Module):
    """images (N, 3, H, W) and a `Mixture` -> logits (N, K, H, W). Any H and W; sizes by successive ceil(n/2)."""

    def __init__(
        self,
        num_classes: int,
        layers: int = 12,
        blocks: int = 5,
        filters: int = 8,
        operations: Sequence[str] = (),
        stem: tuple[int, int, int] = (64, 64, 128),
        head_width: int = 256,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.stem = Stem(in_channels, stem)
        widths = [blocks * filters * 2**level for level in range(LEVELS)]
        self.layers = nn.ModuleList()
        for layer in range(1, layers + 1):
            nodes = nn.ModuleDict()
            for level in levels_at(layer):
                source = source_before(layer, level)
                sources = {s: stem[2] if layer == 1 else widths[s] for s in levels_at(layer - 1) if level in moves(s)}
                width = stem[1] if layer == 1 else stem[2] if layer == 2 else widths[source]
                before = (width, 2 ** (level - source))
                nodes[str(level)] = Node(level, filters * 2**level, blocks, operations, before, sources)
            self.layers.append(nodes)
        self.heads = nn.ModuleDict()
        for level in levels_at(layers):  # dilation 96/s as the paper's search head: 24, 12, 6, 3
            aspp = ASPP(widths[level], head_width, rates=(24 // 2**level,), dropout=0.0)
            self.heads[str(level)] = nn.Sequential(nn.ReLU(), aspp, nn.Conv2d(head_width, num_classes, 1))

    def forward(self, images: Tensor, mixture: Mixture) -> Tensor:
        """One pass over all nodes that a path of positive weight reaches."""
        alpha, beta = (weights.tolist() if mixture.sparse else None for weights in (mixture.alpha, mixture.beta))
        before_stem, stem = self.stem(images)
        sizes = level_sizes(stem.shape[2:])
        before: dict[int, Tensor] = {-1: before_stem}  # H^{l-2} by level; the stem's first output has stride 2: level -1
        previous: dict[int, Tensor] = {0: stem}  # H^{l-1} by level

        for layer, nodes in enumerate(self.layers, start=1):
            outputs: dict[int, Tensor] = {}
            assert isinstance(nodes, nn.ModuleDict)
            for name, node in nodes.items():
                assert isinstance(node, Node)
                level = int(name)
                incoming = [
                    (source, move)
                    for source in previous
                    if (move := level - source) in MOVES and (beta is None or beta[layer - 1][source][move + 1] != 0.0)
                ]
                if not incoming:
                    continue  # reached by no path: the node does not exist in this mixture
                source_of_before = source_before(layer, level)
                if source_of_before in before:
                    state0 = node.before(before[source_of_before])
                else:  # H^{l-2} is on no path: the sum of equation 7 is empty there
                    state0 = stem.new_zeros((images.shape[0], node.channels, *sizes[level]))
                entered = [node.enter(source, previous[source], sizes[level]) for source, _ in incoming]
                weights = [mixture.beta[layer - 1, source, move + 1] for source, move in incoming]
                if is_fused(node.cell, mixture.sparse):  # all directions at once
                    paths = len(incoming)
                    cells = fused_graph(node.cell, state0, torch.cat(entered), mixture.alpha, paths=paths).chunk(paths)
                else:
                    cells = tuple(node.cell(state0, state1, mixture.alpha, alpha) for state1 in entered)
                outputs[level] = reduce(torch.add, (weight * cell for weight, cell in zip(weights, cells, strict=True)))
            before, previous = previous, outputs

        logits = (resize(self.heads[str(level)](features), sizes[0]) for level, features in previous.items())
        return resize(reduce(torch.add, logits), images.shape[2:])


def levels_at(layer: int) -> range:
    """The levels that exist after `layer` cells: the stem (layer 0) ends at level 0 and a move goes down one level at most."""
    return range(min(layer, LEVELS - 1) + 1)


def source_before(layer: int, level: int) -> int:
    """The level from which a node takes H^{l-2}: its own, or the nearest that exists (-1: the stem's tensor of stride 2)."""
    if layer == 1:
        return -1
    return min(level, levels_at(layer - 2)[-1])


def one_hot(architecture: AutoDeepLab, operations: Sequence[str], device: torch.device | str = "cpu") -> Mixture:
    """The mixture that has weight 1 on the architecture's choices and 0 elsewhere.

    An edge that a block uses twice with the same operation has weight 2, so that the cell's sums stay what they are.
    """
    blocks = len(architecture.cell)
    alpha = torch.zeros(len(edges(blocks)), len(operations), device=device)
    rows = {edge: row for row, edge in enumerate(edges(blocks))}
    for index, block in enumerate(architecture.cell):
        for state, operation in zip(block.inputs, block.operations, strict=True):
            alpha[rows[index, state], list(operations).index(operation)] += 1.0
    beta = torch.zeros(len(architecture.path), LEVELS, len(MOVES), device=device)
    for layer, (level, following) in enumerate(zip((0, *architecture.path[:-1]), architecture.path, strict=True)):
        beta[layer, level, MOVES.index(following - level)] = 1.0
    return Mixture(alpha, beta, sparse=True)
