"""Configurations: overrides, YAML, complaints in one line that name the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from segnas.config import configuration, dotted_keys, from_dict, load_yaml, override, replace, save_yaml, to_dict
from segnas.errors import UserError
from segnas.systems.base import System, all_systems, preset
from segnas.systems.settings import run_preset, run_presets


@configuration
class Inner:
    rate: float = 0.1
    epochs: int = 5
    sizes: tuple[int, int] = (33, 65)
    words: tuple[str, ...] = ("a",)


@configuration
class Other:
    epochs: int = 7
    precision: Literal["32", "bf16"] = "32"
    path: Path | None = None
    on: bool = False


@configuration
class Outer:
    seed: int = 0
    inner: Inner = Inner()
    other: Other = Other()

    def __post_init__(self) -> None:
        if self.seed == 13:
            raise ValueError("13 brings bad luck")


def complaint(*assignments: str) -> str:
    with pytest.raises(UserError) as error:
        override(Outer(), assignments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("seed=4", "seed", 4),
        ("inner.epochs=9", "inner.epochs", 9),
        ("rate=1e-3", "inner.rate", 1e-3),
        ("rate=1e3", "inner.rate", 1000.0),
        ("rate=2", "inner.rate", 2.0),
        (" rate = .5 ", "inner.rate", 0.5),
        ("sizes=[1,2]", "inner.sizes", (1, 2)),
        ("sizes=[1e2, 2]", "inner.sizes", (100, 2)),
        ("words=[x, y]", "inner.words", ("x", "y")),
        ("words=[]", "inner.words", ()),
        ("words=x", "inner.words", ("x",)),
        ("other.precision=32", "other.precision", "32"),
        ("precision='32'", "other.precision", "32"),
        ("precision=bf16", "other.precision", "bf16"),
        ("path=some/file=x", "other.path", Path("some/file=x")),
        ("path=null", "other.path", None),
        ("on=true", "other.on", True),
    ],
)
def test_overrides(assignment: str, path: str, value: Any) -> None:
    found: Any = override(Outer(), [assignment])
    for part in path.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_later_overrides_win_and_the_given_configuration_stays() -> None:
    given = Outer()
    assert override(given, ["seed=1", "rate=3", "seed=2"]) == Outer(seed=2, inner=Inner(rate=3.0))
    assert given == Outer()
    assert override(given, []) == given


@pytest.mark.parametrize(
    ("assignment", "parts"),
    [
        ("seed", ["'seed' is no override", "key=value"]),
        ("epochs=3", ["ambiguous", "inner.epochs", "other.epochs"]),
        ("rat=3", ["unknown key 'rat'", "did you mean 'inner.rate'"]),
        ("inner.rat=3", ["unknown key 'inner.rat'", "inner.rate"]),
        ("inner=3", ["'inner' is a section", "inner.rate"]),
        ("rate=fast", ["inner.rate", "number", "'fast'"]),
        ("inner.epochs=2.5", ["inner.epochs", "integer"]),
        ("sizes=[1]", ["inner.sizes.1", "missing"]),
        ("sizes=3", ["inner.sizes", "a list such as"]),
        ("precision=16", ["other.precision", "'32' or 'bf16'", "16"]),
        ("rate=[1", ["inner.rate", "cannot read"]),
        ("seed=13", ["13 brings bad luck"]),
        ("on=perhaps", ["other.on", "boolean"]),
    ],
)
def test_complaints_name_the_key_in_one_line(assignment: str, parts: list[str]) -> None:
    message = complaint(assignment)
    for part in parts:
        assert part in message


def test_unknown_and_missing_keys_of_stored_values() -> None:
    with pytest.raises(UserError, match=r"here: unknown key 'inner\.rats'; did you mean 'rate'"):
        from_dict(Outer, {"inner": {"rats": 3}}, where="here")

    @configuration
    class Needs:
        size: int

    with pytest.raises(UserError, match="the key 'size' is missing"):
        from_dict(Needs, {})


def test_configurations_are_frozen_validated_values() -> None:
    with pytest.raises(AttributeError):
        Outer().seed = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="seed"):
        Outer(seed="many")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="bad luck"):
        replace(Outer(), seed=13)
    assert replace(Outer(), seed=2) == Outer(seed=2)
    assert hash(Outer()) == hash(Outer())


def test_dotted_keys() -> None:
    assert dotted_keys({"a": 1, "b": {"c": [1], "d": {"e": None}}, "f": {}}) == ["a", "b.c", "b.d.e", "f"]


@pytest.mark.parametrize("name", list(run_presets))
def test_every_preset_of_a_run_survives_yaml(name: str) -> None:
    config = run_preset(name)
    assert from_dict(type(config), yaml.safe_load(save_yaml(to_dict(config)))) == config


@pytest.mark.parametrize("system", all_systems(), ids=lambda system: system.name)
def test_every_preset_of_every_system_survives_yaml(system: System, tmp_path: Path) -> None:
    for task, name in [(kind, key) for kind in system.tasks for key in system.presets_for(kind)]:
        config = preset(system, name, task)
        assert isinstance(config, system.config)
        (tmp_path / "config.yaml").write_text(save_yaml(to_dict(config)))
        assert from_dict(system.config, load_yaml(tmp_path / "config.yaml")) == config
        for key in dotted_keys(to_dict(config)):  # each value as a person would write it on the command line
            value: Any = to_dict(config)
            for part in key.split("."):
                value = value[part]
            text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
            assert override(config, [f"{key}={text}"]) == config
    with pytest.raises(UserError, match="did you mean 'quick'"):
        preset(system, "quik", system.tasks[0])


@pytest.mark.parametrize(("text", "message"), [("a: [", "no YAML file"), ("- 1", "no mapping"), (None, "cannot read")])
def test_files_that_hold_no_configuration(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_yaml(path)
