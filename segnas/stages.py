"""The stages of a run, each a function of an open run; the long ones are skipped when what they leave is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from segnas.config import replace
from segnas.costs.budget import MOST
from segnas.costs.counts import count
from segnas.costs.latency import measure_onnx_latency
from segnas.data.statistics import evenly_spaced
from segnas.export import Parity, export_onnx, stored_parameters
from segnas.forecast import within_budget
from segnas.runs.progress import console, duration
from segnas.runs.run import Run
from segnas.spaces.architecture import Architecture, from_json, identity, to_json
from segnas.systems.base import load_system
from segnas.training.evaluate import Evaluation, EvaluationConfig, evaluate, file_name
from segnas.training.model import TrainedModel
from segnas.training.preflight import require_size
from segnas.training.retrain import retrain
from segnas.training.timing import measure_trained
from segnas.workplace import Workplace, timed

PARITY_IMAGES = 20


def search_stage(place: Workplace) -> Architecture:
    """architecture.json: what the system finds, scaled to the budget if there is one."""
    if place.has("architecture.json"):
        return from_json(place.run.read_json("architecture.json"))
    assert place.plan.system is not None
    with timed(place.run, "search"):
        architecture = load_system(place.plan.system).search(place.job)
    provenance = {"system": place.plan.system, "preset": place.plan.preset, "seed": place.config.seed}
    return architecture_stage(place, architecture, {**provenance, **_epoch_of(place.run, architecture)})


def architecture_stage(place: Workplace, architecture: Architecture, provenance: Mapping[str, Any]) -> Architecture:
    """architecture.json: an architecture that is known, scaled to the budget if there is one (then budget.json, too)."""
    if place.has("architecture.json"):
        return from_json(place.run.read_json("architecture.json"))
    content = {"architecture": to_json(architecture), "id": identity(architecture), "provenance": dict(provenance)}
    if place.config.budget.limits:
        fitted = within_budget(architecture, place.job)
        place.run.write_json("budget.json", fitted.to_json())
        widest = fitted.filters == fitted.filters_most
        why = f"{MOST} times its own width; a network is widened no further" if widest else "the most that the budget allows"
        console.print(f"scaled from {fitted.filters_before} to {fitted.filters} filters, {why}")
        scaled = {"scaled_from": identity(architecture), "filters": [fitted.filters_before, fitted.filters]}
        content = {
            "architecture": to_json(fitted.architecture),
            "id": identity(fitted.architecture),
            "provenance": {**provenance, **scaled},
        }
    place.run.write_json("architecture.json", content)
    place.device.barrier()
    written = from_json(place.run.read_json("architecture.json"))
    console.print(f"architecture {identity(written)}")
    return written


def _epoch_of(run: Run, architecture: Architecture) -> dict[str, Any]:
    """The last epoch of search.json that decoded the architecture; empty for a system without epochs."""
    epochs = run.read_json("search.json").get("epochs", []) if run.has("search.json") else []
    decoded = [epoch["epoch"] for epoch in epochs if epoch.get("id") == identity(architecture)]
    return {"epoch": decoded[-1]} if decoded else {}


def retrain_stage(place: Workplace) -> TrainedModel:
    """cost.json, then model.safetensors and retrain.json."""
    if place.has("retrain.json"):
        return TrainedModel.load(place.run.path)
    architecture, config = from_json(place.run.read_json("architecture.json")), place.config
    size = place.seen_size()
    counts = count(architecture, size, len(place.dataset.classes))
    place.run.write_json("cost.json", {"size": list(size), **asdict(counts)})
    console.print(
        f"training {counts.parameters:,} parameters, {counts.multiply_adds / 1e9:.3g} G multiply-adds at {size[0]}x{size[1]}"
    )
    with timed(place.run, "retrain"):
        return retrain(
            architecture,
            place.dataset,
            config.data,
            place.job.normalization,
            config.retrain,
            place.run,
            place.device,
            config.training_seed,
        )


def evaluate_stage(place: Workplace, config: EvaluationConfig) -> Evaluation:
    """The file of a split and protocol (see `file_name`); scored anew each time it is asked for."""
    model = TrainedModel.load(place.run.path)
    with timed(place.run, f"evaluate {config.split}"):
        return evaluate(model, place.dataset, config, place.device, place.run, place.config.evaluation)


def evaluate_splits(place: Workplace, name: str = "") -> None:
    """The split of the configuration, and "test" where there is one; those whose file is there are skipped.

    name: of a network that is not the run's own, said before its figures.
    """
    main = place.config.evaluation
    for split in splits_of(place):
        config = replace(main, split=split)
        if not place.has(file_name(config, main)):
            found = evaluate_stage(place, config).figures
            console.print(f"{name} {split}: ".lstrip() + f"{'  '.join(f'{name} {value:.2f}' for name, value in found.items())}")


def splits_of(place: Workplace) -> tuple[str, ...]:
    """The splits that a run scores."""
    return tuple(dict.fromkeys([place.config.evaluation.split, *(["test"] if "test" in place.dataset.splits else [])]))


def latency_stage(place: Workplace, name: str = "") -> None:
    """latency.json: of the trained network, under the run's conditions."""
    if place.run.has("latency.json"):
        return
    model, config = TrainedModel.load(place.run.path), place.config.device
    conditions = {"device": place.device.device, "precision": config.precision, "channels_last": config.channels_last}
    with timed(place.run, "latency"):
        measured = measure_trained(model, (1, 3, *place.seen_size()), **conditions, time_limit_s=10)
    place.run.write_json("latency.json", measured.to_json())
    console.print(f"{name} latency: ".lstrip() + f"{measured.median_ms:.1f} ms on {measured.device}")


