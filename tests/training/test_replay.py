"""Replayed functions are the plain ones: by a stand-in for CUDA's graphs, and on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from host_copies import host_copies
from torch import Tensor, nn

from segnas.nets.auto_deeplab_supernet import AutoDeepLabSupernet
from segnas.nets.darts_supernet import DartsSupernet
from segnas.nets.engines import choose_engine
from segnas.spaces.darts import DartsOptions
from segnas.strategies.bilevel import frozen, gradients_of, move
from segnas.systems import auto_deeplab, darts
from segnas.tasks.base import cross_entropy
from segnas.training.device import DeviceConfig, launch
from segnas.training.replay import GRAPHS, WARM_UP, Replay, Results


class StandIn:
    """Records as CUDA does: a recording moves nothing, and a replay works on the same memory as the recording."""

    def __init__(self, *modules: nn.Module) -> None:
        self.state = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        self.told: list[str] = []

    def plainly(self, work: Callable[[], Results]) -> Results:
        self.told.append("plain")
        return work()

    def record(self, work: Callable[[], Results]) -> tuple[Results, Callable[[], None]]:
        self.told.append("record")
        before = [tensor.detach().clone() for tensor in self.state]
        results = work()
        for tensor, value in zip(self.state, before, strict=True):
            tensor.data.copy_(value)
        for result in results:
            if result is not None:
                result.fill_(torch.nan)  # nothing has been computed

        def run() -> None:
            self.told.append("replay")
            for place, value in zip(results, work(), strict=True):
                if place is not None and value is not None:
                    place.copy_(value)

        return results, run

    def forget(self) -> None:
        pass


class Learner:
    """A network with running statistics, its optimizer, and the function that is replayed."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()
        self.weights = list(self.network.parameters())
        self.optimizer = torch.optim.SGD(self.weights, lr=0.1, momentum=0.9)

    def gradients(self, images: Tensor, labels: Tensor) -> Results:
        return gradients_of(cross_entropy(self.network(images), labels), self.weights)

    def step(self, replay: Replay, images: Tensor, labels: Tensor, rate: float) -> float:
        self.optimizer.param_groups[0]["lr"] = rate
        loss, *gradients = replay(self.gradients, images, labels)
        move(self.weights, gradients, self.optimizer, 1.0)
        assert loss is not None
        return float(loss)


def batches(count: int, last: int = 4) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for number in range(count):
        size = last if number == count - 1 else 4
        images = torch.randn(size, 3, 8, 8, dtype=torch.float64, generator=generator)
        yield images, torch.randint(0, 2, (size, 6, 6), generator=generator)


def test_replayed_steps_are_the_plain_ones_bit_by_bit() -> None:
    """Warm-up, recording, replays, a rate that changes at each step, running statistics, and a last batch of another size."""
    plain, replayed = Learner(), Learner()
    stand_in = StandIn(replayed.network)
    replays = (Replay(), Replay(stand_in))
    for number, (images, labels) in enumerate(batches(9, last=3)):
        rate = 0.1 / (1 + number)
        losses = [one.step(replay, images, labels, rate) for one, replay in zip((plain, replayed), replays, strict=True)]
        assert losses[0] == losses[1]
        for one, other in zip(plain.network.state_dict().values(), replayed.network.state_dict().values(), strict=True):
            assert torch.equal(one, other)
    assert stand_in.told == ["plain"] * WARM_UP + ["record"] + ["replay"] * (8 - WARM_UP) + ["plain"]
    assert int(replayed.network[1].num_batches_tracked) == 9
    assert replays[1].warm_up == WARM_UP + 1


def test_without_a_recorder_the_function_is_called() -> None:
    given = torch.ones(2)
    replay = Replay()
    assert replay(lambda one: (one,), given)[0] is given
    assert replay.warm_up == 1
    assert launch(DeviceConfig(accelerator="cpu", graphs=True)).replay().recorder is None


def doubled(given: Tensor) -> Results:
    return (2 * given,)


def tripled(given: Tensor) -> Results:
    return (3 * given,)


def test_arguments_are_copied_and_results_lie_where_they_lay() -> None:
    replay = Replay(StandIn())
    places = set()
    for value in range(WARM_UP + 4):
        given = torch.full((2,), float(value))
        (found,) = replay(doubled, given)
        assert found is not None
        assert found.tolist() == [2.0 * value] * 2
        assert given.tolist() == [value] * 2
        if value >= WARM_UP:
            places.add(found.data_ptr())
    assert len(places) == 1


