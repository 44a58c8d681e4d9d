"""An honest baseline: what else the same recipe reaches at about the same cost, and how much a seed changes.

`segnas run` trains, besides the network that the search found, a network made by hand and a random architecture of the same
space, each at the width whose multiply-adds are nearest, with the same recipe, steps, images and seeds. Each training is a run
directory of its own below `compared/`; comparison.json sums them up, after each of them, for the report.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segnas.config import replace
from segnas.costs.budget import nearest_multiply_adds
from segnas.errors import Diverged, UserError
from segnas.plans import RANDOM, RANDOM_SEARCH, Plan
from segnas.runs.progress import console
from segnas.runs.run import Run
from segnas.spaces.architecture import Architecture, family_of, from_json, identity, task_of
from segnas.spaces.hand_made import DeepLabV3Plus, ResNet, UNet
from segnas.spaces.width import widths
from segnas.stages import architecture_stage, evaluate_splits, latency_stage, retrain_stage, search_stage, splits_of
from segnas.systems.base import load_system
from segnas.systems.settings import DEFAULT_PRESET, PRESETS, ComparisonConfig, RunConfig, plain
from segnas.tasks import tasks
from segnas.training.evaluate import file_name
from segnas.workplace import Workplace, beside

HAND_MADE: dict[str, type] = {"unet": UNet, "deeplab-v3-plus": DeepLabV3Plus, "resnet": ResNet}
FAILED = "failed.json"  # of a training that diverged: it is not tried again
SHARED = ("encoder.safetensors",)  # files of a run that a second search of the same seed starts with
AUTO = {"segmentation": "unet", "classification": "resnet"}


@dataclass(frozen=True)
class Training:
    """One training of the comparison. kind: "searched", "hand-made", "random" or "random search"; folder: below the run, "." is
    the run itself."""

    kind: str
    name: str
    number: int  # 0 .. seeds - 1: which seed
    folder: str


def require_baseline(config: RunConfig, task: str) -> None:
    """Raise UserError unless the network made by hand is for the task."""
    name = config.comparison.baseline
    if name in HAND_MADE and task_of(HAND_MADE[name]()) != task:
        able = [one for one, family in HAND_MADE.items() if task_of(family()) == task]
        raise UserError(f"the baseline {name} is no network for {task}; choose --baseline {' or '.join(able)}, auto, or none")


def trainings(config: RunConfig, system: str | None, task: str) -> list[Training]:
    """All trainings of a run's comparison, in their order, the run's own first."""
    asked = config.comparison
    kinds = [("searched", str(system))]
    if asked.baseline != "none":
        kinds.append(("hand-made", AUTO[task] if asked.baseline == "auto" else asked.baseline))
        if asked.random and system is not None and load_system(system).typical is not None:
            kinds.append(("random", "random architectures of the same space"))
    if by_random_search(config, system):
        kinds.append((RANDOM_SEARCH, "random search of as many trials"))
    found = [Training(kind, name, number, folder(kind, name, number)) for number in range(asked.seeds) for kind, name in kinds]
    return sorted(found, key=lambda training: (training.number, [kind for kind, _ in kinds].index(training.kind)))


def by_random_search(config: RunConfig, system: str | None) -> bool:
    """Whether the search is repeated at random: it is asked for, and the search is one by trials that are not."""
    if not config.comparison.random_search or system is None or load_system(system).estimator is None:
        return False
    return not system.startswith(f"{RANDOM}/") and config.search.strategy != RANDOM  # type: ignore[attr-defined]


def folder(kind: str, name: str, number: int) -> str:
    """Where a training lies below its run; each network made by hand has places of its own."""
    return (
        "."
        if (kind, number) == ("searched", 0)
        else f"compared/{name if kind == 'hand-made' else kind.replace(' ', '-')}-{number}"
    )


def remaining(out: Path, config: RunConfig, system: str | None, task: str) -> list[str]:
    """The kinds of the trainings of a comparison that are still to be done, the run's own apart."""
    others = [one for one in trainings(config, system, task) if one.folder != "."]
    return [one.kind for one in others if not (out / one.folder / "retrain.json").exists()]


def compare(place: Workplace) -> None:
    """Do the trainings that are missing, and write comparison.json after each. The run itself must be trained and scored."""
    found = from_json(place.run.read_json("architecture.json"))
    target = int(place.run.read_json("cost.json")["multiply_adds"])
    summarize(place)
    for training in trainings(place.config, place.plan.system, place.dataset.task):
        if training.folder == "." or place.device.first(lambda one=training: _is_done(place, one)):  # type: ignore[misc]
            continue
        console.print(f"compared with: {training.name}, seed {_seed(place, training)}")
        if training.kind == RANDOM_SEARCH:
            _search_at_random(place, training)
            summarize(place)
            continue
        architecture = found if training.kind == "searched" else _architecture(place, training, target)
        with child(place, training, architecture) as inner:
            architecture_stage(inner, architecture, {"from": training.kind, "compared_with": identity(found)})
            _train_and_score(inner, _label(training))
        summarize(place)


