"""Typed configuration: frozen dataclasses beside what they configure, YAML files, and `key=value` overrides.

    @configuration
    class RetrainConfig:
        epochs: int = 100

    config = override(RetrainConfig(), ["epochs=20"])

A configuration validates itself when it is made; `override` and `from_dict` turn every complaint into one line that names
the dotted key (UserError).
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

import pydantic
import yaml
from pydantic.dataclasses import dataclass as pydantic_dataclass

from segnas.errors import UserError, did_you_mean

C = TypeVar("C")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def configuration(cls: type[C]) -> type[C]:
    """Make `cls` a frozen, keyword-only, validated dataclass that refuses unknown keys."""
    settings = pydantic.ConfigDict(extra="forbid", validate_default=True)
    return pydantic_dataclass(cls, frozen=True, kw_only=True, config=settings)  # type: ignore[return-value]


def to_dict(config: Any) -> dict[str, Any]:
    """Plain dicts, lists, strings and numbers, as written to config.yaml."""
    plain: dict[str, Any] = pydantic.TypeAdapter(type(config)).dump_python(config, mode="json")
    return plain


def from_dict(cls: type[C], values: Mapping[str, Any], where: str = "the configuration") -> C:
    """A `cls` from nested plain values; raises UserError naming the first key that does not fit."""
    try:
        return pydantic.TypeAdapter(cls).validate_python(dict(values))
    except pydantic.ValidationError as error:
        raise UserError(f"{where}: {first_complaint(cls, error)}") from None


def override(config: C, assignments: Sequence[str] | str) -> C:
    """`config` with `key=value` assignments applied; keys are dotted paths, values are YAML (`lr=0.1`, `crop=[65, 129]`).

    A key that is no full path may be its last part when only one path ends so (`epochs` is ambiguous, `layers` is not). Below a
    field that is a dict any key may be set.
    """
    values = to_dict(config)
    keys, free = dotted_keys(values), free_mappings(type(config))
    for assignment in [assignments] if isinstance(assignments, str) else assignments:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise UserError(f"'{assignment}' is no override; write key=value, for example {keys[0]}=...")
        inside = any(name.strip().startswith(f"{mapping}.") for mapping in free)
        key = name.strip() if inside or name.strip() in free else _full_key(name.strip(), keys)
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"{key}: cannot read the value '{text}'") from None
        _assign(values, key.split("."), value, text.strip())
    return from_dict(type(config), values)


def dotted_keys(values: Mapping[str, Any]) -> list[str]:
    """The dotted paths of all leaves of nested mappings, in order."""
    return list(flat(values))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, from dotted path to leaf, in order."""
    leaves: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves


def free_mappings(cls: Any, prefix: str = "") -> list[str]:
    """The dotted paths of the fields that are dicts, whose keys are not fixed."""
    found = []
    for name, kind in typing.get_type_hints(cls).items():
        if typing.get_origin(kind) is dict:
            found.append(f"{prefix}{name}")
        elif dataclasses.is_dataclass(kind):
            found += free_mappings(kind, f"{prefix}{name}.")
    return found


def save_yaml(config: Mapping[str, Any]) -> str:
    """YAML text of plain values in their own order."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises UserError when it is missing or holds something else."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{path} is no YAML file") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no mapping of keys to values")
    return values


def replace(config: C, **changes: Any) -> C:
    """`dataclasses.replace` for configurations, validated again; raises UserError naming the first key that does not fit."""
    try:
        return dataclasses.replace(config, **changes)  # type: ignore[type-var]
    except pydantic.ValidationError as error:
        raise UserError(first_complaint(type(config), error)) from None


def _full_key(name: str, keys: Sequence[str]) -> str:
    if name in keys:
        return name
    endings = [key for key in keys if key.endswith(f".{name}")]
    if len(endings) == 1:
        return endings[0]
    if endings:
        raise UserError(f"the key '{name}' is ambiguous; write one of {', '.join(endings)}")
    inside = [key for key in keys if key.startswith(f"{name}.")]
    if inside:
        raise UserError(f"'{name}' is a section; write one of its keys: {', '.join(inside)}")
    short = {key.rsplit(".", 1)[-1]: key for key in keys}
    nearest = difflib.get_close_matches(name, [*keys, *short], n=1, cutoff=0.5)
    if not nearest:
        first_words = dict.fromkeys(key.split(".")[0] for key in keys)
        raise UserError(f"unknown key '{name}'; keys begin with {', '.join(first_words)}")
    raise UserError(f"unknown key '{name}'; did you mean '{short.get(nearest[0], nearest[0])}'?")


def _assign(values: dict[str, Any], parts: Sequence[str], value: Any, text: str) -> None:
    for place, part in enumerate(parts[:-1], start=1):
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise UserError(f"unknown key '{'.'.join(parts)}'; {'.'.join(parts[:place])} is a value")
    before = values.get(parts[-1])
    if isinstance(before, str):  # a word, as in `precision=32`, whatever YAML takes it for; or none
        values[parts[-1]] = text if isinstance(value, (int, float)) or not text else value
    elif isinstance(before, list) and isinstance(value, str):  # one item of a list
        values[parts[-1]] = [_scientific(value)]
    else:
        values[parts[-1]] = _scientific(value)


def _scientific(value: Any) -> Any:
    """YAML 1.1 reads `1e-3` as a string; people mean a number."""
    if isinstance(value, list):
        return [_scientific(item) for item in value]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def first_complaint(cls: Any, error: pydantic.ValidationError) -> str:
    """The first fault of a validation in one line: its dotted key, what is wrong, the nearest key where one is unknown."""
    complaint = error.errors()[0]
    key = ".".join(str(part) for part in complaint["loc"])
    if complaint["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        siblings = _keys_beside(cls, complaint["loc"])
        return f"unknown key '{key}'{did_you_mean(str(complaint['loc'][-1]), siblings)}"
    if complaint["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"the key '{key}' is missing"
    message = complaint["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list such as [1, 2]")
    if not key or isinstance(complaint["input"], Mapping):
        return f"{key}: {message}" if key else message
    return f"{key}: {message[0].lower()}{message[1:]} (got {complaint['input']!r:.80})"


def _keys_beside(cls: Any, location: Sequence[Any]) -> list[str]:
    """The keys that are allowed where `location` names an unknown one."""
    for part in location[:-1]:
        if isinstance(part, int):  # an item of tuple[Block, ...]
            cls = next(iter(typing.get_args(cls)), None)
        elif dataclasses.is_dataclass(cls):
            cls = typing.get_type_hints(cls).get(str(part))
    return [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