def test_a_new_function_warms_up_without_the_graphs_of_others() -> None:
    stand_in = StandIn()
    replay = Replay(stand_in)
    for _ in range(WARM_UP + 2):
        replay(doubled, torch.ones(1))
    stand_in.told.clear()
    for _ in range(WARM_UP):
        replay(doubled, torch.ones(1))
        replay(tripled, torch.ones(1))
    assert stand_in.told[0] == "replay", "nobody knows of the other one yet"
    assert stand_in.told[1:] == ["plain"] * (2 * WARM_UP - 1)
    stand_in.told.clear()
    assert [replay(function, torch.ones(1))[0].item() for function in (doubled, tripled)] == [2, 3]  # type: ignore[union-attr]
    assert stand_in.told == ["record", "replay"] * 2


def test_no_more_graphs_are_kept_than_a_few_and_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    stand_in = StandIn()
    replay = Replay(stand_in)
    for size in range(1, GRAPHS + 2):
        for _ in range(WARM_UP + 2):
            assert replay(doubled, torch.ones(size))[0].tolist() == [2.0] * size  # type: ignore[union-attr]
    assert stand_in.told.count("record") == GRAPHS
    assert stand_in.told[-2:] == ["plain"] * 2
    assert capsys.readouterr().err.count("without a CUDA graph") == 1


# What can be recorded, without a GPU ----------------------------------------------------------------------------------------


def auto_deeplab_on_meta() -> tuple[nn.Module, nn.Module]:
    config = auto_deeplab.SearchConfig(layers=3, blocks=2, filters=2, stem=(4, 4, 6), head_width=4)
    sizes = (config.layers, config.blocks, config.filters, config.operations, config.stem, config.head_width)
    return AutoDeepLabSupernet(3, *sizes).to("meta"), auto_deeplab.Relaxation(config, 0).to("meta")


def darts_on_meta(parts: int = 1) -> tuple[nn.Module, nn.Module]:
    config = darts.SearchConfig(channels=4, layers=3, blocks=2, head_width=4, partial_channels=parts, edge_weights=parts > 1)
    options = darts.supernet_options(config, DartsOptions(form="segmentation", channels=4, layers=3, aspp_rates=(1,)))
    supernet = DartsSupernet(3, options, config.blocks, config.operations, parts)
    return supernet.to("meta"), darts.Relaxation(config, 0).to("meta")


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("make", [auto_deeplab_on_meta, darts_on_meta, partial(darts_on_meta, 2)])
def test_the_steps_of_a_search_copy_nothing_from_the_host(make: Callable[[], Any], fused: bool) -> None:
    """Neither tensors made of Python's numbers nor values that Python reads: no graph could hold them."""
    supernet, relaxation = make()
    choose_engine(supernet, fused)
    weights, variables = list(supernet.parameters()), list(relaxation.parameters())
    images = torch.empty(2, 3, 65, 65, device="meta")
    labels = torch.empty(2, 65, 65, dtype=torch.long, device="meta")

    def of_weights(images: Tensor, labels: Tensor) -> Results:
        return gradients_of(cross_entropy(supernet(images, relaxation.mixture(detached=True)), labels), weights)

    def of_architecture(images: Tensor, labels: Tensor) -> Results:
        with frozen(weights):
            return gradients_of(cross_entropy(supernet(images, relaxation.mixture()), labels), variables)

    for function in (of_weights, of_architecture):
        seen = host_copies(function, [images, labels], supernet, relaxation)
        assert seen.calls > 100
        assert seen.found == {}


@pytest.mark.parametrize(
    "work",
    [lambda x: x[[0, 1]], lambda x: x * x.new_tensor([1.0, 2.0]), lambda x: x * torch.tensor([1.0, 2.0]).to(x.device)],
)
def test_what_comes_from_the_host_is_found(work: Callable[[Tensor], Tensor]) -> None:
    assert host_copies(work, [torch.empty(2, 2, device="meta")]).found
    assert not host_copies(lambda x: (x[0] * 2 + 1).relu().sum(), [torch.empty(2, 2, device="meta")]).found


# On a GPU -------------------------------------------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@needs_gpu
def test_steps_on_a_gpu_are_the_same_with_and_without_graphs() -> None:
    """Nine steps and an uneven one in float64, of a rate that changes; statistics and counters included."""
    found = []
    for graphs in (False, True):
        device = launch(DeviceConfig(accelerator="cuda", graphs=graphs))
        learner, replay = Learner(), device.replay()
        learner.network = device.place(learner.network)
        learner.weights = list(learner.network.parameters())
        learner.optimizer = torch.optim.SGD(learner.weights, lr=0.1, momentum=0.9)
        assert (replay.recorder is not None) == graphs
        steps = enumerate(batches(10, last=3))
        losses = [learner.step(replay, images.cuda(), labels.cuda(), 0.1 / (1 + number)) for number, (images, labels) in steps]
        found.append((losses, {name: tensor.clone() for name, tensor in learner.network.state_dict().items()}))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    for name, tensor in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], tensor, rtol=1e-10, atol=1e-12)


