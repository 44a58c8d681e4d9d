"""The early stop of the search of DARTS: when it comes, where it returns to, and the curvature that it rests on."""

from __future__ import annotations

import signal
from typing import Any

import numpy as np
import pytest
import torch
from tiny_search import SMALL, MakeJob, tiny_darts, without_seconds
from torch import Tensor
from torch.nn import functional as F

from segnas.errors import Interrupted
from segnas.nets.engines import choose_engine
from segnas.spaces.architecture import identity
from segnas.systems import darts
from segnas.systems.darts import (
    DartsConfig,
    Search,
    search,
)

EPOCHS = 24
MADE_UP = [1.0] * 13 + [2.0] * (EPOCHS - 13)  # epoch (from 0) -> eigenvalue


def expected_stop() -> tuple[int, int]:
    """(epochs done, epoch from 1 to return to), by hand from the rule of Zela et al. with a window of 5 and a delay of 4."""
    means = {last - 2: np.mean(MADE_UP[last - 4 : last + 1]) for last in range(4, EPOCHS)}  # by the epoch in the middle
    for last in range(EPOCHS):
        now, before = last - 2, last - 6
        if before >= 10 and means[now] / means[before] > 1.3:
            return last + 1, before + 1
    raise AssertionError


@pytest.fixture
def made_up_curvature(monkeypatch: pytest.MonkeyPatch) -> DartsConfig:
    """A search whose decoded architecture changes often, with eigenvalues that grow from epoch 13 on."""
    monkeypatch.setattr(Search, "curvature", lambda self: MADE_UP[self.epoch])
    monkeypatch.setattr(Search, "score", lambda self, mixture: 50.0)
    settings = {"stop_by_curvature": True, "curvature_every": 1, "steps_per_epoch": 1, "architecture_learning_rate": 5.0}
    return tiny_darts(epochs=EPOCHS, **{**SMALL, **settings})


def test_the_search_ends_when_the_curvature_grows_and_returns_to_an_earlier_epoch(
    made_up_curvature: DartsConfig, make_job: MakeJob, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(config=made_up_curvature)
    found = search(job)
    records = job.run.read_json("search.json")["epochs"]
    done, back = expected_stop()
    assert (done, back) == (17, 11)
    assert [record["eigenvalue"] for record in records] == MADE_UP[:done]
    assert identity(found) == records[back - 1]["id"]
    assert records[back - 1]["id"] != records[-1]["id"], "otherwise the test says nothing"
    assert "ended after epoch 17 of 24 and returns to epoch 11" in " ".join(capsys.readouterr().err.split())
    job.run.release()
    again = make_job(config=made_up_curvature, resume=True)
    assert search(again) == found, "a search that has ended stays ended"


def test_an_early_end_comes_at_the_same_epoch_after_a_stop(
    made_up_curvature: DartsConfig, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_job("whole", made_up_curvature)
    found = search(whole)
    step = Search.search_step

    def stopped(self: Search, *batches: Any) -> None:
        step(self, *batches)
        if self.epoch == 14:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Search, "search_step", stopped)
    job = make_job("parts", made_up_curvature)
    with pytest.raises(Interrupted, match="saved"):
        search(job)
    job.run.release()
    monkeypatch.setattr(Search, "search_step", step)
    job = make_job("parts", made_up_curvature, resume=True)
    assert search(job) == found
    assert without_seconds(job.run.read_json("search.json")) == without_seconds(whole.run.read_json("search.json"))


def test_the_curvature_is_looked_at_every_few_epochs(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Search, "curvature", lambda self: 1.0 + self.epoch)
    job = make_job(config=tiny_darts(epochs=5, stop_by_curvature=True, curvature_every=2, steps_per_epoch=1, **SMALL))
    search(job)
    records = job.run.read_json("search.json")["epochs"]
    assert {record["epoch"]: record["eigenvalue"] for record in records if "eigenvalue" in record} == {1: 1.0, 3: 3.0, 5: 5.0}


def test_the_curvature_is_that_of_the_loss_on_train_b_and_leaves_no_trace(make_job: MakeJob) -> None:
    """Against torch's own Hessian of the same function, with the weight decay of alpha on its diagonal."""
    this = Search(make_job(config=tiny_darts(architecture_weight_decay=0.25, edge_weights=True, engine="fused", **SMALL)))
    for variable in this.variables:
        torch.nn.init.normal_(variable)
    before = {name: tensor.clone() for name, tensor in this.supernet.state_dict().items()}
    state = torch.get_rng_state()
    found = this.curvature()
    choose_engine(this.supernet, False)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in this.supernet.state_dict().items())
    assert all(tensor.grad is None for tensor in [*this.variables, *this.weights])
    batch = next(this.train_b.epoch(0))
    sizes = [variable.shape for variable in this.variables]

    def loss(flat: Tensor) -> Tensor:
        parts = [part.view(size) for part, size in zip(flat.split([s.numel() for s in sizes]), sizes, strict=True)]
        weights = [part.softmax(-1) for part in parts]  # one block: beta is a softmax over all of its edges
        logits = this.supernet.train()(batch.images, darts.Mixture(*weights))
        return F.cross_entropy(logits, batch.labels, ignore_index=255)

    flat = torch.cat([variable.detach().flatten() for variable in this.variables])
    matrix = torch.autograd.functional.hessian(loss, flat)
    regularised = matrix.double() + 0.25 * torch.eye(len(flat), dtype=torch.float64)
    assert found == pytest.approx(float(torch.linalg.eigvalsh(regularised)[-1]), rel=1e-4)
    assert found > 0.25
