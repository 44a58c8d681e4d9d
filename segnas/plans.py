"""What a command asks for, resolved to everything that config.yaml holds, and the command that asks for it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import segnas
from segnas.config import flat, override, replace, to_dict
from segnas.data import absolute_data, task_of_data
from segnas.errors import UserError
from segnas.processes import program
from segnas.runs.run import Run
from segnas.spaces.choice import all_spaces
from segnas.systems.base import all_systems, load_system, preset, read_configuration
from segnas.systems.settings import run_preset
from segnas.user_files import absolute

RANDOM = "random"  # the system that is told its space
RANDOM_SEARCH = "random search"  # of as many trials, which a run is compared with
LENGTHS = ("epochs", "architecture_from_epoch", "trials")  # of a search, that a time limit chooses


@dataclass(frozen=True)
class Plan:
    """What a command asks for, resolved: everything that config.yaml holds."""

    system: str | None
    preset: str
    dataset: str
    config: Any  # the system's configuration, a subclass of RunConfig

    @property
    def task(self) -> str:
        """What the labels of the data are."""
        return task_of_data(self.dataset)

    def to_dict(self) -> dict[str, Any]:
        """As written to config.yaml."""
        head = {"segnas": segnas.__version__, "system": self.system, "preset": self.preset, "dataset": self.dataset}
        return {**head, **to_dict(self.config)}


def plan(system: str | None, data: str, preset_name: str, overrides: Sequence[str] = ()) -> Plan:
    """The resolved configuration of a command.

    UserError for an unknown system, preset or key, a value that does not fit, or a system that is not for the data's task.
    """
    system, overrides = over_space(system, overrides)
    config = preset_config(system, preset_name, task_of_data(data))
    if not hasattr(config, "execution") and any(word.startswith("execution.") for word in overrides):
        raise UserError(f"{system} does not search by trials, and has no use for workers or a cluster (--workers, --ray)")
    return Plan(_system(system), preset_name, absolute_data(data), absolute_weights(override(config, overrides)))


def preset_config(system: str | None, preset_name: str, task: str) -> Any:
    """The configuration of a system's preset, or of one without a search, for a task; UserError as `plan` says."""
    return run_preset(preset_name, task) if system is None else preset(load_system(system), preset_name, task)


def over_space(system: str | None, overrides: Sequence[str], stored: str | None = None) -> tuple[str | None, Sequence[str]]:
    """`random` with the setting `space=NAME` as the system `random/NAME`, and the other settings.

    stored: the system of a run that is gone on with, which need not be told its space again. Raises UserError when there is none.
    """
    if system != RANDOM:
        return system, overrides
    spaces = [word.removeprefix("space=") for word in overrides if word.startswith("space=")]
    if not spaces and stored is not None and stored.startswith(f"{RANDOM}/"):
        return stored, overrides
    if not spaces:
        known = ", ".join(sorted({*all_spaces(), *(one.name for one in all_systems() if one.space is not None)}))
        raise UserError(f"say which space is to be searched: segnas run random space=NAME, one of {known}, or a Python file")
    return f"{RANDOM}/{absolute(spaces[-1])}", [word for word in overrides if not word.startswith("space=")]


def absolute_weights(config: Any) -> Any:
    """The configuration with the files that training starts from named wherever the run is continued from."""
    files = {name: getattr(config.retrain, name) for name in ("weights", "encoder_weights")}
    given = {name: path.absolute() for name, path in files.items() if path is not None}
    return replace(config, retrain=replace(config.retrain, **given)) if given else config


def planned(run: Run) -> Plan:
    """The plan that an existing run was started with."""
    head, config = read_configuration(run.config(), where=str(run.path / "config.yaml"))
    return Plan(head["system"], str(head["preset"]), str(head["dataset"]), config)


def resumed(out: Path, system: str | None, data: str | None, preset_name: str | None, overrides: Sequence[str]) -> Plan:
    """The plan of the run in `out`, which what the command says must not contradict."""
    stored = planned(Run.open(out))
    system, overrides = over_space(system, overrides, stored.system)
    dataset = stored.dataset if data is None else absolute_data(data)
    config = absolute_weights(override(stored.config, overrides))
    if stored.config.time_limit is not None:  # the lengths that it gave stand, whatever the command began with
        config = replace(config, retrain=replace(config.retrain, epochs=stored.config.retrain.epochs))
        if hasattr(config, "search"):
            lengths = {name: getattr(stored.config.search, name) for name in LENGTHS if hasattr(stored.config.search, name)}
            config = replace(config, search=replace(config.search, **lengths))
    return Plan(_system(system) or stored.system, preset_name or stored.preset, dataset, config)


def command(asked: Plan, out: Path) -> str:
    """The command that repeats the run from the beginning: its preset, and every setting that differs from it."""
    base = preset_config(asked.system, asked.preset, asked.task)
    usual, here = flat(to_dict(base)), flat(to_dict(asked.config))
    here.pop("time_limit")  # the lengths that it gave are named
    changed = [f"{key}={as_override(value)}" for key, value in here.items() if usual.get(key) != value]
    verb = ["run", asked.system] if asked.system is not None else ["retrain", str(out / "architecture.json")]
    words = [*program(), *verb, "--data", asked.dataset, "--preset", asked.preset, "--out", str(out), *changed]
    return shlex.join(words)


def as_override(value: Any) -> str:
    """A value as `override` reads it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _system(name: str | None) -> str | None:
    """What config.yaml says of the system: its name, or a file wherever the run is continued from."""
    if name is not None and name.startswith(f"{RANDOM}/"):
        return f"{RANDOM}/{absolute(name.removeprefix(f'{RANDOM}/'))}"
    return name if name is None else absolute(name)
