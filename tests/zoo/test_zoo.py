"""The published architectures: what is printed about them, and how a user names and changes one."""

from __future__ import annotations

import json

import pytest

from segnas import zoo
from segnas.errors import UserError
from segnas.spaces.architecture import family_of, to_json


def test_auto_deeplab_is_there_in_three_sizes():
    sizes = {name: zoo.load(name) for name in ("auto-deeplab-s", "auto-deeplab-m", "auto-deeplab-l")}
    assert set(sizes) <= set(zoo.names())
    assert [entry.architecture.network.filters for entry in sizes.values()] == [20, 32, 48]
    assert [entry.paper["parameters_m"] for entry in sizes.values()] == [10.15, 21.62, 44.42]
    assert [entry.paper["multiply_adds_g"] for entry in sizes.values()] == [333.25, 460.93, 695.03]
    assert len({(entry.architecture.path, entry.architecture.cell) for entry in sizes.values()}) == 1


@pytest.mark.parametrize("name", zoo.names())
def test_every_entry_says_where_it_was_published(name):
    entry = zoo.load(name)
    assert entry.name == name
    assert family_of(entry.architecture)
    assert {"title", "authors", "venue", "classes", "size"} <= set(entry.paper)
    assert "parameters_m" in entry.paper or "parameters_m" in entry.paper["cell"]["mobilenet-v2"]  # of a network, or of its cell


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError, match="unknown architecture 'autodeeplab-s'; did you mean 'auto-deeplab-s'"):
        zoo.load("autodeeplab-s")


def test_find_takes_a_name_a_file_and_a_run(tmp_path):
    expected = zoo.load("auto-deeplab-m").architecture
    (tmp_path / "architecture.json").write_text(json.dumps({"architecture": to_json(expected), "found_by": "hand"}))
    assert zoo.find("auto-deeplab-m") == expected
    assert zoo.find(str(tmp_path / "architecture.json")) == expected
    assert zoo.find(str(tmp_path)) == expected
    with pytest.raises(UserError, match="no architecture of the zoo, JSON file or run; did you mean 'auto-deeplab-l'"):
        zoo.find("auto-deeplab-ll")
    with pytest.raises(UserError, match="cannot read"):
        zoo.find(str(tmp_path / "missing.json"))


def test_options_change_the_network_only():
    original = zoo.load("auto-deeplab-s").architecture
    changed = zoo.with_options(original, ["filters=4", "stem=[8, 8, 16]", "dropout=0"])
    assert (changed.network.filters, changed.network.stem, changed.network.dropout) == (4, (8, 8, 16), 0.0)
    assert (changed.path, changed.cell) == (original.path, original.cell)
    assert zoo.with_options(original, []) is original


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("filtres=4", "unknown key 'filtres'; did you mean 'filters'"),
        ("filters=0", "filters must be at least 1, not 0"),
        ("filters=many", "filters: input should be a valid integer"),
        ("stem=[8, 8]", "stem"),
        ("filters", "write key=value"),
    ],
)
def test_wrong_options_are_met_with_one_line(assignment, message):
    with pytest.raises(UserError, match=message) as caught:
        zoo.with_options(zoo.load("auto-deeplab-s").architecture, [assignment])
    assert "\n" not in str(caught.value)