def export_stage(place: Workplace, size: tuple[int, int] | None) -> Parity:
    """model.onnx and parity.json; UserError when the exported network answers differently."""
    size = size or place.seen_size()
    model = TrainedModel.load(place.run.path)
    if model.task.dense:
        require_size("the export size", size)
    split = place.config.evaluation.split
    indices = evenly_spaced(len(place.dataset.splits[split]), PARITY_IMAGES)
    samples = (place.dataset.read(split, index) for index in indices)
    with timed(place.run, "export"):
        parity = export_onnx(model, size, place.run.path / "model.onnx", samples)
    console.print(
        f"model.onnx: largest logit difference to torch {parity.largest_logit_difference:.2g} on {parity.images} images"
    )
    return parity


def budget_stage(place: Workplace) -> None:
    """budget.json once more: each limit beside what the trained network and the exported one take, as measured."""
    if not place.run.has("budget.json"):
        return
    found = place.run.read_json("budget.json")
    latency = place.run.read_json("latency.json") if place.run.has("latency.json") else {}
    size, on_run_device = tuple(found["size"]), place.config.budget.device in ("", place.device.device.type)
    limits = found["limits"]
    if "max_latency_ms" in limits and latency and on_run_device:
        limits["max_latency_ms"]["measured"] = latency["median_ms"]
    for entry in limits.values():
        entry["met"] = entry["measured"] <= entry["limit"]
    found["device"] = str(latency.get("device", "")) if on_run_device else place.config.budget.device
    found["exported"] = _exported(place, size, limits)
    place.run.write_json("budget.json", found)
    missed = [name for name, entry in limits.items() if not entry["met"]]
    for name in missed:
        console.print(f"note: {name}={limits[name]['limit']:,} is not met: measured {limits[name]['measured']:,.4g}")


def _exported(place: Workplace, size: tuple[int, ...], limits: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the exported file takes in its own runtime, which runs on the CPU; None without a file for images of that size."""
    own_size = place.config.export.size in (None, size)
    if not place.run.has("model.onnx") or not own_size:
        return None
    measured = measure_onnx_latency(place.run.path / "model.onnx", threads=place.config.device.threads, time_limit_s=10.0)
    limit = limits.get("max_latency_ms", {}).get("limit")
    if not (place.config.budget.device or place.device.device.type).startswith("cpu"):
        limit = None  # it is for another device
    return {
        "parameters": stored_parameters(place.run.path / "model.onnx"),
        "latency_ms": measured.median_ms,
        "runtime": f"{measured.runtime} on {measured.device}",
        "met": None if limit is None else measured.median_ms <= limit,
    }


def time_stage(place: Workplace) -> None:
    """time.json once more, with the seconds that all stages took together."""
    if place.run.has("time.json"):
        used, told = sum(place.run.read_json("timing.json").values()), place.run.read_json("time.json")
        place.run.write_json("time.json", {**told, "used_seconds": used})
        if used > told["asked_seconds"]:
            console.print(f"note: the run took {duration(used)}, and --time allowed {duration(told['asked_seconds'])}")
