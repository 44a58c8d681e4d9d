"""Architectures as values: JSON, identity, and what a broken file is told."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segnas import zoo
from segnas.errors import UserError
from segnas.spaces.architecture import families, family_of, from_json, identity, read_architecture, to_json
from segnas.spaces.auto_deeplab import AutoDeepLab, AutoDeepLabSpace, Block, NetworkOptions
from segnas.spaces.choice import sample

SMALL = AutoDeepLab((0, 1), (Block((0, 1), ("skip_connect", "sep_conv_3x3")),), NetworkOptions(filters=4))


@pytest.mark.parametrize("seed", range(5))
def test_json_and_back(seed: int) -> None:
    architecture = sample(AutoDeepLabSpace(6, 3), np.random.default_rng(seed))
    text = json.dumps(to_json(architecture))
    again = from_json(json.loads(text))
    assert again == architecture
    assert hash(again) == hash(architecture)
    assert identity(again) == identity(architecture)
    assert from_json({"architecture": json.loads(text), "provenance": {}}) == architecture


def test_the_identity_is_the_hash_of_the_canonical_json() -> None:
    canonical = (
        '{"cell":[{"inputs":[0,1],"operations":["skip_connect","sep_conv_3x3"]}],"family":"auto-deeplab","network":'
        '{"aspp_rates":[12,24,36],"aspp_width":256,"decoder_width":256,"dropout":0.1,"filters":4,"low_level_width":48,'
        '"stem":[64,64,128]},"path":[0,1]}'
    )
    assert identity(SMALL) == hashlib.sha256(canonical.encode()).hexdigest()[:12]
    assert family_of(SMALL) == "auto-deeplab"
    assert to_json(SMALL)["family"] == "auto-deeplab"


def test_identities_differ() -> None:
    generator = np.random.default_rng(0)
    drawn = {sample(AutoDeepLabSpace(4, 2), generator) for _ in range(200)}
    assert len({identity(architecture) for architecture in drawn}) == len(drawn)


def test_an_architecture_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        SMALL.path = (0,)  # type: ignore[misc]


def test_only_registered_classes_have_a_family() -> None:
    @dataclass(frozen=True)
    class Stranger:
        depth: int = 1

    with pytest.raises(TypeError, match="Stranger is no registered"):
        family_of(Stranger())
    assert "auto-deeplab" in families


def changed(change: str) -> Any:
    values: Any = copy.deepcopy(to_json(SMALL))
    match change:
        case "path":
            values["path"] = [0, 2]
        case "state":
            values["cell"][0]["inputs"][1] = 2
        case "operation":
            values["cell"][0]["operations"][1] = "sep_conv_9x9"
        case "missing":
            del values["cell"]
        case "surplus":
            values["depth"] = 3
        case "type":
            values["network"]["filters"] = "wide"
        case "family":
            values["family"] = "auto-deplab"
        case "bare":
            values = [1]
        case "nothing":
            values = {}
        case "three":
            values["cell"][0]["inputs"] = [0, 1, 1]
    return values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("path", r"path\.1 is 2, but level 0 is followed by one of 0, 1"),
        ("state", r"cell\.0\.inputs\.1 is 2, but block 0 has states 0 to 1"),
        ("operation", "unknown operation 'sep_conv_9x9'; did you mean 'sep_conv_7x7'?"),
        ("missing", "cell.*missing"),
        ("surplus", "depth"),
        ("type", r"network\.filters"),
        ("family", "unknown architecture family 'auto-deplab'; did you mean 'auto-deeplab'"),
        ("bare", "needs a JSON object with a key 'family'"),
        ("nothing", "needs a JSON object with a key 'family'"),
        ("three", r"cell\.0\.inputs"),
    ],
)
def test_malformed_architectures_are_one_line(change: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        from_json(changed(change), where="my.json")
    assert "\n" not in str(error.value)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "architecture.json"
    with pytest.raises(UserError, match="cannot read"):
        read_architecture(path)
    for content in (b"{", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is no JSON file") as error:
            read_architecture(path)
        assert "\n" not in str(error.value)
    path.write_text(json.dumps(to_json(SMALL)))
    assert read_architecture(path) == SMALL
    path.write_text(json.dumps(changed("path")))
    with pytest.raises(UserError, match=r"architecture\.json is malformed: .*path\.1"):
        read_architecture(path)


@pytest.mark.parametrize("name", zoo.names())
def test_the_zoo_is_read_back(name: str) -> None:
    architecture = zoo.load(name).architecture
    assert from_json(to_json(architecture)) == architecture
