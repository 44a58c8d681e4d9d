"""The benchmark: its rows, what it counts by hand, the page it writes, mistakes. Nothing here asserts a time."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import supernet_step
from child import count_kernels
from floor import Work, convolution_work, layer_work, work_of_pass, work_of_step
from segnas.nets.darts_supernet import DartsSupernet, Mixture
from segnas.spaces.darts import DartsOptions
from settings import ENGINES, PUBLIC, QUICK, SCALING, SETTINGS, Setting, engines_of, setting_of
from step import SearchStep, made
from tables import COLUMNS, page, step_table

SCRIPT = Path(supernet_step.__file__)
KEYS = {"setting", "engine", "seconds", "memory_mib", "time_ratio", "memory_ratio"}
TINY = Setting("darts", 2, 3, 1, ("none", "skip_connect", "sep_conv_3x3"), crop=8, batch=2)
TINY_SECOND = dataclasses.replace(TINY, order="second")
TINY_PATHS = Setting("auto-deeplab", 2, 2, 1, TINY.operations, crop=33, batch=2, stem=(2, 2, 2), head_width=2)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=300, check=False)


def test_rows_of_a_tiny_setting(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the processes that measure, as `--json` prints them."""
    monkeypatch.setitem(supernet_step.EVERY, "darts", TINY)
    supernet_step.main(["--settings", "darts", "--engines", "plain,fused", "--steps", "2", "--threads", "1", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [(row["setting"], row["engine"]) for row in rows] == [("darts", "plain"), ("darts", "fused")]
    for row in rows:
        assert row.keys() >= KEYS | {"threads", "kernels", "floor_seconds", "share"}
        assert len(row["steps"]) == 2
        assert row["threads"] == 1
        assert row["time_ratio"] == rows[0]["seconds"] / row["seconds"]
        assert row["memory_ratio"] == rows[0]["memory_mib"] / row["memory_mib"]
        assert row["kernels"] > 100


@pytest.mark.parametrize(
    ("setting", "engine"),
    [(one, engine) for one in (TINY, TINY_SECOND, TINY_PATHS) for engine in engines_of(one)],
    ids=lambda one: one if isinstance(one, str) else f"{one.system}-{one.order}",
)
def test_a_step_moves_weights_and_architecture(setting: Setting, engine: str) -> None:
    """And leaves no gradient behind, which the next step would add to."""
    step = SearchStep(setting, ENGINES[engine])
    before = [value.detach().clone() for value in (*step.weights, *step.variables)]
    assert count_kernels(step) > 100
    assert all(value.grad is None for value in (*step.weights, *step.variables))
    assert not any(torch.equal(value, old) for value, old in zip((*step.weights, *step.variables), before, strict=True))


def test_a_depthwise_convolution_by_hand() -> None:
    """3x3 on 4 channels, 2 images of 5x6: 2 * 9 operations for each of 240 results, for y, for x and for w."""
    layer, x = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), torch.randn(2, 4, 5, 6, requires_grad=True)
    assert layer_work(layer, x, layer(x)) == Work(3 * 2 * 9 * 240, 3 * 4 * (240 + 240 + 36))
    assert layer_work(layer, x.detach(), layer(x)) == Work(2 * 2 * 9 * 240, 2 * 4 * (240 + 240 + 36))
    layer.requires_grad_(False)
    assert layer_work(layer, x.detach(), layer(x)).flops == 2 * 9 * 240


def test_other_layers_by_hand() -> None:
    assert convolution_work(nn.Linear(8, 5), (2, 8), (2, 5), True, True) == Work(3 * 2 * 80, 3 * 4 * (16 + 10 + 40))
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    assert layer_work(nn.BatchNorm2d(4), x, x) == Work(0, 4 * 5 * 288)
    assert layer_work(nn.AvgPool2d(2), x.detach(), torch.empty(2, 4, 3, 3)) == Work(0, 4 * (288 + 72))


@pytest.mark.parametrize("trains_weights", [True, False])
def test_the_work_of_dense_convolutions_is_what_torch_counts(trains_weights: bool) -> None:
    """With the gradients that are needed and no others; of depthwise ones torch counts the gradients several times over."""
    operations = ("none", "max_pool_3x3", "skip_connect", "conv_7x1_1x7", "atrous_conv_3x3")
    options = DartsOptions(form="cifar", channels=4, layers=4)
    networks = [DartsSupernet(3, options, 2, operations), DartsSupernet(3, options, 2, operations).to("meta")]
    for network in networks:
        network.requires_grad_(trains_weights)

    def given(device: str) -> tuple[torch.Tensor, Mixture]:
        alpha = torch.full((5, 5), 0.2, device=device, requires_grad=not trains_weights)
        return torch.randn(2, 3, 16, 16, device=device), Mixture(alpha, alpha)

    with FlopCounterMode(display=False) as counter:
        networks[0](*given("cpu")).sum().backward()
    assert work_of_pass(networks[1], *given("meta")).flops == counter.get_total_flops()


def test_what_all_directions_share_counts_once() -> None:
    """Layer 2, level 0: a cell entered from two levels. Its depthwise convolutions on state 0 count once, on state 1 twice."""
    with torch.device("meta"):
        _, network, relaxation = made(TINY_PATHS)
    mixture, images = relaxation.to("meta").mixture(detached=True), torch.empty(2, 3, 33, 33, device="meta")
    for edge, times in zip(network.layers[1]["0"].cell.mixed, (1, 2), strict=True):
        before = work_of_pass(network, images, mixture)
        edge.candidates["sep_conv_3x3"][1] = nn.Identity()  # 3x3 on 2 channels of 2 images of 9x9
        one = Work(3 * 2 * 9 * 324, 3 * 4 * (324 + 324 + 18))
        assert before == work_of_pass(network, images, mixture) + one.times(times)


def test_a_second_order_step_is_three_passes_of_one_kind_and_two_of_the_other() -> None:
    """The unrolled step, its loss and the weights' step; two differences."""
    first, second = work_of_step(TINY), work_of_step(TINY_SECOND)
    assert 2 * first.flops < second.flops < 3 * first.flops


def test_settings_survive_their_json() -> None:
    every = [*SETTINGS.values(), *QUICK.values(), *(one for sizes in SCALING.values() for one in sizes.values())]
    assert [setting_of(json.loads(json.dumps(dataclasses.asdict(one)))) for one in every] == every


def canned() -> dict[str, Any]:
    row = dict.fromkeys(COLUMNS, 1.5) | {"kernels": 1234, "memory_mib": 512.0, "threads": 2}
    rows = [{**row, "setting": name, "engine": engine} for name in SETTINGS for engine in ENGINES]
    rows += [{**row, "setting": "auto-deeplab", "engine": "fused", "threads": 1, "seconds": 11.3}]
    grown = [{"grows": "edges", "size": size, "seconds": size / 2 + 1, "memory_mib": 100.0} for size in (2, 4, 6)]
    loaded = {"setting": "darts", "crop": 32, "decoding": 80.0, "kept": 900.0, "used": 30.0}
    return {
        "rows": rows,
        "floors": [{"setting": name, "flops": 10**9, "bytes": 10**9} for name in SETTINGS],
        "scaling": grown,
        "pipeline": {"rows": [loaded], "size": [360, 480], "images": 48, "data": "drawn scenes"},
        "machine": {"processor": "Some CPU", "cores": 2, "threads": 2, "system": "Linux", "torch": "2.x", "python": "3.x",
                    "compiled": True, "date": "2026-01-02", "peak": 3e11, "bandwidth": 2e10},
        "steps": 5,
        "fewer_steps": 3,
        "command": "python benchmarks/supernet_step.py --write",
        "minutes": 8.0,
    }  # fmt: skip


def test_the_page_holds_every_column_and_says_how_it_is_measured() -> None:
    text = page(canned())
    assert all(f"| {name} " in text for name in COLUMNS)
    assert all(f"`{name}`: " in text for name in [*ENGINES, *SETTINGS, *QUICK])
    for part in ("Some CPU", "2026-01-02", "--write", "1,234", "| 30 ", "300 GFLOP/s"):
        assert part in text
    ours = next(line for line in text.splitlines() if line.startswith("| auto-deeplab ") and "| 22.6 " in line)
    assert [cell.strip() for cell in ours.split("|")[2:8]] == ["1", "22.6", "11.3", "2", "3.44", "0.5"]
    grown = next(line for line in text.splitlines() if line.startswith("| edges") and "| 4 " in line)
    assert [cell.strip() for cell in grown.split("|")[5:9]] == ["2", "1.5", "0.75", "1"]


def test_columns_that_were_not_measured_are_left_out() -> None:
    rows = [{"setting": "quick-darts", "engine": "plain", "seconds": 1.0, "kernels": None}]
    assert "kernels" not in step_table(rows)


def test_public_figures_are_of_settings_that_are_there() -> None:
    assert all(public.setting in SETTINGS for public in PUBLIC)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--settings", "dart"], "did you mean 'darts'"),
        (["--engines", "plain,fast"], "unknown 'fast'"),
        (["--threads", "0"], "whole number of at least 1"),
        (["--steps", "x"], "whole number of at least 1"),
        (["--quick", "--write"], "not allowed with"),
        (["--write", "--engines", "plain"], "--write"),
        (["--fast"], "unrecognized arguments"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        supernet_step.parsed(arguments)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert part in told
    assert told.count("\n") == 1


@pytest.mark.slow
def test_quick_prints_a_row_for_each_small_setting_and_engine() -> None:
    ended = run("--quick", "--json")
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(ended.stdout)
    expected = [(name, engine) for name in QUICK for engine in ("plain", "fused")]
    assert [(row["setting"], row["engine"]) for row in rows] == expected
    assert all(row.keys() >= KEYS and row["seconds"] > 0 and row["memory_mib"] > 0 for row in rows)


def test_a_folder_that_is_not_there_is_one_line() -> None:
    ended = run("--pipeline", "--settings", "quick-darts", "--steps", "1", "--data", "no/such/folder")
    assert ended.returncode == 2
    assert "no/such/folder" in ended.stderr
    assert ended.stderr.count("\n") == 1
