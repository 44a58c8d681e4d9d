"""A run directory as a finished search, retraining, evaluation and export leave it, with made-up but plausible figures."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from segnas.runs.run import Run

CLASSES = (
    ("sky", (128, 128, 128)), ("building", (128, 0, 0)), ("pole", (192, 192, 128)), ("road", (128, 64, 128)),
    ("pavement", (60, 40, 222)), ("tree", (128, 128, 0)), ("sign", (192, 128, 128)), ("fence", (64, 64, 128)),
    ("car", (64, 0, 128)), ("pedestrian", (64, 64, 0)), ("bicyclist", (0, 128, 192)),
)  # fmt: skip
IOU = (91.2, 80.4, 18.3, 94.0, 78.1, 75.6, 31.9, 28.4, 79.3, 41.7, None)
OPERATIONS = (
    "none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "atrous_conv_3x3", "atrous_conv_5x5",
)  # fmt: skip
PATH = [0, 0, 0, 1, 2, 1, 2, 2, 3, 3, 2, 1]
CELL = [
    {"inputs": [0, 1], "operations": ["atrous_conv_5x5", "sep_conv_3x3"]},
    {"inputs": [0, 1], "operations": ["sep_conv_3x3", "atrous_conv_3x3"]},
    {"inputs": [3, 0], "operations": ["sep_conv_3x3", "skip_connect"]},
    {"inputs": [4, 2], "operations": ["sep_conv_5x5", "max_pool_3x3"]},
    {"inputs": [3, 5], "operations": ["sep_conv_5x5", "atrous_conv_5x5"]},
]
ARCHITECTURE = {"family": "auto-deeplab", "path": PATH, "cell": CELL, "network": {"filters": 8, "layers": 12, "blocks": 5}}


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def write_search(run: Run, random: np.random.Generator, epochs: int = 40) -> None:
    edges = [[block, state] for block in range(5) for state in range(block + 2)]
    logits = random.normal(0, 0.8, (len(edges), len(OPERATIONS)))
    for block, described in enumerate(CELL):
        for state, operation in zip(described["inputs"], described["operations"], strict=True):
            logits[edges.index([block, state]), OPERATIONS.index(operation)] += 2.4
    beta = np.zeros((12, 4, 3))
    for layer in range(12):
        for level in range(min(4, layer + 1)):
            moves = [move for move in (-1, 0, 1) if 0 <= level + move < 4]
            strength = random.normal(0, 0.8, len(moves))
            before = 0 if layer == 0 else PATH[layer - 1]
            if level == before:
                strength[moves.index(PATH[layer] - before)] += 1.6
            for move, probability in zip(moves, softmax(strength), strict=True):
                beta[layer, level, move + 1] = probability
    options = (beta > 0).sum(-1)
    most_beta = float(np.log(options[options > 0]).mean())
    rows = []
    for epoch in range(1, epochs + 1):
        late = max(0, epoch - epochs // 2) / (epochs / 2)
        noise = random.normal(0, 1, 8)
        rows.append(
            {
                "epoch": epoch,
                "loss_weights": 0.35 + 1.9 * math.exp(-epoch / 9) + 0.02 * noise[0],
                "loss_architecture": 0.42 + 0.5 * math.exp(-(epoch - 20) / 8) + 0.03 * noise[1] if late else None,
                "entropy_alpha": math.log(8) * (1 - 0.45 * late) - 0.002 * abs(noise[2]),
                "entropy_beta": most_beta * (1 - 0.35 * late) - 0.002 * abs(noise[3]),
                "skip_share": min(1.0, max(0.0, 0.1 + 0.1 * round(late + 0.4 * noise[4]))),
                "score_supernet": 46 * (1 - math.exp(-epoch / 11)) + 0.8 * noise[5],
                "score_one_hot": 40 * (1 - math.exp(-epoch / 14)) + 1.6 * noise[6],
                "parameters": 1.1e6 + 1.5e5 * round(noise[7]) if epoch < 34 else 1_204_331,
                "multiply_adds": 3.2e9 + 4e8 * round(noise[7]) if epoch < 34 else 3.41e9,
                "architecture": ARCHITECTURE if epoch >= 34 else {**ARCHITECTURE, "path": [0] * 12},
                "seconds": 61.0,
            }
        )
    run.write_json(
        "search.json",
        {
            "system": "auto-deeplab",
            "epochs": rows,
            "alpha": softmax(logits).tolist(),
            "operations": list(OPERATIONS),
            "edges": edges,
            "beta": beta.tolist(),
            "best_epoch": 38,
            "last_epoch": epochs,
            "seconds": 61.0 * epochs,
            "warnings": ["The memory estimate was close to what the device has."],
        },
    )


def confusion(random: np.random.Generator) -> np.ndarray:
    pixels = np.array([9e5, 1.2e6, 5e4, 1.6e6, 3.1e5, 5.2e5, 6e4, 9e4, 2.8e5, 4e4, 0.0])
    matrix = np.zeros((11, 11))
    for index, score in enumerate(IOU):
        if score is None:
            continue
        right = 0.3 + 0.7 * score / 100
        wrong = random.dirichlet(np.full(10, 0.35))
        wrong[-1] = 0
        others = [other for other in range(11) if other != index]
        matrix[index, index] = right * pixels[index]
        matrix[index, others] = (1 - right) * pixels[index] * wrong
    return matrix.round()


def write_evaluation(run: Run, random: np.random.Generator, split: str = "val", name: str = "evaluation.json") -> None:
    matrix = confusion(random)
    known = [score for score in IOU if score is not None]
    images = [{"name": f"0016E5_{index:05d}", "mIoU": float(np.clip(random.normal(58, 9), 15, 88))} for index in range(101)]
    run.write_json(
        name,
        {
            "split": split,
            "protocol": {
                "split": split, "images": 101, "resolution": "360 x 480, as stored", "scales": [1.0], "flip": False,
                "label_size": True, "ignore": "255, pixels of unlabelled regions",
                "text": f"All 101 images of {split} at their stored size, one scale, no flip; logits are brought to the size of "
                "the label before the largest is taken.",
            },
            "mIoU": sum(known) / len(known), "mAcc": 70.2, "aAcc": 90.3,
            "classes": [
                {"name": name, "color": color, "IoU": score, "accuracy": None if score is None else 0.3 * 100 + 0.7 * score,
                 "pixels": float(matrix[index].sum())}
                for index, ((name, color), score) in enumerate(zip(CLASSES, IOU, strict=True))
            ],
            "confusion": matrix.tolist(),
            "absent_classes": ["bicyclist"],
            "images": images,
            "seconds": 12.4,
        },
    )  # fmt: skip


def street(random: np.random.Generator, size: tuple[int, int] = (480, 360)) -> tuple[Image.Image, Image.Image]:
    """A street in perspective as an image and its label colours."""
    width, height = size
    label = Image.new("RGB", size, CLASSES[0][1])
    draw = ImageDraw.Draw(label)
    horizon = int(height * 0.48)
    draw.rectangle((0, horizon - 90, width * 0.4, horizon + 50), fill=CLASSES[1][1])
    draw.rectangle((width * 0.66, horizon - 70, width, horizon + 40), fill=CLASSES[5][1])
    draw.polygon(
        [(0, height), (0, horizon + 50), (width * 0.45, horizon), (width * 0.6, horizon), (width, height)], CLASSES[3][1]
    )
    draw.polygon([(width, height), (width * 0.6, horizon), (width * 0.7, horizon), (width, horizon + 70)], CLASSES[4][1])
    for _ in range(3):
        x, depth = random.uniform(0.25, 0.65) * width, random.uniform(0.2, 1)
        draw.rectangle((x, horizon + 10, x + 90 * depth, horizon + 10 + 60 * depth), fill=CLASSES[8][1])
    draw.rectangle((width * 0.72, horizon - 120, width * 0.73, horizon + 45), fill=CLASSES[2][1])
    pixels = np.asarray(label).astype(float)
    shade = np.linspace(40, -30, height)[:, None, None] + random.normal(0, 14, (height, width, 1))
    image = Image.fromarray(np.clip(pixels * 0.6 + 70 + shade, 0, 255).astype(np.uint8))
    return image, label


def write_panels(run: Run, random: np.random.Generator) -> None:
    entries = []
    for kind, score in (("best", 81.3), ("typical", 58.2), ("worst", 31.0)):
        for number in range(2):
            image, label = street(random)
            prediction = label.copy().resize((60, 45), Image.Resampling.NEAREST).resize(label.size, Image.Resampling.NEAREST)
            names = {}
            for what, picture in (("image", image), ("label", label), ("prediction", prediction)):
                names[what] = f"panels/{kind}_{number}_{what}.png"
                (run.path / "panels").mkdir(exist_ok=True)
                picture.save(run.path / names[what])
            entries.append({"kind": kind, "name": f"0016E5_{kind}_{number}", "mIoU": score - number, **names})
    run.write_json("panels/panels.json", entries)


def write_measurements(run: Run) -> None:
    run.write_json("cost.json", {
        "parameters": 1_204_331, "multiply_adds": 3_412_334_592, "size": [360, 480],
        "by_part": {"stem": {"parameters": 29_000, "multiply_adds": 310_000_000},
                    "cells": {"parameters": 801_331, "multiply_adds": 1_902_334_592},
                    "aspp": {"parameters": 250_000, "multiply_adds": 700_000_000},
                    "decoder": {"parameters": 124_000, "multiply_adds": 500_000_000}}})  # fmt: skip
    run.write_json("latency.json", {
        "device": "cpu", "input": [1, 3, 360, 480], "threads": 2, "precision": "float32", "warmup": 5, "runs": 50,
        "median_ms": 148.2, "q1_ms": 141.0, "q3_ms": 177.9, "iqr_ms": 36.9, "unsteady": True,
        "includes": "normalisation, network, argmax"})  # fmt: skip
    run.write_json("parity.json", {
        "images": 16, "largest_logit_difference": 3.1e-5, "agreement": 0.999987, "mIoU_torch": 61.88, "mIoU_onnx": 61.88,
        "tolerance": 1e-3, "passed": True, "onnx": "model.onnx"})  # fmt: skip
    run.write_json("timing.json", {"search": 2440.0, "retrain": 3122.5, "evaluate": 12.4, "export": 9.1})
    run.write_bytes("model.onnx", b"\0" * 4_910_233)
    run.write_bytes("model.safetensors", b"\0" * 4_870_120)


def write_retraining(run: Run, random: np.random.Generator) -> None:
    steps = 3660
    for step in range(1, steps + 1, 6):
        loss = 0.24 + 2.1 * math.exp(-step / 500) + 0.06 * abs(random.normal())
        run.log("retrain", step, {"loss": loss, "learning_rate": 0.05 * (1 - step / (steps + 1)) ** 0.9 * min(1, step / 200)})
        if step % 180 < 6:
            run.log("retrain", step, {"mIoU": 62 * (1 - math.exp(-(step + 50) / 700)) + random.normal()})
    run.write_json("retrain.json", {
        "epochs": 60, "steps": steps, "batch_size": 6, "seconds": 3122.5, "final_loss": 0.262,
        "recipe": "SGD (momentum 0.9, weight decay 0.0001), poly from 0.05 with power 0.9, 200 steps of warm-up"})  # fmt: skip


def trainings(
    name: str, parameters: int, multiply_adds: int, val: tuple[float, ...], **others: object
) -> list[dict[str, object]]:
    """One training a seed, the first of the searched network in the run itself."""
    return [
        {"seed": seed, "folder": "." if name == "searched" and seed == 0 else f"{name}/{seed}", "id": f"{seed}a1b2c3d4e5f",
         "parameters": parameters, "multiply_adds": multiply_adds, "latency_ms": 148.2, "seconds": 3122.5,
         "scores": {"val": score}, **others}
        for seed, score in enumerate(val)
    ]  # fmt: skip


def write_comparison(run: Run) -> None:
    """Three seeds; the searched network lies above both baselines, by more than the spread."""
    unet = trainings("unet", 1_210_000, 3_390_000_000, (58.4, 58.9, 59.3), latency_ms=61.0)
    random = trainings("random", 1_190_000, 3_380_000_000, (60.2, 61.0, 58.7))
    random[1]["parameters"] = 1_240_000
    run.write_json("comparison.json", {
        "metric": "mIoU", "seeds": 3,
        "protocol": "All are trained and evaluated as the searched network was, at widths of about its multiply-adds.",
        "entries": [
            {"kind": "searched", "name": "auto-deeplab", "note": "",
             "runs": trainings("searched", 1_204_331, 3_412_334_592, (61.89, 62.4, 61.1))},
            {"kind": "hand-made", "name": "unet", "runs": unet, "note": "without drop path, which it does not have"},
            {"kind": "random", "name": "random architectures of the same space", "runs": random,
             "note": "a new architecture for each seed"},
        ]})  # fmt: skip


def write_limits(run: Run) -> None:
    """A budget that is met, and a time."""
    run.write_json("budget.json", {
        "filters": 8, "filters_before": 20, "filters_most": 320, "size": [360, 480],
        "limits": {"max_parameters": {"limit": 1_250_000, "measured": 1_204_331, "met": True},
                   "max_latency_ms": {"limit": 150.0, "measured": 148.2, "met": True}},
        "device": "cpu (Xeon), torch 2.13.0",
        "exported": {"parameters": 1_204_331, "latency_ms": 93.25, "runtime": "onnxruntime 1.32.0", "met": True}})  # fmt: skip
    run.write_json("time.json", {
        "asked_seconds": 7200, "used_seconds": 6900.0, "forecast_seconds": 6500.0,
        "search_epochs": [5, 40], "retrain_epochs": [60, 60]})  # fmt: skip


def write_run(path: Path, seed: int = 0) -> Run:
    """A run with every file there is."""
    random = np.random.default_rng(seed)
    run = Run.create(path, {"system": "auto-deeplab", "data": {"root": "data/camvid"}, "search": {"epochs": 40, "filters": 8}})
    run.write_json("environment.json", {
        "python": "3.11.9", "packages": {"segnas": "0.1.0", "torch": "2.13.0"}, "platform": "Linux-6.1", "processor": "Xeon",
        "device": "cpu", "threads": 2, "seed": 0, "git_revision": "0123456789abcdef0123456789abcdef01234567",
        "command": "segnas run auto-deeplab --data data/camvid --out runs/first"})  # fmt: skip
    run.write_json("data.json", {
        "name": "camvid", "path": "/data/camvid", "classes": [{"name": name, "color": color} for name, color in CLASSES],
        "splits": {"train": 367, "val": 101, "test": 233}, "notes": ["3 training images hold no labelled pixel."]})  # fmt: skip
    run.write_json("architecture.json", {
        "architecture": ARCHITECTURE, "id": "0a1b2c3d4e5f",
        "provenance": {"system": "auto-deeplab", "epoch": 38, "score": 41.2}})  # fmt: skip
    write_search(run, random)
    write_retraining(run, random)
    write_evaluation(run, random)
    write_panels(run, random)
    write_measurements(run)
    write_comparison(run)
    write_limits(run)
    run.release()
    return run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once, never changed."""
    return write_run(tmp_path_factory.mktemp("report") / "first").path


@pytest.fixture
def make_run(finished_run: Path, tmp_path: Path) -> Callable[[], Run]:
    """Makes a complete run directory of the test's own."""
    return lambda: Run.open(Path(shutil.copytree(finished_run, tmp_path / "first")))
