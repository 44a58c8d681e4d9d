"""Registries and the nearest name."""

from __future__ import annotations

import pytest

from segnas.errors import Registry, UserError, did_you_mean


def test_a_registry_names_the_nearest() -> None:
    colors: Registry[int] = Registry("colour")
    decorated = colors.register("yellow")(3)
    colors.register("blue")(5)
    assert decorated == 3
    assert colors["yellow"] == 3
    assert list(colors) == ["blue", "yellow"]
    assert len(colors) == 2
    assert "blue" in colors
    assert "green" not in colors
    with pytest.raises(UserError, match=r"^unknown colour 'yelow'; did you mean 'yellow'\?$"):
        colors["yelow"]
    with pytest.raises(UserError, match=r"^unknown colour 'q'; allowed: blue, yellow$"):
        colors["q"]
    with pytest.raises(ValueError, match="'blue' is registered twice"):
        colors.register("blue")(6)
    assert colors["blue"] == 5


def test_an_empty_registry() -> None:
    with pytest.raises(UserError, match="allowed: nothing"):
        Registry[int]("thing")["x"]


def test_the_nearest_name() -> None:
    assert did_you_mean("skip_conect", ["none", "skip_connect"]) == "; did you mean 'skip_connect'?"
    assert did_you_mean("zzz", ["b", "a"]) == "; allowed: a, b"
