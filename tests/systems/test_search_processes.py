"""Searches in two connected processes: both end with the same, a stop changes nothing, and the gradients are those of one.

On the CPU, over the loopback interface; tests/training/test_processes.py does the same for the training from scratch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from in_processes import in_processes, values
from test_resume import assert_same
from tiny_search import Drawn, tiny_config, tiny_darts
from torch import Tensor, nn

from segnas.config import to_dict
from segnas.data.transforms import Normalization
from segnas.errors import Interrupted
from segnas.runs.run import Run
from segnas.spaces.architecture import identity
from segnas.strategies.bilevel import move
from segnas.systems import auto_deeplab, darts, supernet_search
from segnas.systems.base import Job
from segnas.systems.settings import RunConfig
from segnas.training.device import launch

FEW: dict[str, Any] = {"blocks": 1, "operations": ("none", "skip_connect", "sep_conv_3x3")}
EVERYTHING: dict[str, Any] = {"partial_channels": 2, "edge_weights": True}
CASES: dict[str, tuple[Any, RunConfig]] = {
    "auto-deeplab": (auto_deeplab, tiny_config(batch_size=4)),
    "darts-first": (darts, tiny_darts(batch_size=4, stop_by_curvature=True, curvature_every=1, **FEW)),
    "darts-second": (darts, tiny_darts(batch_size=4, order="second", **EVERYTHING, **FEW)),
    "darts-fused": (darts, tiny_darts(batch_size=4, order="second", engine="fused", **EVERYTHING, **FEW)),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Any, RunConfig]:
    """A system's module and a tiny configuration: three epochs of two steps."""
    return CASES[request.param]


def job_in(path: Path, config: RunConfig, resume: bool = False) -> Job:
    """In this process, which is then connected; 16 images, so that a half is two batches of 4."""
    device = launch(config.device)
    run = Run.create(path, to_dict(config), resume)
    device.barrier()  # the folder is there for all
    return Job(config, Drawn(count=16), Normalization((0.3, 0.3, 0.3), (0.2, 0.2, 0.2)), run, device)


def digest(tensors: Iterable[Tensor]) -> str:
    """Of all numbers, bit by bit."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().numpy().tobytes())
    return found.hexdigest()


def searched(module: Any, job: Job, preflight: bool = False) -> tuple[str, str, str]:
    """Search: digest of the weights, digest of alpha and beta, identity of what was found."""
    if preflight:
        module.preflight(job)
    made: list[Any] = []
    plain = module.Search.__init__

    def noted(self: Any, job: Job) -> None:
        made.append(self)
        plain(self, job)

    module.Search.__init__ = noted
    try:
        found = module.search(job)
    finally:
        module.Search.__init__ = plain
        job.run.release()
    return digest(made[-1].weights), digest(made[-1].variables), identity(found)


@pytest.fixture(scope="module")
def whole(case: tuple[Any, RunConfig], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """An uninterrupted search in two processes: its run, and what each process ended with."""
    module, config = case
    folder = tmp_path_factory.mktemp("whole")
    return folder / "run", values(folder, 2, lambda: searched(module, job_in(folder / "run", config)))


def test_both_processes_end_with_the_same_search(
    case: tuple[Any, RunConfig], whole: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    """With a preflight or without."""
    path, (first, second) = whole
    assert first == second
    records = Run(path).read_json("search.json")["epochs"]
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert first[2] == records[-1]["id"]
    module, config = case
    checked = values(tmp_path, 2, lambda: searched(module, job_in(tmp_path / "run", config), preflight=True))
    assert checked == [first, first]
    assert_same(path, tmp_path / "run")


def interrupted_after(module: Any, number: int, rank: int, work: Callable[[], Any]) -> Callable[[], Any]:
    """`work`, and after so many steps of the search a signal that one process alone receives."""

    def disturbed() -> Any:
        plain, done = module.Search.search_step, [0]

        def step(self: Any, *batches: Any) -> None:
            plain(self, *batches)
            done[0] += 1
            if done[0] == number and self.job.device.global_rank == rank:
                os.kill(os.getpid(), signal.SIGTERM)

        module.Search.search_step = step
        return work()

    return disturbed


STOPS = [(3, 1), (1, 0), (1, 1)]  # (after so many steps, by which process): in an epoch, at its end, in the last one


@pytest.mark.parametrize("stops", [STOPS[:1], pytest.param(STOPS, marks=pytest.mark.slow)], ids=["once", "thrice"])
def test_a_search_that_was_stopped_and_goes_on_is_uninterrupted(
    stops: list[tuple[int, int]], case: tuple[Any, RunConfig], whole: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    module, config = case

    def go_on() -> Any:
        return searched(module, job_in(tmp_path / "run", config, resume=(tmp_path / "run").exists()))

    for number, rank in stops:
        ended = in_processes(tmp_path, 2, interrupted_after(module, number, rank, go_on))
        assert [type(one.error) for one in ended] == [Interrupted] * 2, ended
        assert str(ended[0].error) == str(ended[1].error)
    assert values(tmp_path, 2, go_on) == whole[1]
    assert_same(whole[0], tmp_path / "run")


@pytest.mark.slow
def test_killed_in_every_step_and_resumed_is_uninterrupted(
    case: tuple[Any, RunConfig], whole: tuple[Path, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both processes at once; every step is saved, else a kill in an epoch would always find its beginning."""
    module, config = case
    monkeypatch.setattr(supernet_search.Clock, "SAVE_EVERY", -1.0)

    def killed_in(number: int) -> Any:
        plain = module.Search.search_step

        def step(self: Any, *batches: Any) -> None:
            plain(self, *batches)
            if 2 * self.epoch + self.step == number:
                os.kill(os.getpid(), signal.SIGKILL)

        module.Search.search_step = step
        return searched(module, job_in(tmp_path / "run", config, resume=number > 1))

    for number in range(1, 7):
        ended = in_processes(tmp_path, 2, lambda number=number: killed_in(number))
        assert [one.signal for one in ended] == [signal.SIGKILL] * 2
    assert values(tmp_path, 2, lambda: searched(module, job_in(tmp_path / "run", config, resume=True))) == whole[1]
    assert_same(whole[0], tmp_path / "run")


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_the_number_of_processes_may_change(before: int, after: int, tmp_path: Path) -> None:
    """The sums of an epoch's losses, which the checkpoint holds for each process, go on as their mean."""
    module, config = CASES["darts-second"]

    def stop() -> Any:
        return searched(module, job_in(tmp_path / "run", config))

    ended = in_processes(tmp_path, before, interrupted_after(module, 3, 0, stop))
    assert {type(one.error) for one in ended} == {Interrupted}
    saved = Run(tmp_path / "run").load_checkpoint("search")
    assert saved is not None
    assert saved["sums"].shape == (before, 2)

    def loaded() -> list[float]:
        this = module.Search(job_in(tmp_path / "run", config, resume=True))
        this.load(saved)
        return this.sums.tolist()

    assert values(tmp_path, after, loaded) == [pytest.approx(saved["sums"].mean(dim=0).tolist())] * after
    ended = values(tmp_path, after, lambda: searched(module, job_in(tmp_path / "run", config, resume=True)))
    assert len(set(ended)) == 1
    assert [record["epoch"] for record in Run(tmp_path / "run").read_json("search.json")["epochs"]] == [1, 2, 3]


