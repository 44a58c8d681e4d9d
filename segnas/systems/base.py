"""What a system is: a name, a paper, a configuration with presets, and one function that searches.

    SYSTEM = System(name="my-system", paper=..., state=..., config=MyConfig, presets={"quick": quick}, search=search)
    systems.register(SYSTEM.name)(SYSTEM)     (in segnas/systems/; a file given on the command line needs no registering)

Everything after the search (retrain, evaluate, export, report) needs the architecture alone and knows no system.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from segnas.config import from_dict
from segnas.data.base import Dataset
from segnas.data.transforms import Normalization
from segnas.errors import Registry, UserError
from segnas.estimators.base import TrialEstimator
from segnas.runs.run import Run
from segnas.spaces.architecture import Architecture
from segnas.spaces.choice import Space
from segnas.systems.settings import RunConfig
from segnas.training.device import Device
from segnas.training.preflight import Measurement
from segnas.user_files import import_file


@dataclass(frozen=True)
class Job:
    """What a search works on. config: the system's own configuration, a subclass of RunConfig."""

    config: Any
    dataset: Dataset
    normalization: Normalization
    run: Run
    device: Device


@dataclass(frozen=True)
class System:
    """One published architecture-search system.

    search: Job -> the architecture found; writes search.json and checkpoints of its own into the run directory, and goes
    on from them when they are there. preflight: Job -> measured cost of the search (None: the system cannot tell).
    typical: configuration -> an architecture of the kind that will be retrained, for estimates of its time and memory.
    sized: (configuration, factor) -> the same with a search about `factor` times as long, at least the shortest that makes sense
    (None: its length cannot be chosen). presets: for segmentation, empty for a system that does not search for it;
    task_presets: those for other tasks, by task. space: configuration -> what is searched, which depends on its `network` and,
    of its `search`, on `space_settings`. estimator: of a system that searches by trials: Job -> what tells how good an
    architecture is.
    """

    name: str
    paper: str
    state: str  # "exact", "re-creation", ...: how near to the paper, in a word or two
    config: type[RunConfig]
    presets: Mapping[str, Callable[[], Any]]
    search: Callable[[Job], Architecture]
    preflight: Callable[[Job], Measurement] | None = None
    typical: Callable[[Any], Architecture] | None = None
    sized: Callable[[Any, float], Any] | None = None
    task_presets: Mapping[str, Mapping[str, Callable[[], Any]]] = field(default_factory=dict)
    space: Callable[[Any], Space] | None = None
    space_settings: tuple[str, ...] = ()
    estimator: Callable[[Job], TrialEstimator] | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks for which it searches networks."""
        return (*(("segmentation",) if self.presets else ()), *self.task_presets)

    def presets_for(self, task: str) -> Mapping[str, Callable[[], Any]]:
        """The presets for a task; empty when the system has none."""
        return self.presets if task == "segmentation" else self.task_presets.get(task, {})


_HEAD = ("segnas", "system", "preset", "dataset")  # of a run's configuration, before the settings
systems: Registry[System] = Registry("system")
families_of_systems: Registry[Callable[[str], System]] = Registry("family of systems")  # "random/NAME" is one of "random"


def load_system(name: str) -> System:
    """The system of that name, or the one in a Python file (`my_system.py`); UserError names the nearest."""
    _import_all()
    prefix, separator, rest = name.partition("/")
    if separator and prefix in families_of_systems:
        return families_of_systems[prefix](rest)
    if not name.endswith(".py"):
        return systems[name]
    module = import_file(name, f"a system is a name ({', '.join(systems)}) or a Python file")
    found = [value for value in vars(module).values() if isinstance(value, System)]
    if len(found) != 1:
        raise UserError(f"{name} must hold exactly one System, found {len(found)}; docs/adding_a_system.md shows how")
    return found[0]


def read_configuration(values: Mapping[str, Any], where: str) -> tuple[dict[str, Any], Any]:
    """What a run's config.yaml holds: {"segnas", "system", "preset", "dataset"}, and the configuration of that system.

    Raises UserError, in a line that begins with `where`, for what does not fit.
    """
    head = {key: values.get(key) for key in _HEAD}
    settings = {key: value for key, value in values.items() if key not in _HEAD}
    cls = RunConfig if head["system"] is None else load_system(head["system"]).config
    return head, from_dict(cls, settings, where=where)


def all_systems() -> list[System]:
    """All systems by name."""
    _import_all()
    return [systems[name] for name in systems]


def preset(system: System, name: str, task: str = "segmentation") -> Any:
    """The configuration of a preset for a task; UserError names the nearest, or says that the system is for other tasks."""
    if task not in system.tasks:
        able = ", ".join(one.name for one in all_systems() if task in one.tasks) or "none yet"
        raise UserError(
            f"{system.name} searches networks for {' and '.join(system.tasks)}, and the data is for {task}; "
            f"systems for {task}: {able}"
        )
    presets: Registry[Callable[[], Any]] = Registry(f"preset of {system.name}")
    for key, make in system.presets_for(task).items():
        presets.register(key)(make)
    return presets[name]()


def _import_all() -> None:
    import segnas.systems as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"segnas.systems.{module.name}")
