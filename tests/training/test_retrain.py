"""Retraining: it learns, resumes to the same bits from wherever it stopped, and stops with one line when it runs away."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from segnas.config import replace
from segnas.data.base import IGNORE, Dataset, Sample
from segnas.data.transforms import DataConfig, Normalization
from segnas.errors import Interrupted, UserError
from segnas.runs.run import Run
from segnas.spaces.auto_deeplab import AutoDeepLab
from segnas.spaces.hand_made import UNet
from segnas.training import retrain as module
from segnas.training.device import Device, DeviceConfig, launch
from segnas.training.model import TrainedModel
from segnas.training.recipe import RetrainConfig
from segnas.training.retrain import Retraining, retrain

Train = Callable[..., TrainedModel]

# everything that has a state: momentum, average, dropout, drop path, class weights, warm-up, validation in the midst
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


@pytest.fixture
def train(drawn: Dataset, architecture: AutoDeepLab, data: DataConfig, normalization: Normalization, device: Device) -> Train:
    def run_it(
        path: Path, config: RetrainConfig, device: Device = device, seed: int = 3, dataset: Dataset = drawn
    ) -> TrainedModel:
        path.mkdir(exist_ok=True)
        return retrain(architecture, dataset, data, normalization, config, Run(path), device, seed)

    return run_it


def stop_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Press Ctrl-C during step `number` (from 1)."""
    plain = Retraining.train_step

    def step(self: Retraining, batch: Any) -> None:
        plain(self, batch)
        if self.step == number:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Retraining, "train_step", step)


def metrics(path: Path) -> list[tuple[int, str, float]]:
    return [(row["step"], row["name"], row["value"]) for row in Run(path).metrics("retrain")]


