"""The system printed in docs/adding_a_system.md, saved and run as a reader would, from search to report."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import segnas
from segnas.runs.run import Run
from segnas.systems.base import load_system

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding_a_system.md"
TINY = [
    "trials=3", "trial_epochs=1", "data.crop=[33,33]", "device.accelerator=cpu", "retrain.epochs=1", "retrain.batch_size=2",
    "retrain.warmup_steps=0", "network.filters=2", "network.stem=[4,4,8]", "network.aspp_width=4", "network.aspp_rates=[1]",
    "network.low_level_width=2", "network.decoder_width=4",
]  # fmt: skip


def example() -> str:
    (block,) = re.findall(r"<!-- a test runs this file -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return block


@pytest.fixture
def my_system(my_images: Path) -> str:
    path = my_images.parent / "my_system.py"
    path.write_text(example(), encoding="utf-8")
    return str(path)


def test_it_is_short() -> None:
    lines = example().splitlines()
    assert len(lines) <= 80
    assert max(map(len, lines)) <= 130


def test_it_runs_from_search_to_report(my_system: str) -> None:
    page = segnas.run(my_system, data="my_images", out="runs/random", preset="quick", overrides=TINY, export=False)
    run = Run.open(Path("runs/random"))
    trials = run.read_json("search.json")["trials"]
    assert len(trials) == 3
    best = max(trials, key=lambda trial: trial["mIoU"])
    assert run.read_json("architecture.json")["architecture"] == best["architecture"]
    assert "random-search" in page.read_text(encoding="utf-8")
    assert (run.read_json("evaluation.json")["split"], run.read_json("evaluation_test.json")["split"]) == ("val", "test")


def test_it_searches_on_the_training_set_alone(my_system: str) -> None:
    def searched(out: str) -> list[dict[str, object]]:
        segnas.search(my_system, data="my_images", out=out, preset="quick", overrides=TINY)
        trials: list[dict[str, object]] = Run.open(Path(out)).read_json("search.json")["trials"]
        return trials

    before = searched("runs/before")
    for kind in ("images", "labels"):
        for split in ("val", "test"):
            for path in Path("my_images", kind, split).iterdir():
                path.write_bytes(Path("my_images", kind, "train", "0.png").read_bytes())
    assert searched("runs/after") == before


def test_a_search_that_was_cut_off_ends_as_the_whole_one(my_system: str) -> None:
    whole = segnas.search(my_system, data="my_images", out="runs/whole", preset="quick", overrides=TINY)
    folder = Path("runs/whole")
    figures = (folder / "search.json").read_text()
    for name in ("architecture.json", "search.json"):
        (folder / name).unlink()
    run = Run.open(folder)
    state = run.load_checkpoint("search")
    assert state is not None
    kept = state["trials"][:1]
    torch.save({"trials": kept, "metrics_length": 0}, folder / "checkpoints" / "search.pt")
    assert segnas.search(my_system, data=None, out="runs/whole", resume=True) == whole
    assert (folder / "search.json").read_text() == figures


def test_two_files_of_one_name_are_two_systems(tmp_path: Path) -> None:
    for folder, name in (("a", "first"), ("b", "second")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "my_system.py").write_text(example().replace('"random-search"', f'"{name}"'), encoding="utf-8")
    assert [load_system(str(tmp_path / folder / "my_system.py")).name for folder in "ab"] == ["first", "second"]
