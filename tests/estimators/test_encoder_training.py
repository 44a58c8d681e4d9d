"""Training the encoder behind a plain head: it learns, it resumes to the same bits, it refuses what does not fit."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from small_images import SmallImages

from segnas.data.demo import Demo
from segnas.data.transforms import DataConfig, Normalization
from segnas.errors import Diverged, Interrupted, UserError
from segnas.estimators import encoder_training
from segnas.estimators.encoder_training import EncoderConfig, train_encoder
from segnas.nets.mobilenet_v2 import MobileNetV2
from segnas.randomness import forked
from segnas.runs.run import Run
from segnas.training.device import Device

CONFIG = EncoderConfig(epochs=3, batch_size=4)
INDICES = range(2, 14)


class Training:
    """`train_encoder` of a fresh encoder on the demo, in a folder."""

    def __init__(self, demo: Demo, data: DataConfig, normalization: Normalization, device: Device) -> None:
        self.arguments = (demo, data, normalization, device)

    def __call__(self, folder: Path, config: EncoderConfig = CONFIG, seed: int = 5, indices: Any = INDICES) -> MobileNetV2:
        folder.mkdir(exist_ok=True)
        with forked(3):
            encoder = MobileNetV2(width=0.1, first_expansion=False, output_stride=16)
        train_encoder(*self.arguments, encoder, config, Run(folder), seed, indices)
        return encoder


@pytest.fixture
def train(demo: Demo, data: DataConfig, normalization: Normalization, device: Device) -> Training:
    return Training(demo, data, normalization, device)


def equal(first: MobileNetV2, second: MobileNetV2) -> bool:
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_it_learns_and_a_finished_one_is_only_loaded(train: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = train(tmp_path, EncoderConfig(epochs=6, batch_size=4))
    losses = [row["value"] for row in Run(tmp_path).metrics("encoder") if row["name"] == "loss"]
    assert len(losses) == 6
    assert losses[-1] < 0.8 * losses[0]
    assert not trained.training
    monkeypatch.setattr(encoder_training, "TrainingBatches", None)
    assert equal(train(tmp_path, EncoderConfig(epochs=6, batch_size=4)), trained)


def test_what_is_killed_goes_on_to_the_same_bits(train: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tmp_path / "whole")
    saving = Run.save_checkpoint
    with monkeypatch.context() as patch:

        def killed(run: Run, stage: str, state: dict[str, Any]) -> None:
            saving(run, stage, state)
            if state["epoch"] == 2:
                raise KeyboardInterrupt

        patch.setattr(Run, "save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed")
    assert not (tmp_path / "killed" / "encoder.safetensors").exists()
    assert equal(train(tmp_path / "killed"), whole)
    shown = [[row["step"] for row in Run(tmp_path / name).metrics("encoder")] for name in ("whole", "killed")]
    assert shown[0] == shown[1] == [1, 2, 3]


def test_a_stop_that_is_asked_for_keeps_the_whole_epochs(
    train: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole")
    steps: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_
    with monkeypatch.context() as patch:

        def asked(*arguments: Any) -> Any:
            steps.append(1.0)
            if len(steps) == 5:  # the second of the three steps of the second epoch
                os.kill(os.getpid(), signal.SIGINT)
            return clip(*arguments)

        patch.setattr(encoder_training.nn.utils, "clip_grad_norm_", asked)
        with pytest.raises(Interrupted, match="saved after epoch 1 of 3"):
            train(tmp_path / "stopped")
    assert equal(train(tmp_path / "stopped"), whole)


def test_images_and_seed_matter(train: Training, tmp_path: Path) -> None:
    once = EncoderConfig(epochs=1, batch_size=4)
    base = train(tmp_path / "base", once)
    assert not equal(base, train(tmp_path / "images", once, indices=range(12)))
    assert not equal(base, train(tmp_path / "seed", once, seed=6))
    assert equal(train(tmp_path / "all", once, indices=None), train(tmp_path / "fourteen", once, indices=range(14)))


def test_other_settings_are_refused(train: Training, tmp_path: Path) -> None:
    train(tmp_path, EncoderConfig(epochs=1, batch_size=4))
    with pytest.raises(UserError, match=r"was trained with encoder\.epochs=1, not 2; choose another folder") as caught:
        train(tmp_path, EncoderConfig(epochs=2, batch_size=4))
    assert "\n" not in str(caught.value)
    (tmp_path / "encoder.safetensors").unlink()
    with pytest.raises(UserError, match=r"was trained with seed=5, not 6"):
        train(tmp_path, EncoderConfig(epochs=1, batch_size=4), seed=6)
    (tmp_path / "encoder.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="delete it to train it again"):
        train(tmp_path, EncoderConfig(epochs=1, batch_size=4))


def test_a_loss_that_is_no_number(train: Training, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"no number in epoch 1; lower encoder\.learning_rate"):
        train(tmp_path, EncoderConfig(epochs=1, batch_size=4, optimizer="sgd", learning_rate=1e38, clip_norm=0))
    assert not (tmp_path / "checkpoints" / "encoder.pt").exists()


def test_it_needs_labels_of_pixels_and_enough_images(train: Training, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"3 images .* too few for batches of 4.*; set encoder\.batch_size to at most 3"):
        train(tmp_path, indices=range(3))
    train.arguments = (SmallImages(), *train.arguments[1:])  # type: ignore[assignment]
    with pytest.raises(UserError, match="small-images has one class an image"):
        train(tmp_path)
