"""PNAS: progressive neural architecture search (Liu et al., ECCV 2018, arXiv 1712.00559).

The idea: begin with cells of one block and try them all; learn to predict a cell's score from its blocks; then grow the best
cells by a block in every way, let the predictor say which are worth trying, try those, learn again, until the cells are whole.

    stage 1:   all cells of one block                                        136 that differ
    stage b:   grow the best K of stage b - 1 by every block;  try the K that the ensemble scores highest;  refit    (algorithm 1)

| paper                                                | here                                                                  |
|------------------------------------------------------|-----------------------------------------------------------------------|
| one cell, which also reduces; 8 operations, sums     | the same (spaces/nasnet_space.py)                                     |
| B = 5 stages, K = 256, 1,160 models in all           | preset `paper`; fewer by `first` and `beam` (search.options)          |
| ensemble of 5 MLPs (or LSTMs), each on 4/5 of scores | the same (strategies/predictor.py)                                    |
| child: N=2, F=24, 20 epochs, cosine from 0.01        | preset `paper`                                                        |
| a stage begins when the last one has ended           | when it is proposed: workers do not wait for the last trial           |
| the best cell is trained as a large network          | the best whole cell; zoo: pnasnet-5-*, exact counts                   |

Read on: trial_search.py (the loop), strategies/progressive.py, cell_trials.py (the proxy), nets/nasnet.py.
"""

from __future__ import annotations

from segnas.spaces.nasnet_space import PnasSpace
from segnas.systems.base import systems
from segnas.systems.cell_trials import cell_system

SYSTEM = cell_system(
    name="pnas",
    paper="Progressive Neural Architecture Search (ECCV 2018)",
    state="exact networks and counts; the search as described; a segmentation form of our own",
    make_space=lambda network: PnasSpace(network=network),
    strategy="progressive",
    few={"first": 4, "beam": 2},  # 4 + 4 x 2 trials
    hundreds={"first": 60, "beam": 35},
    published=(1160, {"beam": 256}, {"filters": 24, "stack_cells": 2, "epochs": 20, "learning_rate": 0.01}),
)
systems.register(SYSTEM.name)(SYSTEM)