def without_batch_norm(network: nn.Module) -> nn.Module:
    """The network with nothing that depends on how a batch is divided."""
    for part in list(network.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(part, name, nn.Identity())
    return network


@pytest.fixture
def plain_supernets(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((auto_deeplab, "AutoDeepLabSupernet"), (darts, "DartsSupernet")):
        make = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *arguments, make=make: without_batch_norm(make(*arguments)))


def one_step(module: Any, job: Job) -> dict[str, list[np.ndarray]]:
    """Two steps in float64: the gradients of alpha and beta, and what alpha, beta and the weights are afterwards."""
    this = module.Search(job)
    this.supernet.double()
    this.relaxation.double()
    handed: list[np.ndarray] = []

    def noting(variables: Any, gradients: Any, optimizer: Any, *rest: Any, **named: Any) -> None:
        move(variables, gradients, optimizer, *rest, **named)
        if optimizer is this.architecture_optimizer:  # averaged in place
            handed.extend(gradient.numpy().copy() for gradient in gradients)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "move", noting)
        this.epoch = 1
        for pair in this.pairs():
            this.search_step(*(dataclasses.replace(batch, images=batch.images.double()) for batch in pair))
    job.device.average([this.sums])
    job.run.release()
    found = {"variables": this.variables, "weights": this.weights, "losses": [this.sums]}
    return {"gradients": handed, **{name: [one.detach().numpy() for one in tensors] for name, tensors in found.items()}}


def test_the_gradients_of_two_processes_are_those_of_one(
    case: tuple[Any, RunConfig], tmp_path: Path, plain_supernets: None
) -> None:
    """Without batch norm, in float64; a quotient of differences amplifies the rounding of second order."""
    module, config = case
    config = dataclasses.replace(config, search=dataclasses.replace(config.search, clip_norm=0.1))  # type: ignore[attr-defined, call-arg]
    one = one_step(module, job_in(tmp_path / "one", config))
    tolerance = 1e-6 if getattr(config.search, "order", "first") == "second" else 1e-10  # type: ignore[attr-defined]
    for found in values(tmp_path, 2, lambda: one_step(module, job_in(tmp_path / "two", config))):
        assert len(found["gradients"]) == len(one["gradients"]) > 2
        for name in ("gradients", "variables", "weights"):
            for tensor, expected in zip(found[name], one[name], strict=True):
                np.testing.assert_allclose(tensor, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())
        np.testing.assert_allclose(found["losses"][0], one["losses"][0], rtol=1e-6)


def test_the_curvature_of_two_processes_is_that_of_one(tmp_path: Path, plain_supernets: None) -> None:
    module, config = CASES["darts-first"]

    def curvature(name: str) -> float:
        this = module.Search(job_in(tmp_path / name, config))
        this.job.run.release()
        for number, variable in enumerate(this.variables):
            nn.init.normal_(variable, generator=torch.Generator().manual_seed(number))
        found: float = this.curvature()
        return found

    one = curvature("one")
    assert one > 0
    assert values(tmp_path, 2, lambda: curvature("two")) == [pytest.approx(one, rel=1e-3)] * 2