def _search_at_random(place: Workplace, training: Training) -> None:
    """A run directory of its own: the same search with the same estimator and number of trials, drawn at random, then trained."""
    values = {"seed": _seed(place, training), "search": replace(place.config.search, strategy=RANDOM)}
    none = ComparisonConfig(baseline="none", random=False)
    config = replace(place.config, **values, comparison=none, time_limit=None)
    out = place.run.path / training.folder
    with beside(place, Plan(f"{RANDOM}/{place.plan.system}", place.plan.preset, place.plan.dataset, config), out) as inner:
        same = config.seed == place.config.seed  # else it was trained on other images
        for name in SHARED:
            if same and place.run.has(name) and not inner.run.has(name):
                inner.run.write_bytes(name, (place.run.path / name).read_bytes())
        search_stage(inner)
        _train_and_score(inner, _label(training))


def _label(training: Training) -> str:
    """A short name before the figures of a training."""
    return {"random": "random architecture", RANDOM_SEARCH: RANDOM_SEARCH}.get(training.kind, training.name)


def _train_and_score(inner: Workplace, name: str) -> None:
    """All that a training of the comparison leaves; one that diverges leaves its reason instead, and does not end the others."""
    try:
        retrain_stage(inner)
    except Diverged as error:
        inner.run.write_json(FAILED, {"reason": str(error)})
        console.print(f"failed: {error}")
        return
    evaluate_splits(inner, name)
    if inner.device.is_global_zero:
        latency_stage(inner, name)
    inner.device.barrier()  # nobody else computes while it is timed


def child(place: Workplace, training: Training, architecture: Architecture) -> Any:
    """The run directory of a training, open for work: the run's own settings but for the seed, and for what a network lacks."""
    config = plain(place.config)
    retrain = replace(config.retrain, seed=_seed(place, training))
    if training.kind == "hand-made":  # no paths to drop, no auxiliary head
        retrain = replace(retrain, drop_path=1.0, auxiliary_weight=0.0, encoder_weights=None)
    config = replace(config, retrain=retrain)
    preset = place.plan.preset if place.plan.preset in PRESETS[place.dataset.task] else DEFAULT_PRESET
    return beside(place, Plan(None, preset, place.plan.dataset, config), place.run.path / training.folder)


def _seed(place: Workplace, training: Training) -> int:
    return int(place.config.training_seed) + training.number


def _architecture(place: Workplace, training: Training, target: int) -> Architecture:
    """A network made by hand, or a random one of the space that was searched, with about `target` multiply-adds."""
    if training.kind == "hand-made":
        architecture = HAND_MADE[training.name]()
    else:
        assert place.plan.system is not None
        typical = load_system(place.plan.system).typical
        assert typical is not None
        architecture = typical(replace(place.config, seed=_seed(place, training) + 1))
    if family_of(architecture) not in widths:  # a family of one's own that has but one width
        return architecture
    limits = place.config.budget.limits
    return nearest_multiply_adds(architecture, target, place.seen_size(), len(place.dataset.classes), limits)


def _is_done(place: Workplace, training: Training) -> bool:
    run, main = Run(place.run.path / training.folder), place.config.evaluation
    if run.has(FAILED):
        return True
    files = [file_name(replace(main, split=split), main) for split in splits_of(place)]
    return all(run.has(name) for name in ("retrain.json", "latency.json", *files))


def summarize(place: Workplace) -> None:
    """comparison.json: the trainings that are finished, by kind."""
    metric, config = tasks[place.dataset.task].metric, place.config
    entries: dict[str, dict[str, Any]] = {}
    for training in trainings(config, place.plan.system, place.dataset.task):
        about = {"kind": training.kind, "name": training.name, "note": _note(place, training)}
        entry = entries.setdefault(training.kind, {**about, "runs": []})
        if Run(place.run.path / training.folder).has(FAILED):
            entry["note"] = f"{entry['note']}; seed {_seed(place, training)} failed: its loss became no number".removeprefix("; ")
        elif _is_done(place, training) or training.folder == ".":
            seed = _seed(place, training)
            entry["runs"].append({"seed": seed, "folder": training.folder, **_figures(place, training, metric)})
    protocol = (
        "Every network is trained from scratch with the same recipe, steps, images and seeds, at the width whose multiply-adds "
        "are nearest to those of the network that was found; none of them was tuned."
    )
    finished = [entry for entry in entries.values() if entry["runs"] or entry["note"].endswith("no number")]
    place.run.write_json(
        "comparison.json", {"metric": metric, "protocol": protocol, "seeds": config.comparison.seeds, "entries": finished}
    )


def _note(place: Workplace, training: Training) -> str:
    if training.kind == "random" and place.config.comparison.seeds > 1:
        return "a new architecture for each seed"
    retrain = place.config.retrain
    lacking = [("drop path", retrain.drop_path < 1), ("auxiliary head", retrain.auxiliary_weight > 0)]
    lacking.append(("weights of an encoder", retrain.encoder_weights is not None))
    lacks = [name for name, used in lacking if used and training.kind == "hand-made"]
    return f"without {' and '.join(lacks)}, which it does not have" if lacks else ""


def _figures(place: Workplace, training: Training, metric: str) -> dict[str, Any]:
    run, main = Run(place.run.path / training.folder), place.config.evaluation
    cost = run.read_json("cost.json")
    scores = {}
    for split in splits_of(place):
        name = file_name(replace(main, split=split), main)
        if run.has(name):
            scores[split] = run.read_json(name)[metric]
    return {
        "id": run.read_json("architecture.json")["id"],
        "parameters": cost["parameters"],
        "multiply_adds": cost["multiply_adds"],
        "latency_ms": run.read_json("latency.json")["median_ms"] if run.has("latency.json") else None,
        "seconds": run.read_json("retrain.json")["seconds"],
        "scores": scores,
    }
