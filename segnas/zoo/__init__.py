"""Published architectures as JSON files, with the figures that their papers print.

    entry = zoo.load("auto-deeplab-s")
    entry.architecture, entry.paper["parameters_m"]

A file holds `architecture` (see segnas.spaces.architecture) and `paper`: where it was published, and printed figures only, with
the class count and image size (height, width) that they are for.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from segnas import config
from segnas.errors import UserError, did_you_mean
from segnas.spaces.architecture import Architecture, family_of, from_json, read_architecture
from segnas.spaces.choice import all_spaces
from segnas.spaces.forms import has_forms, with_form
from segnas.spaces.hand_made import HAND_MADE

all_spaces()  # files the families of all published architectures


@dataclass(frozen=True)
class ZooEntry:
    """One published architecture; `paper` holds title, authors, venue, arxiv and the printed figures."""

    name: str
    architecture: Architecture
    paper: dict[str, Any]


def names() -> list[str]:
    """The names of all published architectures here, sorted."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".json") for file in files if file.name.endswith(".json"))


def load(name: str) -> ZooEntry:
    """The entry of this name; raises UserError with the nearest name when there is none."""
    if name not in names():
        raise UserError(f"unknown architecture '{name}'{did_you_mean(name, names())}")
    values = json.loads(resources.files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return ZooEntry(name, from_json(values, where=name), values["paper"])


def in_form(entry: ZooEntry, form: str) -> ZooEntry:
    """The entry as another form of network; `paper` then lacks the figures that are not printed of that form.

    An entry without forms is returned as it is. Raises UserError for an unknown form.
    """
    if not has_forms(entry.architecture) or form == entry.architecture.network.form:
        return entry
    about = {key: entry.paper[key] for key in ("title", "authors", "venue", "arxiv", "network")}
    return ZooEntry(entry.name, with_form(entry.architecture, form), {**about, **entry.paper.get("forms", {}).get(form, {})})


def find(name_or_path: str, form: str | None = None) -> Architecture:
    """The architecture of this zoo name, in this JSON file, or in this run directory; raises UserError when there is none.

    form: of the network of its cells, with that form's usual sizes; None leaves it as it is.
    """
    found = _find(name_or_path)
    return found if form is None else with_form(found, form)


def _find(name_or_path: str) -> Architecture:
    if name_or_path in names():
        return load(name_or_path).architecture
    path = Path(name_or_path)
    if path.is_dir() and not (path / "architecture.json").exists():
        raise UserError(f"there is no architecture.json in {path}: it is no run, or its search is not finished")
    if path.is_dir():
        return read_architecture(path / "architecture.json")
    if path.exists() or path.suffix == ".json":
        return read_architecture(path)
    raise UserError(f"'{name_or_path}' is no architecture of the zoo, JSON file or run{did_you_mean(name_or_path, names())}")


def with_options(architecture: Architecture, assignments: Sequence[str]) -> Architecture:
    """`architecture` with options of its network changed: `["filters=4", "stem=[16, 16, 32]"]`.

    These are the fields of `architecture.network`, and all fields of a network made by hand. Raises UserError for an unknown
    option, a value that does not fit, and a family whose networks have no options.
    """
    if not assignments:
        return architecture
    if isinstance(architecture, HAND_MADE):  # every field is an option
        return config.override(architecture, assignments)
    if not hasattr(architecture, "network"):
        raise UserError(f"networks of the family '{family_of(architecture)}' have no options; leave out {assignments[0]}")
    return dataclasses.replace(architecture, network=config.override(architecture.network, assignments))
