"""Opening a run: the command that repeats it, its environment, and data that changed since."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnas.cli import main
from segnas.data import open_dataset
from segnas.errors import UserError
from segnas.plans import command, plan
from segnas.runs.run import Run
from segnas.workplace import fingerprint, require_same_data, timed, write_environment

OVERRIDES = ["seed=3", "search.crop=[65,33]", "retrain.weight_decay=1e-5", "retrain.class_weights=median_frequency"]


def test_the_command_of_a_run_makes_the_same_plan(tmp_path: Path) -> None:
    asked = plan("auto-deeplab", str(tmp_path / "my images"), "quick", [*OVERRIDES, "export.size=[64,64]"])
    words = shlex.split(command(asked, tmp_path / "out"))
    assert words[:3] == ["segnas", "run", "auto-deeplab"]
    assert words[words.index("--data") + 1] == str(tmp_path / "my images")
    given = words[words.index("--out") + 2 :]
    assert len(given) == 5, "only what differs from the preset"
    assert plan("auto-deeplab", str(tmp_path / "my images"), "quick", given) == asked


def test_without_a_system_the_command_retrains_the_architecture(tmp_path: Path) -> None:
    words = command(plan(None, "demo", "small", ["seed=3"]), tmp_path)
    assert words == f"segnas retrain {tmp_path}/architecture.json --data demo --preset small --out {tmp_path} seed=3"


def test_the_command_of_several_processes_starts_as_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "test", "RANK": "0", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    words = command(plan(None, "demo", "small"), tmp_path)
    assert words.startswith("torchrun --nnodes 2 --nproc-per-node 4 -m segnas retrain ")


def test_the_first_environment_stays_and_another_is_added(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for device in ("gpu", "gpu", "cpu", "gpu", "cpu"):
        write_environment(run, {"device": device})
    assert run.read_json("environment.json") == {"device": "gpu", "later": [{"device": "cpu"}]}


def test_a_stage_that_counts_its_own_seconds_is_believed(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with timed(run, "search"):
        run.write_json("search.json", {"seconds": 1234.5})
    with timed(run, "export"):
        pass
    timing = run.read_json("timing.json")
    assert timing["search"] == 1234.5
    assert timing["export"] < 60


def test_images_added_to_a_folder_without_splits_are_noticed(tmp_path: Path) -> None:
    """They would redraw its split: what was trained on would be scored."""

    def draw(number: int) -> None:
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
            content = np.full((40, 48, 3), number, np.uint8) if folder == "images" else np.arange(1920).reshape(40, 48) % 2
            Image.fromarray(content.astype(np.uint8)).save(tmp_path / folder / f"{number}.png")

    for number in range(12):
        draw(number)
    stored = {"fingerprint": fingerprint(open_dataset(tmp_path))}
    require_same_data(stored, open_dataset(tmp_path), Path("runs/first"))
    draw(12)
    with pytest.raises(UserError, match="other images, splits or classes than when runs/first was started"):
        require_same_data(stored, open_dataset(tmp_path), Path("runs/first"))


def test_one_pixel_a_channel_is_refused_before_the_training(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = f"run auto-deeplab --data demo --preset quick --out {tmp_path}/run retrain.batch_size=1 data.crop=[32,32]"
    with pytest.raises(SystemExit) as stopped:
        main(words.split())
    assert stopped.value.code == 2
    assert "too few for batch norm" in capsys.readouterr().err
