"""The programs printed in docs/python_api.md, run one after the other as a reader would, on a tiny set and with a tiny search."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import segnas

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python_api.md"
SHOWN = '["search.epochs=30", "retrain.epochs=100"]'
TINY = [
    "device.accelerator=cpu", "data.crop=[33,33]", "search.crop=[33,33]", "search.resize=1", "search.layers=2", "search.blocks=1",
    "search.filters=2", "search.stem=[4,4,4]", "search.head_width=4", "search.epochs=2", "search.architecture_from_epoch=1",
    "search.batch_size=2", "retrain.epochs=1", "retrain.batch_size=2", "retrain.warmup_steps=0", "network.filters=2",
    "network.stem=[4,4,8]", "network.aspp_width=4", "network.aspp_rates=[1]", "network.low_level_width=2",
    "network.decoder_width=4",
]  # fmt: skip


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_programs_run(my_images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    program = "".join(blocks())
    assert SHOWN in program
    names: dict[str, Any] = {"settings": TINY}
    for number, block in enumerate(blocks()):
        exec(compile(block.replace(SHOWN, repr(TINY)), f"block {number} of python_api.md", "exec"), names)
    printed = capsys.readouterr().out
    assert printed.startswith("runs/first/report.html\n")
    for name in ("architecture.json", "model.safetensors", "evaluation_test_1_flip.json", "model.onnx", "report.html"):
        assert (my_images.parent / "runs" / "steps" / name).is_file()
    files = {path.name for path in (my_images.parent / "runs" / "first").iterdir()}
    assert files - {".lock", "tensorboard"} == named_on_the_map()
    assert names["logits"].shape == (2, 3, 96, 128)
    assert len(list((my_images.parent / "predictions").glob("*_overlay.png"))) == 2
    trained = segnas.retrain("mine.json", data="my_images", out="runs/mine", overrides=shared_keys())
    assert trained.architecture == names["mine"]


def shared_keys() -> list[str]:
    """The overrides that a run without a search takes."""
    return [assignment for assignment in TINY if not assignment.startswith(("search.", "network."))]


def named_on_the_map() -> set[str]:
    """The files of a run that docs/design.md lists."""
    text = PAGE.with_name("design.md").read_text(encoding="utf-8")
    lines = text.split("## 4. A run")[1].split("A budget adds")[0].splitlines()
    first = [re.split(r"\s{2,}", line.strip())[0] for line in lines if line.startswith("    ")]
    return {name.strip().rstrip("/") for names in first for name in names.split(",")} | {"evaluation_test.json"}


def test_every_verb_is_shown() -> None:
    program = "".join(blocks()) + PAGE.read_text(encoding="utf-8")
    assert [verb for verb in segnas.VERBS if f"segnas.{verb}(" not in program] == []
