"""AmoebaNet: regularized evolution for image classifiers (Real, Aggarwal, Huang, Le, AAAI 2019, arXiv 1802.01548).

The idea: keep a population of the architectures that were tried last, draw a few of them, mutate the best of these, try the
child, and drop the oldest of the population, however good it is. Age keeps the search from clinging to a score that was luck.

    population <- P random architectures
    repeat:   parent = best of S drawn with replacement;   child = mutate(parent);   append child, drop the oldest    (alg. 1)
    mutate:   a cell, uniformly; then with 0.475 another input of one of its ten sides, with 0.475 another operation, else nothing

| paper                                             | here                                                                     |
|---------------------------------------------------|--------------------------------------------------------------------------|
| P = 100, S = 25, 20,000 models on 450 GPUs        | preset `paper`; P and S of the others are smaller (search.options)       |
| NASNet's space with 8 operations, sums alone      | the same (spaces/nasnet_space.py, its own `mutate`)                      |
| aging, and non-aging for comparison               | the same: `search.options.evolution.aging=false` drops the worst         |
| child: N=3, F=24, 25 epochs on CIFAR-10           | preset `paper`                                                           |
| failed children are not spoken of                 | a failed trial never enters the population                               |
| AmoebaNet-A, -B, -C, -D                           | zoo: amoebanet-*, exact counts where the paper's are reproduced          |

Read on: trial_search.py (the loop), strategies/evolution.py, cell_trials.py (the proxy), nets/nasnet.py.
"""

from __future__ import annotations

from segnas.spaces.nasnet_space import AmoebaNetSpace
from segnas.systems.base import systems
from segnas.systems.cell_trials import cell_system

SYSTEM = cell_system(
    name="amoebanet",
    paper="Regularized Evolution for Image Classifier Architecture Search (AAAI 2019)",
    state="exact networks, counts and evolution; a segmentation form of our own",
    make_space=lambda network: AmoebaNetSpace(network=network),
    strategy="evolution",
    few={"population": 5, "sample": 3},
    hundreds={"population": 20, "sample": 5},
    published=(20_000, {"population": 100, "sample": 25}, {"filters": 24, "stack_cells": 3, "epochs": 25}),
)
systems.register(SYSTEM.name)(SYSTEM)
