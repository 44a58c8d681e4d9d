"""Several processes take the steps of one, end with the same weights, resume to the same bits and stop together.

On the CPU, over the loopback interface. tests/cli/test_torchrun.py starts whole commands.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from in_processes import in_processes, values
from torch import Tensor, nn

from segnas.config import replace
from segnas.data.base import IGNORE, Dataset, Sample
from segnas.data.loading import TrainingBatches
from segnas.data.transforms import DataConfig, Normalization
from segnas.errors import Disconnected, Interrupted, UserError
from segnas.nets.build import build
from segnas.runs.run import Run
from segnas.spaces.auto_deeplab import AutoDeepLab
from segnas.tasks.base import cross_entropy
from segnas.training import model as model_module
from segnas.training import retrain as module
from segnas.training.device import DeviceConfig, launch
from segnas.training.evaluate import EvaluationConfig, evaluate
from segnas.training.model import TrainedModel
from segnas.training.recipe import RetrainConfig
from segnas.training.retrain import Retraining, retrain

CPU = DeviceConfig(accelerator="cpu")
FULL = RetrainConfig(
    epochs=3,
    batch_size=2,
    learning_rate=0.05,
    warmup_steps=2,
    nesterov=True,
    clip_norm=1.0,
    class_weights="median_frequency",
    drop_path=0.7,
    ema_decay=0.9,
    validate_every=2,
)


def digest(network: nn.Module) -> str:
    """Of all weights and statistics, bit by bit."""
    found = hashlib.sha256()
    for tensor in network.state_dict().values():
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()


def metrics(path: Path) -> list[tuple[int, str, float]]:
    return [(row["step"], row["name"], row["value"]) for row in Run(path).metrics("retrain")]


def without_batch_norm(architecture: AutoDeepLab, num_classes: int) -> nn.Module:
    """The network with nothing that depends on how a batch is divided."""
    network = build(architecture, num_classes)
    for part in list(network.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(part, name, nn.Identity())
    return network


@pytest.fixture
def train(drawn: Dataset, architecture: AutoDeepLab, data: DataConfig, normalization: Normalization) -> Callable[..., str]:
    """Retrain in this process, on its device; the digest of what comes out."""

    def run_it(path: Path, config: RetrainConfig, dataset: Dataset = drawn) -> str:
        path.mkdir(exist_ok=True)
        return digest(retrain(architecture, dataset, data, normalization, config, Run(path), launch(CPU), seed=3).network)

    return run_it


@pytest.fixture
def plain_network(monkeypatch: pytest.MonkeyPatch, architecture: AutoDeepLab) -> AutoDeepLab:
    """An architecture that is built without batch norm and draws nothing at random."""
    for one in (module, model_module):
        monkeypatch.setattr(one, "build", without_batch_norm)
    return dataclasses.replace(architecture, network=dataclasses.replace(architecture.network, dropout=0.0))


def test_the_processes_agree(tmp_path: Path) -> None:
    def work() -> dict[str, Any]:
        device = launch(CPU)
        rank = device.global_rank
        averaged = [torch.full((2, 3), float(rank)).t(), torch.tensor([3 * rank], dtype=torch.float64)]
        shared = [torch.full((2,), rank), torch.tensor(rank / 2), torch.tensor([rank == 0])]
        device.average(averaged)
        device.same(shared)
        device.barrier()
        return {
            "world": device.world_size,
            "first": device.is_global_zero,
            "average": [tensor.tolist() for tensor in averaged],
            "same": [tensor.tolist() for tensor in shared],
            "total": device.total(torch.tensor([[1, rank]])).tolist(),
            "any": [device.any(rank == 2), device.any(False), device.any(True)],
            "gather": device.gather({"rank": rank}),
            "share": list(device.share(8)),
            "title": device.title,
        }

    found = values(tmp_path, 3, work)
    for rank, one in enumerate(found):
        assert one == {
            "world": 3,
            "first": rank == 0,
            "average": [[[1.0, 1.0]] * 3, [3.0]],
            "same": [[0, 0], 0.0, [True]],
            "total": [[3, 3]],
            "any": [True, False, True],
            "gather": [{"rank": 0}, {"rank": 1}, {"rank": 2}],
            "share": list(range(8))[rank::3],
            "title": "cpu, 1 thread",
        }


def test_in_one_process_nothing_is_touched() -> None:
    device = launch(CPU)
    tensor = torch.tensor([1.0, 2.0])
    device.average([tensor])
    device.same([tensor])
    device.barrier()
    assert device.total(tensor) is tensor
    assert (device.any(True), device.any(False), device.gather(5), list(device.share(3))) == (True, False, [5], [0, 1, 2])


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_averaged_gradient_is_that_of_the_whole_batch(count: int, weighted: bool, tmp_path: Path) -> None:
    """In float64, with parts that count many, few and no pixels."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(6, 3, 9, 9, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 4, (6, 9, 9), generator=generator)
    labels[0, :7] = IGNORE
    labels[-3:] = IGNORE
    labels[2] = IGNORE
    class_weights = torch.tensor([0.3, 2.0, 1.0, 5.0], dtype=torch.float64) if weighted else None
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Tanh(), nn.Conv2d(5, 4, 3, padding=1)).double()

    loss = cross_entropy(network(images), labels, class_weights)
    loss.backward()
    expected = [parameter.grad.clone() for parameter in network.parameters()]
    counted = labels != IGNORE
    by_pixel = nn.functional.cross_entropy(
        network(images), labels.masked_fill(~counted, 0), weight=class_weights, reduction="none"
    )
    weights = torch.ones(4, dtype=torch.float64) if class_weights is None else class_weights
    by_hand = by_pixel[counted].sum() / weights[labels[counted]].sum()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-12)
    network.zero_grad()

    def work() -> tuple[float, list[Tensor]]:
        device = launch(CPU)
        part = slice(device.global_rank * 6 // count, (device.global_rank + 1) * 6 // count)
        loss = cross_entropy(network(images[part]), labels[part], class_weights, average=device.average)
        loss.backward()
        gradients = [parameter.grad for parameter in network.parameters()]
        device.average([loss.detach(), *gradients])
        return loss.item(), [gradient.numpy() for gradient in gradients]

    for loss_found, gradients in values(tmp_path, count, work):
        assert loss_found == pytest.approx(loss.item(), rel=1e-12)
        for gradient, value in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(gradient, value.numpy(), rtol=1e-12, atol=1e-12)


def test_two_processes_take_the_steps_of_one(
    plain_network: AutoDeepLab, drawn: Dataset, data: DataConfig, normalization: Normalization, tmp_path: Path
) -> None:
    """Without batch norm, dropout and drop path: the same losses, scores and weights, to rounding."""
    config = replace(FULL, drop_path=1.0, learning_rate=0.02)

    def work(name: str) -> dict[str, Any]:
        path, logged = tmp_path / name, []
        path.mkdir(exist_ok=True)
        plain = Retraining.end_epoch
        Retraining.end_epoch = lambda self, run: logged.append(plain(self, run)) or logged[-1].copy()  # type: ignore
        try:
            trained = retrain(plain_network, drawn, data, normalization, config, Run(path), launch(CPU), seed=3)
        finally:
            Retraining.end_epoch = plain  # type: ignore[method-assign]
        weights = {key: tensor.numpy() for key, tensor in trained.network.state_dict().items()}
        return {"digest": digest(trained.network), "logged": logged, "weights": weights}

    one = work("one")
    first, second = values(tmp_path, 2, lambda: work("two"))
    assert first["digest"] == second["digest"]
    assert first["logged"] == second["logged"]
    assert len(first["logged"]) == 3
    for found, expected in zip(first["logged"], one["logged"], strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    for key, expected in one["weights"].items():
        np.testing.assert_allclose(first["weights"][key], expected, rtol=1e-3, atol=1e-5)
    assert [row[:2] for row in metrics(tmp_path / "two")] == [row[:2] for row in metrics(tmp_path / "one")]
    assert (tmp_path / "two" / "retrain.json").exists()


def ended_alike(ended: list[Any]) -> str:
    """What all processes were interrupted with, or the digest that all returned."""
    assert all(one.signal is None for one in ended)
    assert {type(one.error) for one in ended} in ({type(None)}, {Interrupted}), ended
    found = {one.value if one.error is None else str(one.error) for one in ended}
    assert len(found) == 1
    return found.pop()


def at_step(work: Callable[[], Any], number: int, rank: int | None, what: Callable[[], None]) -> Callable[[], Any]:
    """`work`, and in step `number` of one process (None: of each) `what`."""

    def disturbed() -> Any:
        plain = Retraining.train_step

        def step(self: Retraining, batch: Any) -> None:
            plain(self, batch)
            if self.step == number and rank in (None, self.device.global_rank):
                what()

        Retraining.train_step = step  # type: ignore[method-assign]
        return work()

    return disturbed


def test_stopped_and_killed_and_resumed_is_uninterrupted(
    train: Callable[..., str], drawn: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that has a state. The signal reaches one process, in the midst of an epoch, at its end, and in the last step."""
    whole = ended_alike(in_processes(tmp_path, 2, lambda: train(tmp_path / "whole", FULL)))

    def train_on() -> str:
        return train(tmp_path / "parts", FULL)

    for number, rank in ((2, 1), (3, 0), (5, 1)):
        stopped = at_step(train_on, number, rank, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert f"after step {number} of 9" in ended_alike(in_processes(tmp_path, 2, stopped))
    killed = at_step(train_on, 7, None, lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert [one.signal for one in in_processes(tmp_path, 2, killed)] == [signal.SIGKILL] * 2
    assert ended_alike(in_processes(tmp_path, 2, train_on)) == whole

    def save_whenever_rank_one_says() -> str:
        monkeypatch.setattr(module, "SAVE_EVERY", 0.0 if os.environ["RANK"] == "1" else 1e9)
        return train(tmp_path / "saved", FULL)

    assert ended_alike(in_processes(tmp_path, 2, save_whenever_rank_one_says)) == whole
    validated = [value for step, name, value in metrics(tmp_path / "whole") if (step, name) == (9, "mIoU")]
    assert validated == [evaluate(TrainedModel.load(tmp_path / "whole"), drawn, EvaluationConfig(), launch(CPU)).scores.mIoU]
    states = []
    for name in ("whole", "parts", "saved"):
        assert metrics(tmp_path / name) == metrics(tmp_path / "whole")
        assert (tmp_path / name / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
        state = Run(tmp_path / name).load_checkpoint("retrain")
        assert state is not None
        states.append({key: value.tolist() for key, value in state["network"].items()})
    assert states[0] == states[1] == states[2]


def test_validation_uses_the_statistics_that_would_be_saved(
    architecture: AutoDeepLab, drawn: Dataset, data: DataConfig, normalization: Normalization, tmp_path: Path
) -> None:
    """Those of the first process; between validations each keeps its own."""

    def work() -> tuple[str, str]:
        this = Retraining(architecture, drawn, data, normalization, replace(FULL, ema_decay=0.0), launch(CPU), seed=3)
        for batch in this.remaining_batches():
            this.train_step(batch)
        before = digest(this.network)
        this.validate()
        return before, digest(this.network)

    first, second = values(tmp_path, 2, work)
    assert first[0] != second[0]
    assert first[1] == second[1] == first[0]


class Unreadable:
    """A set whose images cannot be read in one process."""

    def __init__(self, dataset: Dataset, rank: int) -> None:
        self.name, self.task, self.classes = dataset.name, dataset.task, dataset.classes
        self.splits, self.size, self.dataset, self.rank = dataset.splits, dataset.size, dataset, rank

    def read(self, split: str, index: int) -> Sample:
        if os.environ.get("RANK") == str(self.rank) and split == "train":
            raise UserError(f"cannot read {split} {index}")
        return self.dataset.read(split, index)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_mistake_that_one_process_meets_ends_both(rank: int, train: Callable[..., str], drawn: Dataset, tmp_path: Path) -> None:
    config = replace(FULL, class_weights="none")
    ended = in_processes(tmp_path, 2, lambda: train(tmp_path / "run", config, Unreadable(drawn, rank)))
    assert str(ended[rank].error).startswith("cannot read train")
    other = ended[1 - rank].error
    assert isinstance(other, Disconnected)
    assert str(other).endswith("go on with --resume")
    assert "\n" not in str(other)
    assert max(one.seconds for one in ended) < 20


def test_a_loss_that_is_no_number_stops_both_with_the_same_line(
    train: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = module.cross_entropy

    def broken(*arguments: Any) -> Tensor:
        return plain(*arguments) * (float("nan") if os.environ["RANK"] == "1" else 1)

    monkeypatch.setattr(module, "cross_entropy", broken)
    ended = in_processes(tmp_path, 2, lambda: train(tmp_path / "run", FULL))
    assert {str(one.error) for one in ended} == {str(ended[0].error)}
    assert "the loss is no number at step 1" in str(ended[0].error)


def test_a_batch_that_cannot_be_shared_is_refused_by_all(train: Callable[..., str], tmp_path: Path) -> None:
    ended = in_processes(tmp_path, 2, lambda: train(tmp_path / "run", replace(FULL, batch_size=3)))
    for one in ended:
        assert isinstance(one.error, UserError)
        assert "retrain.batch_size=3 cannot be shared evenly by 2 processes" in str(one.error)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("split", ["val", "test"])
def test_the_evaluation_is_that_of_one_process(
    split: str, batch_size: int, architecture: AutoDeepLab, drawn: Dataset, normalization: Normalization, tmp_path: Path
) -> None:
    """Exactly; the split test has fewer images than there are processes."""
    torch.manual_seed(0)
    network = build(architecture, len(drawn.classes)).eval()
    model = TrainedModel(architecture, network, drawn.classes, normalization)
    config = EvaluationConfig(split=split, flip=True, batch_size=batch_size)

    def work(name: str) -> dict[str, Any]:
        (tmp_path / name).mkdir(exist_ok=True)
        found = evaluate(model, drawn, config, launch(CPU), Run(tmp_path / name)).to_json()
        return {key: value for key, value in found.items() if key != "seconds"}

    one = work("one")
    assert values(tmp_path, 2, lambda: work("two")) == [one, one]
    written = [Run(tmp_path / name).read_json("evaluation.json") for name in ("one", "two")]
    assert {**written[0], "seconds": 0} == {**written[1], "seconds": 0}
    panels = [sorted(path.name for path in (tmp_path / name / "panels").iterdir()) for name in ("one", "two")]
    assert panels[0] == panels[1]
    assert panels[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_parts_of_a_batch_make_the_batch(
    workers: int, drawn: Dataset, data: DataConfig, normalization: Normalization
) -> None:
    def batches(rank: int, world: int) -> TrainingBatches:
        config = replace(data, workers=workers)
        return TrainingBatches(drawn, "train", range(7), config, normalization, 6, 3, "test", "some.key", rank, world)

    whole, parts = batches(0, 1), [batches(rank, 3) for rank in range(3)]
    assert [len(part) for part in parts] == [len(whole)] * 3
    for epoch in (0, 1):
        for batch, *shares in zip(whole.epoch(epoch), *(part.epoch(epoch) for part in parts), strict=True):
            assert batch.names == tuple(name for share in shares for name in share.names)
            assert torch.equal(batch.images, torch.cat([share.images for share in shares]))
            assert torch.equal(batch.labels, torch.cat([share.labels for share in shares]))
    with pytest.raises(UserError, match=r"some\.key=6 cannot be shared evenly by 4 processes; set it to a multiple of 4"):
        batches(0, 4)
