"""Which candidates are trained further after a first stage: the rule of Fast NAS, as a function of the scores before.

Source: Nekrasov et al., CVPR 2019 (arXiv 1810.10804), section 3.3, and its public code. With r the score of the first stage,

    m <- 0.99 m + 0.01 r        a mean of all first-stage scores, which begins at 1 percent and has r in it
    reference:   go on if r > m, or if r > m (1 - u), u uniform in 0 .. delta:  P(go on | r < m) = max(0, 1 - (1 - r/m) / delta)
    bernoulli:   go on if r > m, or with probability delta                              (the paper's words)

delta begins at 0.9 and is multiplied by 0.9, 0.8, 0.7 and 0.6 from the 101st, 201st, 301st and 401st score on. The public code
counts those that beat the mean twice and may thus jump over such a number; here every score counts once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

Mode = Literal["reference", "bernoulli", "none"]
DECAY = 0.99  # of the mean
FIRST_MEAN = 1.0  # percent
FIRST_DELTA = 0.9
TIGHTER = {100: 0.9, 200: 0.8, 300: 0.7, 400: 0.6}  # scores before -> factor of delta


def standing(scores: Iterable[float]) -> dict[str, float | int]:
    """What the next candidate is compared with, from the first-stage scores before it, in percent and in their order.

    {"mean": of them, "delta": for the next, "finished": how many}: the hint of an estimator.
    """
    mean, delta, finished = FIRST_MEAN, FIRST_DELTA, 0
    for score in scores:
        mean = DECAY * mean + (1 - DECAY) * score
        finished += 1
        delta *= TIGHTER.get(finished, 1.0)
    return {"mean": mean, "delta": delta, "finished": finished}


def goes_on(score: float, hint: Mapping[str, Any], mode: Mode, draw: float) -> bool:
    """Whether a candidate of this first-stage score, in percent, is trained further. hint: from `standing`; draw: in 0 .. 1."""
    if mode == "none":
        return True
    mean = DECAY * float(hint["mean"]) + (1 - DECAY) * score
    if score > mean:
        return True
    if mode == "bernoulli":
        return draw < float(hint["delta"])
    return score > mean * (1 - draw * float(hint["delta"]))