def assert_same(path: Path, other: Path) -> None:
    """The same weights, bit by bit, and the same measurements."""
    assert (path / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert metrics(path) == metrics(other)
    states = [Run(folder).load_checkpoint("retrain") for folder in (path, other)]
    for state in states:
        assert state is not None
        del state["seconds"]
    assert flattened(states[0]) == flattened(states[1])


def flattened(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: flattened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [flattened(item) for item in value]
    return value


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: Dataset,
    architecture: AutoDeepLab,
    data: DataConfig,
    normalization: Normalization,
    device: Device,
) -> Path:
    path = tmp_path_factory.mktemp("whole")
    retrain(architecture, drawn, data, normalization, FULL, Run(path), device, 3)
    return path


@pytest.mark.parametrize("step", range(1, 9))
def test_a_training_stopped_at_any_step_resumes_to_the_same_bits(
    step: int, train: Train, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(Interrupted, match=f"after step {step} of 9; go on with --resume"):
            train(tmp_path, FULL)
    assert not (tmp_path / "model.safetensors").exists()
    torch.manual_seed(step)  # the state outside must not matter
    train(tmp_path, FULL)
    assert_same(tmp_path, uninterrupted)


def kill_in_step(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Retraining.train_step

    def step(self: Retraining, batch: Any) -> None:
        plain(self, batch)
        if self.step == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(Retraining, "train_step", step)


def kill_while_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between writing the second checkpoint beside the first and putting it in its place."""
    plain, calls = os.replace, []

    def replace(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        plain(source, target)

    monkeypatch.setattr(os, "replace", replace)


def kill_before_the_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "write_json", lambda *_: os.kill(os.getpid(), signal.SIGKILL))


@pytest.mark.parametrize("kill", [kill_in_step, kill_while_saving, kill_before_the_summary])
def test_a_training_killed_with_sigkill_resumes_to_the_same_bits(
    kill: Callable[[pytest.MonkeyPatch], None],
    train: Train,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = os.fork()
    if child == 0:
        kill(monkeypatch)
        train(tmp_path, FULL)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    train(tmp_path, FULL)
    assert_same(tmp_path, uninterrupted)


def test_saving_within_an_epoch_changes_nothing(
    train: Train, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY", 0.0)
    train(tmp_path, FULL)
    assert_same(tmp_path, uninterrupted)


def test_losses_read_late_change_nothing(
    train: Train, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where reading a loss waits for its step."""
    plain = Retraining.settle
    monkeypatch.setattr(Retraining, "settle", lambda self: plain(self) if self.step % 3 == 0 else self.losses)
    train(tmp_path, FULL)
    assert_same(tmp_path, uninterrupted)


def test_stopping_in_the_last_step_still_finishes(
    train: Train, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, 9)
    with pytest.raises(Interrupted):  # what would follow the training is not begun
        train(tmp_path, FULL)
    assert_same(tmp_path, uninterrupted)


@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"channels_last": True}])
def test_bf16_channels_last_and_adamw_resume_to_the_same_bits(
    settings: dict[str, Any], train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = launch(DeviceConfig(accelerator="cpu", **settings))
    config = RetrainConfig(steps=5, batch_size=2, optimizer="adamw", learning_rate=0.01, decay_all=False, validate_every=0)
    train(tmp_path / "whole", config, device)
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(Interrupted):
            train(tmp_path / "stopped", config, device)
    train(tmp_path / "stopped", config, device)
    assert_same(tmp_path / "whole", tmp_path / "stopped")


def test_gradients_that_torch_gets_wrong_are_not_trained_with(train: Train, tmp_path: Path) -> None:
    device = launch(DeviceConfig(accelerator="cpu", precision="bf16", channels_last=True))
    with pytest.raises(UserError, match=r"bfloat16 gradients .* are wrong in NHWC .*; .* or with device\.channels_last=false"):
        train(tmp_path, RetrainConfig(steps=5, batch_size=2, validate_every=0), device)


def test_what_is_written(uninterrupted: Path, drawn: Dataset, architecture: AutoDeepLab) -> None:
    summary = Run(uninterrupted).read_json("retrain.json")
    assert {key: summary[key] for key in ("epochs", "steps", "batch_size")} == {"epochs": 3, "steps": 9, "batch_size": 2}
    assert summary["seconds"] > 0
    assert (
        "SGD (momentum 0.9, weight decay 0.0001), poly from 0.05 with power 0.9, 2 steps of warm-up, Nesterov"
        in summary["recipe"]
    )
    rows = metrics(uninterrupted)
    assert [step for step, name, _ in rows if name == "mIoU"] == [6, 9]
    losses = [value for _, name, value in rows if name == "loss"]
    assert [step for step, name, _ in rows if name == "loss"] == [3, 6, 9]
    assert summary["final_loss"] == losses[-1]
    model = TrainedModel.load(uninterrupted)
    assert (model.architecture, model.classes, model.resize) == (architecture, drawn.classes, 1.0)


def test_long_epochs_are_logged_within(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_EVERY", 2)
    train(tmp_path, RetrainConfig(epochs=1, batch_size=1, validate_every=0))
    losses = {step: value for step, name, value in metrics(tmp_path) if name == "loss"}
    assert list(losses) == [2, 4, 6, 7]


def test_a_finished_training_is_loaded_and_not_repeated(
    train: Train, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Retraining, "train_step", lambda *_: pytest.fail("trained again"))
    weights = train(uninterrupted, FULL).network.state_dict()
    again = TrainedModel.load(uninterrupted).network.state_dict()
    assert all(torch.equal(weights[key], again[key]) for key in again)


def test_a_kill_between_model_and_summary_only_writes_them_again(
    train: Train, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, FULL)
    (tmp_path / "retrain.json").unlink()
    (tmp_path / "model.safetensors").write_bytes(b"half")
    monkeypatch.setattr(Retraining, "train_step", lambda *_: pytest.fail("trained again"))
    train(tmp_path, FULL)
    assert_same(tmp_path, uninterrupted)


def test_the_weights_depend_on_the_seed(train: Train, uninterrupted: Path, tmp_path: Path) -> None:
    train(tmp_path, FULL, seed=4)
    assert (tmp_path / "model.safetensors").read_bytes() != (uninterrupted / "model.safetensors").read_bytes()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_learns_the_images_it_sees(
    optimizer: Any,
    drawn: Dataset,
    architecture: AutoDeepLab,
    data: DataConfig,
    normalization: Normalization,
    device: Device,
    tmp_path: Path,
) -> None:
    rate = {"sgd": 0.1, "adamw": 0.02}[optimizer]
    options = dataclasses.replace(architecture.network, filters=8, aspp_width=16, decoder_width=16, dropout=0.0)
    wider = dataclasses.replace(architecture, network=options)
    config = RetrainConfig(epochs=40, batch_size=2, optimizer=optimizer, learning_rate=rate, clip_norm=5.0, validate_every=40)
    retrain(wider, drawn, data, normalization, config, Run(tmp_path), device, seed=3)
    losses = [value for _, name, value in metrics(tmp_path) if name == "loss"]
    assert losses[-1] < 0.4 * losses[0]
    assert metrics(tmp_path)[-1][1] == "mIoU"
    assert metrics(tmp_path)[-1][2] > 60


def test_a_batch_of_one_trains(train: Train, tmp_path: Path) -> None:
    train(tmp_path, RetrainConfig(steps=3, batch_size=1, validate_every=0))
    assert all(tensor.isfinite().all() for tensor in TrainedModel.load(tmp_path).network.state_dict().values())


class Unlabelled:
    """A set whose labels count nowhere."""

    def __init__(self, dataset: Dataset) -> None:
        self.name, self.task, self.classes = dataset.name, dataset.task, dataset.classes
        self.splits, self.size = dataset.splits, dataset.size
        self.dataset = dataset

    def read(self, split: str, index: int) -> Sample:
        sample = self.dataset.read(split, index)
        label = sample.label.copy()
        label[:] = IGNORE
        return Sample(sample.name, sample.image, label)


def test_batches_without_counted_pixels_do_no_harm(train: Train, drawn: Dataset, tmp_path: Path) -> None:
    train(tmp_path, RetrainConfig(steps=2, batch_size=2, validate_every=0), dataset=Unlabelled(drawn))
    assert [value for _, name, value in metrics(tmp_path) if name == "loss"] == [0.0]


def test_a_loss_that_is_no_number_stops_with_one_line_and_keeps_the_checkpoint(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = module.cross_entropy
    calls = []

    def broken(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        return plain(*arguments) * (float("nan") if len(calls) == 5 else 1)

    monkeypatch.setattr(module, "cross_entropy", broken)
    with pytest.raises(UserError, match=r"the loss is no number at step 5 .*learning_rate.*clip_norm.*precision") as error:
        train(tmp_path, FULL)
    assert "\n" not in str(error.value)
    state = Run(tmp_path).load_checkpoint("retrain")
    assert state is not None
    assert state["step"] == 3
    assert not (tmp_path / "model.safetensors").exists()


def test_a_weight_that_is_no_number_is_never_saved(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Retraining.train_step

    def step(self: Retraining, batch: Any) -> None:
        plain(self, batch)
        if self.step == 6:
            with torch.no_grad():
                next(self.network.parameters()).fill_(float("inf"))

    monkeypatch.setattr(Retraining, "train_step", step)
    with pytest.raises(UserError, match="a weight is no number at step 6"):
        train(tmp_path, RetrainConfig(epochs=3, batch_size=2, validate_every=0))
    state = Run(tmp_path).load_checkpoint("retrain")
    assert state is not None
    assert state["step"] == 3


def test_training_starts_from_given_weights(
    train: Train, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = RetrainConfig(steps=1, batch_size=2, learning_rate=1e-12, weight_decay=0, validate_every=0, weights=uninterrupted)
    train(tmp_path, config)
    assert "weights from" in capsys.readouterr().err
    given, after = (TrainedModel.load(path).network for path in (uninterrupted, tmp_path))
    for parameter, other in zip(given.parameters(), after.parameters(), strict=True):
        assert torch.allclose(parameter, other, atol=1e-6)
    config = RetrainConfig(steps=1, batch_size=2, validate_every=0, weights=tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="no such file"):
        train(tmp_path / "other", config)


def test_what_cannot_be_trained_is_refused_before_any_work(
    train: Train, drawn: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Retraining, "train_step", lambda *_: pytest.fail("trained"))
    with pytest.raises(UserError, match="too few for batches of 8"):
        train(tmp_path, RetrainConfig(batch_size=8))
    without = Unlabelled(drawn)
    without.splits = {"train": drawn.splits["train"]}
    with pytest.raises(UserError, match="no split 'val'"):
        train(tmp_path, RetrainConfig(batch_size=2), dataset=without)


def test_a_network_made_by_hand_is_trained_and_loaded_again(
    drawn: Dataset, data: DataConfig, normalization: Normalization, device: Device, tmp_path: Path
) -> None:
    unet = UNet(filters=2, depth=2)
    config = RetrainConfig(epochs=1, batch_size=2, validate_every=1)
    model = retrain(unet, drawn, data, normalization, config, Run(tmp_path), device, 0)
    again = TrainedModel.load(tmp_path)
    assert again.architecture == unet
    weights = model.network.state_dict()
    assert all(torch.equal(weights[key], tensor) for key, tensor in again.network.state_dict().items())
    with pytest.raises(UserError, match=r"'unet' have no paths to drop; set retrain\.drop_path=1"):
        retrain(unet, drawn, data, normalization, replace(config, drop_path=0.8), Run(tmp_path / "other"), device, 0)


def test_the_moving_average_is_what_is_saved_and_validated(train: Train, tmp_path: Path) -> None:
    config = RetrainConfig(epochs=1, batch_size=2, learning_rate=0.2, ema_decay=0.99)
    model = train(tmp_path, config)
    state = Run(tmp_path).load_checkpoint("retrain")
    assert state is not None
    saved = model.network.state_dict()
    average, last = state["average"]["weights"], state["network"]
    assert all(torch.equal(saved[key], average[key]) for key in saved)
    assert not torch.equal(average["logits.weight"], last["logits.weight"])


def test_a_full_disk_keeps_the_last_checkpoint(
    train: Train, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = os.fsync, []

    def full(file: int) -> None:
        calls.append(file)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="the disk is full"):
            train(tmp_path, FULL)
    state = Run(tmp_path).load_checkpoint("retrain")
    assert state is not None
    assert state["step"] == 3
    train(tmp_path, FULL)
    assert_same(tmp_path, uninterrupted)
