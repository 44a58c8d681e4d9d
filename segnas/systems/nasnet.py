"""NASNet: learning transferable architectures (Zoph, Vasudevan, Shlens, Le, CVPR 2018, arXiv 1707.07012).

The idea: search a normal and a reduction cell instead of a whole network, on small images in a small network, and stack copies of
them in a network of any size. A recurrent controller proposes the cells, block by block; proximal policy optimization moves it
towards cells whose networks score well.

    p(cells) = prod_t p(choice_t | choices before it)                  an LSTM, a softmax a choice     (strategies/controller.py)
    theta   <- PPO on R - b, b an exponential moving average of R      R: score of a short training    (strategies/ppo.py)

| paper                                                     | here                                                             |
|-----------------------------------------------------------|------------------------------------------------------------------|
| 5 blocks, 13 operations, add or concatenate               | the same (spaces/nasnet_space.py)                                |
| controller of one LSTM layer with 100 units, PPO          | the same settings in the preset `paper`; the others learn faster |
| 20,000 cells on 500 GPUs, 20 epochs on CIFAR-10, N=2, F=32| `search.trials`, workers or a Ray cluster; preset `paper`        |
| best 250 trained longer, then the best chosen             | `search.rerank` of the best                                      |
| the network of the ImageNet and CIFAR-10 tables           | zoo: nasnet-a-*, exact counts                                    |
| classification                                            | the same, and a segmentation form of network                     |

Read on: trial_search.py (the loop), cell_trials.py (the proxy), nets/nasnet.py.
"""

from __future__ import annotations

from segnas.spaces.nasnet_space import NasNetSpace
from segnas.strategies.ppo import NASNET
from segnas.systems.base import systems
from segnas.systems.cell_trials import cell_system

SYSTEM = cell_system(
    name="nasnet",
    paper="Learning Transferable Architectures for Scalable Image Recognition (CVPR 2018)",
    state="exact networks and counts; the search as described, with the constants that the paper gives; a segmentation form",
    make_space=lambda network: NasNetSpace(network=network),
    strategy="ppo",
    few={},  # the defaults of the strategy are for searches of tens or hundreds of trials
    hundreds={},
    published=(20_000, NASNET, {"filters": 32, "stack_cells": 2, "epochs": 20}),
)
systems.register(SYSTEM.name)(SYSTEM)
