"""Random search over any space: the baseline under the same budget (Li and Talwalkar, UAI 2019; Yu et al., ICLR 2020).

    segnas run random space=dpc --data my_images        the trials of `dpc`, with its estimator, drawn at random
    segnas run random space=darts --data my_images      trials over the space of a system that searches by gradients
    segnas run random space=my_space.py --data my_images  search.strategy=evolution

| paper | here |
|--|--|
| random architectures, the best by validation is kept | the same; every other strategy by `search.strategy=NAME` |
| trained as the method that it is compared with trains | the estimator, trials and presets of the system whose space it is |

For spaces without a system of trials, an architecture is trained shortly by the recipe of retraining.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

from segnas.config import configuration, replace
from segnas.errors import UserError, did_you_mean
from segnas.randomness import numpy_generator
from segnas.spaces.architecture import task_of
from segnas.spaces.choice import Space, all_spaces, sample, search_spaces
from segnas.systems import trial_search
from segnas.systems.base import System, families_of_systems, systems
from segnas.systems.settings import of_every_run, run_preset
from segnas.systems.trials import ShortTrialRunConfig, short_training, short_trials
from segnas.user_files import absolute, import_file

NAME = "random"
IN_A_FILE = "a space is a name or a Python file"


@families_of_systems.register(NAME)
def random_search(space: str) -> System:
    """The system that tries random architectures of a space: that of a system, a registered one, or the one in a Python file.

    Raises UserError when there is no such space.
    """
    name = f"{NAME}/{absolute(space)}"
    base = _base(space)
    if base is not None and base.space is not None:
        return _of_trials(base, name) if base.estimator is not None else _of_gradients(base, name)
    return _of_space(name, _space(space))


def _base(space: str) -> System | None:
    """The system of that name or file; None for a space that no system is about."""
    if space in systems:
        return systems[space]
    held = vars(import_file(space, IN_A_FILE)).values() if space.endswith(".py") else ()
    found = [value for value in held if isinstance(value, System)]
    return found[0] if len(found) == 1 else None


def _space(space: str) -> Callable[[], Space]:
    if space.endswith(".py"):
        module = import_file(space, IN_A_FILE)
        own = [one for one in search_spaces if search_spaces[one].__module__ == module.__name__]
        if len(own) != 1:
            raise UserError(f"{space} must register exactly one search space, found {len(own)}; docs/adding_a_space.md shows how")
        return search_spaces[own[0]]
    known = all_spaces()
    if space not in known:
        raise UserError(f"unknown space '{space}'{did_you_mean(space, {*known, *systems})}")
    return known[space]


def _of_trials(base: System, name: str) -> System:
    """The same trials, but proposed at random."""

    def drawn(make: Callable[[], Any]) -> Any:
        config = make()
        return replace(config, search=replace(config.search, strategy=NAME))

    made = {task: {key: partial(drawn, make) for key, make in presets.items()} for task, presets in _by_task(base).items()}
    others = {task: kinds for task, kinds in made.items() if task != "segmentation"}
    assert base.space is not None
    assert base.estimator is not None
    paper, config = f"random search over the space of {base.name}", base.config
    made_of = (made.get("segmentation", {}), others, base.space, base.estimator)
    return trial_search.trial_system(name, paper, "a baseline", config, *made_of)


def _of_gradients(base: System, name: str) -> System:
    """Trials over the space of a system that searches through a supernet, with the networks of its presets."""
    made = {task: dict(presets) for task, presets in _by_task(base).items()}
    first = next(make() for presets in made.values() for make in presets.values())
    searched = _section("SpaceConfig", {name: getattr(first.search, name) for name in base.space_settings})
    config = _section("RandomConfig", {"space": searched(), "network": type(first.network)()}, ShortTrialRunConfig)

    def preset(make: Callable[[], Any]) -> Any:
        known = make()
        own = searched(**{name: getattr(known.search, name) for name in base.space_settings})
        return config(**of_every_run(known), search=short_trials(known), space=own, network=known.network)

    def space(config: Any) -> Space:
        assert base.space is not None
        return base.space(SimpleNamespace(search=config.space, network=config.network))

    drawn = {task: {key: partial(preset, make) for key, make in presets.items()} for task, presets in made.items()}
    return _system(name, f"random search over the space of {base.name}", config, drawn, space)


def _section(name: str, fields: Mapping[str, Any], base: type = object) -> Any:
    """A configuration class with these fields, of the types of their defaults."""
    kinds = {key: tuple[str, ...] if isinstance(value, tuple) else type(value) for key, value in fields.items()}
    about = {"__module__": __name__, "__doc__": f"{name}: made of the settings of another system.", "__annotations__": kinds}
    return configuration(type(name, (base,), {**about, **fields}))


def _of_space(name: str, make_space: Callable[[], Space]) -> System:
    """Trials over a space that no system is about, with the presets of retraining."""
    task = task_of(sample(make_space(), numpy_generator(0, "task")))

    def preset(key: str) -> Any:
        known = run_preset(key, task)
        return ShortTrialRunConfig(**of_every_run(known), search=short_trials(known))

    made = {task: {key: partial(preset, key) for key in ("quick", "small")}}
    return _system(name, "random search", ShortTrialRunConfig, made, lambda config: make_space())


def _system(name: str, paper: str, config: Any, presets: Mapping[str, Any], space: Callable[[Any], Space]) -> System:
    others = {task: kinds for task, kinds in presets.items() if task != "segmentation"}
    segmentation = presets.get("segmentation", {})
    return trial_search.trial_system(name, paper, "a baseline", config, segmentation, others, space, short_training)


def _by_task(base: System) -> Mapping[str, Mapping[str, Callable[[], Any]]]:
    return {**({"segmentation": base.presets} if base.presets else {}), **base.task_presets}
