"""Networks made by hand as architectures: JSON, options, task, and what they refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from segnas import zoo
from segnas.errors import UserError
from segnas.spaces.architecture import family_of, from_json, identity, task_of, to_json
from segnas.spaces.hand_made import HAND_MADE, DeepLabV3Plus, ResNet, UNet


@pytest.mark.parametrize("architecture", [UNet(), UNet(8, 2), DeepLabV3Plus(), DeepLabV3Plus(9, 8, 7, 6), ResNet(), ResNet(4, 9)])
def test_json_and_back(architecture: Any, tmp_path: Any) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(to_json(architecture)))
    again = zoo.find(str(path))
    assert again == architecture
    assert identity(again) == identity(architecture)


def test_families_and_tasks() -> None:
    assert [family_of(cls()) for cls in HAND_MADE] == ["unet", "deeplab-v3-plus", "resnet"]
    assert [task_of(cls()) for cls in HAND_MADE] == ["segmentation", "segmentation", "classification"]
    assert to_json(ResNet()) == {"family": "resnet", "filters": 16, "blocks": 3}


def test_every_field_is_an_option() -> None:
    assert zoo.with_options(UNet(), ["filters=8", "depth=3"]) == UNet(8, 3)
    assert zoo.with_options(ResNet(), ["blocks=5"]) == ResNet(16, 5)
    assert zoo.with_options(DeepLabV3Plus(), ["aspp_width=64"]) == DeepLabV3Plus(aspp_width=64)
    with pytest.raises(UserError, match="unknown key 'filtres'; did you mean 'filters'"):
        zoo.with_options(UNet(), ["filtres=8"])
    with pytest.raises(UserError, match="depth must be at least 1, not 0"):
        zoo.with_options(UNet(), ["depth=0"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"family": "unet", "filters": 0}, "filters must be at least 1, not 0"),
        ({"family": "unet", "filters": "wide"}, "filters: input should be a valid integer"),
        ({"family": "u-net"}, "did you mean 'unet'"),
        ({"family": "resnet", "depth": 4}, "unknown key 'depth'; allowed: blocks, filters"),
        ({"family": "resnet", "task": "segmentation"}, "unknown key 'task'"),
        ({"family": "deeplab-v3-plus", "aspp_width": -4}, "aspp_width must be at least 1"),
    ],
)
def test_malformed_json_is_met_with_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        from_json(values, where="mine.json")
    assert "\n" not in str(caught.value)
