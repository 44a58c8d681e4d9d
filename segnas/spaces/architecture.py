"""An architecture is a value: a frozen dataclass of ints, strings and tuples with a JSON form and an identity.

@families.register("auto-deeplab")
@dataclass(frozen=True)
class AutoDeepLab: ...

text = json.dumps(to_json(architecture));  assert from_json(json.loads(text)) == architecture
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from segnas.config import first_complaint
from segnas.errors import Registry, UserError

Architecture = Any  # an instance of a class in `families`: a frozen, hashable dataclass
Input = tuple[tuple[int, int], int]  # ((height, width), classes)

CITYSCAPES: Input = ((1025, 2049), 19)

families: Registry[type] = Registry("architecture family")


def family_of(architecture: Architecture) -> str:
    """The name under which the architecture's class is registered."""
    for name in families:
        if families[name] is type(architecture):
            return name
    raise TypeError(f"{type(architecture).__name__} is no registered architecture family")


def task_of(architecture: Architecture) -> str:
    """What its network predicts: "segmentation" (a class a pixel), unless the family says otherwise in an attribute `task`."""
    return str(getattr(architecture, "task", "segmentation"))


def usual_input_of(architecture: Architecture) -> Input:
    """((height, width), classes) with which papers count: Cityscapes, unless the family says otherwise in `usual_input`."""
    usual: Input = getattr(architecture, "usual_input", CITYSCAPES)
    return usual


def require_at_least(values: object, least: Mapping[str, int]) -> None:
    """Raise ValueError, naming the field, for one that is less than its least value; of a tuple each counts."""
    for name, low in least.items():
        value = getattr(values, name)
        for place, one in enumerate(value) if isinstance(value, tuple) else [("", value)]:
            if one < low:
                raise ValueError(f"{name}{'.' if isinstance(value, tuple) else ''}{place} must be at least {low}, not {one}")


def to_json(architecture: Architecture) -> dict[str, Any]:
    """Plain JSON values: the family's name, then the fields; tuples become lists."""
    return {"family": family_of(architecture), **_plain(architecture)}


def _plain(value: Any) -> Any:
    """What JSON makes of a value, without the way over text, which strategies would go for every proposal."""
    kind = type(value)
    if kind is str or kind is int or kind is float or kind is bool or value is None:
        return value
    if kind is tuple or kind is list:
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(kind):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(kind)}
    return json.loads(json.dumps(value, default=_plain))


def from_json(values: Any, where: str = "the architecture") -> Architecture:
    """The architecture in a JSON value, bare or under the key `architecture` (as architecture.json of a run holds it).

    Raises UserError in one line for anything malformed, with the place of the first fault.
    """
    if isinstance(values, dict) and isinstance(values.get("architecture"), dict):
        values = values["architecture"]
    if not isinstance(values, dict) or "family" not in values:
        raise UserError(f"{where} is no architecture: it needs a JSON object with a key 'family' ({', '.join(families)})")
    cls = families[str(values["family"])]
    fields = {key: value for key, value in values.items() if key != "family"}
    try:
        return pydantic.TypeAdapter(cls).validate_python(fields)
    except pydantic.ValidationError as error:
        raise UserError(f"{where} is malformed: {first_complaint(cls, error)}") from None


def identity(architecture: Architecture) -> str:
    """The first 12 hex digits of the SHA-256 of the canonical JSON (sorted keys, no spaces)."""
    canonical = json.dumps(to_json(architecture), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def read_architecture(path: Path) -> Architecture:
    """The architecture in a JSON file; raises UserError when there is none or it is malformed."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no JSON file: {error}") from None
    return from_json(values, where=str(path))