@needs_gpu
@pytest.mark.parametrize("name", ["auto-deeplab", "darts"])
@pytest.mark.parametrize("engine", ["plain", "fused"])
def test_a_search_on_a_gpu_takes_the_same_steps_with_and_without_graphs(name: str, engine: str) -> None:
    """Ten steps of both kinds in float64: weights, alpha, beta, running statistics."""
    make = auto_deeplab_on_meta if name == "auto-deeplab" else darts_on_meta
    found = []
    for graphs in (False, True):
        device = launch(DeviceConfig(accelerator="cuda", graphs=graphs))
        modules = [module.to_empty(device="cuda").double() for module in make()]
        torch.manual_seed(0)
        for tensor in (tensor for module in modules for tensor in (*module.parameters(), *module.buffers())):
            if tensor.is_floating_point():
                with torch.no_grad():
                    tensor.copy_(torch.rand(tensor.shape, dtype=tensor.dtype) * 0.2 + 0.1)
            else:
                tensor.zero_()
        found.append(ten_steps(*modules, device.replay(), engine == "fused", name == "auto-deeplab"))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def ten_steps(supernet: Any, relaxation: Any, replay: Replay, fused: bool, path: bool) -> list[Tensor]:
    choose_engine(supernet, fused)
    if path:  # buffers that are no statistics
        fresh = auto_deeplab.Relaxation(auto_deeplab.SearchConfig(layers=3, blocks=2, filters=2), 0)
        relaxation.possible.copy_(fresh.possible)
        relaxation.exists.copy_(fresh.exists)
    weights, variables = list(supernet.parameters()), list(relaxation.parameters())
    optimizers = torch.optim.SGD(weights, lr=0.01, momentum=0.9), torch.optim.Adam(variables, lr=0.01)

    def of_weights(images: Tensor, labels: Tensor) -> Results:
        return gradients_of(cross_entropy(supernet(images, relaxation.mixture(detached=True)), labels), weights)

    def of_architecture(images: Tensor, labels: Tensor) -> Results:
        with frozen(weights):
            return gradients_of(cross_entropy(supernet(images, relaxation.mixture()), labels), variables)

    generator = torch.Generator().manual_seed(2)
    for number in range(10):
        images = torch.randn(2, 3, 65, 65, dtype=torch.float64, generator=generator).cuda()
        labels = torch.randint(0, 3, (2, 65, 65), generator=generator).cuda()
        for function, optimizer, moved in zip((of_weights, of_architecture), optimizers, (weights, variables), strict=True):
            optimizer.param_groups[0]["lr"] = 0.01 / (1 + number)
            _, *gradients = replay(function, images, labels)
            move(moved, gradients, optimizer, 5.0)
    return [tensor.detach().clone() for tensor in (*supernet.state_dict().values(), *relaxation.state_dict().values())]


@needs_gpu
def test_what_cannot_be_recorded_is_said_in_one_line() -> None:
    """In a process of its own: a recording that failed leaves torch's allocator as it is."""
    import subprocess
    import sys

    program = """
import torch
from segnas.errors import UserError
from segnas.training.device import DeviceConfig, launch
replay = launch(DeviceConfig(accelerator="cuda")).replay()
def read(given):
    return (given * given.sum().item(),)
try:
    for _ in range(9):
        replay(read, torch.ones(3, device="cuda"))
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert "device.graphs=false" in done.stdout
    assert len(done.stdout.strip().splitlines()) == 1


@needs_gpu
def test_batches_sent_ahead_arrive_whole() -> None:
    from segnas.data.loading import Batch

    device = launch(DeviceConfig(accelerator="cuda"))
    made = [Batch(torch.full((2, 3, 64, 64), float(n)), torch.full((2, 64, 64), n), (str(n),)) for n in range(20)]
    for number, batch in enumerate(device.ahead(iter(made))):
        assert batch.names == (str(number),)
        assert batch.images.is_cuda
        assert torch.equal(batch.images.cpu(), made[number].images)
        assert torch.equal(batch.labels.cpu(), made[number].labels)
