"""What choice.py derives from a space, against enumeration and plain definitions; spaces with and without dependences."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segnas.spaces import choice
from segnas.spaces.architecture import families, from_json, to_json
from segnas.spaces.auto_deeplab import AutoDeepLab, AutoDeepLabSpace, NetworkOptions
from segnas.spaces.choice import NotInSpace

FULL = AutoDeepLabSpace()
SMALL = AutoDeepLabSpace(layers=3, blocks=1, operations=("none", "sep_conv_3x3"), network=NetworkOptions(filters=4))


@dataclass(frozen=True)
class Toy:
    values: tuple


@pytest.fixture
def toy_family(monkeypatch):
    monkeypatch.setitem(families._members, "toy", Toy)


class Independent:
    """3 * 2 * 4 architectures; the options of one choice are tuples."""

    def architecture(self, choose):
        return Toy((choose("values.0", range(3)), choose("values.1", ((1, 2), (3, 4))), choose("values.2", "abcd")))


class Permutations:
    """Options depend on earlier choices, their number does not: 7!."""

    def architecture(self, choose):
        left = list(range(7))
        for i in range(7):
            left.remove(choose(f"values.{i}", tuple(left)))
        return Toy(())


class Conditional:
    """A choice that exists only after one answer, and a free one after it: (1 + 1 + 5) * 3."""

    def architecture(self, choose):
        kind = choose("values.0", ("a", "b", "c"))
        more = choose("values.1", range(5)) if kind == "c" else -1
        return Toy((kind, more, choose("values.2", range(3))))


class ThroughAnother:
    """The first choice decides which options the second has (as many either way), and they how many the third has."""

    def architecture(self, choose):
        first = choose("values.0", (0, 2))
        free = choose("values.1", range(4))
        second = choose("values.2", (first, first + 1))
        return Toy((first, free, second, choose("values.3", range(second + 1))))


class Product:
    """The number of options is the product of three earlier answers: several dependences on one choice."""

    def architecture(self, choose):
        a, b, c = (choose(f"values.{i}", (1, 2, 3)) for i in range(3))
        return Toy((a, b, c, choose("values.3", range(a * b * c))))


@pytest.mark.parametrize(
    ("space", "expected"),
    [(Independent(), 24), (Permutations(), 5040), (Conditional(), 21), (ThroughAnother(), 4 * (1 + 2 + 3 + 4)), (Product(), 216)],
)
def test_size_and_enumeration_agree_with_the_plain_count(space, expected):
    assert choice.size(space) == expected
    series = sum(1 for _ in choice.enumerate_space(space))
    assert series == expected


@pytest.mark.parametrize("space", [Independent(), Permutations(), Conditional(), ThroughAnother(), SMALL])
def test_every_choice_and_option_is_discovered(space):
    """As enumeration meets them."""
    expected, found = set(), set()

    class Recorded:
        def architecture(self, choose):
            def record(name, options, node=False, member=""):
                expected.update((name, option, node, member) for option in options)
                return choose(name, options, node, member)

            return space.architecture(record)

    for _ in itertools.islice(choice.enumerate_space(Recorded()), 10_000):
        pass
    for name, seen in choice.discover(space).items():
        assert all(one.name == name for one in seen)
        found |= {(name, option, one.node, one.member) for one in seen for option in one.options}
    assert found == expected


def test_enumeration_of_a_small_auto_deeplab_space_equals_brute_force():
    paths = [p for p in itertools.product(range(4), repeat=3) if all(abs(a - b) <= 1 for a, b in itertools.pairwise((0, *p)))]
    cells = list(itertools.product(range(2), SMALL.operations, range(2), SMALL.operations))
    expected = {(p, (c[0], c[2]), (c[1], c[3])) for p in paths for c in cells}
    listed = list(choice.enumerate_space(SMALL))
    assert {(a.path, a.cell[0].inputs, a.cell[0].operations) for a in listed} == expected
    assert len(listed) == len(set(listed)) == len(expected) == choice.size(SMALL)


def test_enumeration_is_lazy():
    assert len(list(itertools.islice(choice.enumerate_space(FULL), 5))) == 5


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_encode_and_from_indices_are_inverses(seed):
    architecture = choice.sample(FULL, np.random.default_rng(seed))
    indices = choice.encode(FULL, architecture)
    assert len(indices) == 12 + 20
    assert choice.from_indices(FULL, indices) == architecture
    assert from_json(to_json(architecture)) == architecture


def test_encode_finds_tuples(toy_family):
    architecture = Toy((2, (3, 4), "d"))
    assert choice.encode(Independent(), architecture) == {"values.0": 2, "values.1": 1, "values.2": 3}
    with pytest.raises(NotInSpace, match=r"values\.1 is \[4, 3\]; allowed: \[1, 2\], \[3, 4\]"):
        choice.encode(Independent(), Toy((2, (4, 3), "d")))


def test_an_architecture_outside_is_refused():
    inside = choice.sample(SMALL, np.random.default_rng(0))
    for outside, message in [
        (replace(inside, path=(0, 0, 0, 0)), r"differs at path\.3"),
        (replace(inside, path=(0, 0)), r"has no path\.2"),
        (replace(inside, network=NetworkOptions(filters=5)), r"differs at network\.filters"),
        (replace(inside, cell=inside.cell * 2), r"differs at cell\.1"),
        (
            replace(inside, cell=(replace(inside.cell[0], operations=("none", "skip_connect")),)),
            r"operations\.1 is \"skip_connect\"",
        ),
    ]:
        with pytest.raises(NotInSpace, match=message):
            choice.encode(SMALL, outside)


def test_wrong_indices_are_refused():
    indices = choice.encode(SMALL, choice.sample(SMALL, np.random.default_rng(0)))
    for wrong, message in [
        ({k: v for k, v in indices.items() if k != "path.1"}, "'path.1' has no index"),
        (indices | {"path.0": 2}, "'path.0' has index 2; allowed: 0 to 1"),
        (indices | {"path.0": -1}, "'path.0' has index -1"),
        (indices | {"path.3": 0}, "no choice 'path.3'"),
    ]:
        with pytest.raises(NotInSpace, match=message):
            choice.from_indices(SMALL, wrong)


def test_a_name_asked_twice_and_an_empty_list_are_faults_of_the_space():
    class Twice:
        def architecture(self, choose):
            return Toy((choose("values.0", (1,)), choose("values.0", (1,))))

    class Empty:
        def architecture(self, choose):
            return Toy((choose("values.0", ()),))

    with pytest.raises(ValueError, match="asked for twice"):
        choice.sample(Twice(), np.random.default_rng(0))
    with pytest.raises(ValueError, match="no options"):
        choice.sample(Empty(), np.random.default_rng(0))


def test_sampling_repeats_with_its_seed_and_is_uniform_for_each_choice():
    first, again = (choice.sample(FULL, np.random.default_rng(3)) for _ in range(2))
    assert first == again
    generator = np.random.default_rng(0)
    draws = Counter(choice.sample(SMALL, generator).path for _ in range(3000))
    assert len(draws) == 13  # all walks of three moves from level 0
    assert draws[0, 0, 0] / 3000 == pytest.approx(1 / 8, abs=0.025)
    assert draws[1, 2, 3] / 3000 == pytest.approx(1 / 18, abs=0.02)


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_mutation_changes_one_choice_and_what_it_made_illegal(seed):
    generator = np.random.default_rng(seed)
    parent = choice.sample(FULL, generator)
    child = choice.mutate(FULL, parent, generator)
    before = {c.name: c for c in choice.choices_of(FULL, parent)}
    after = {c.name: c for c in choice.choices_of(FULL, child)}
    changed = [name for name in before if before[name].option != after[name].option]
    assert changed
    for name in changed[1:]:  # only because the old option is no longer offered
        assert before[name].option not in after[name].options
    if not changed[0].startswith("path"):
        assert len(changed) == 1


def test_mutation_reaches_every_choice_and_option():
    generator = np.random.default_rng(1)
    parent = choice.sample(SMALL, generator)
    children = {choice.mutate(SMALL, parent, generator) for _ in range(400)}
    parent_indices = choice.encode(SMALL, parent)
    for name in parent_indices:
        assert any(choice.encode(SMALL, child)[name] != parent_indices[name] for child in children)
    assert parent not in children


def test_there_is_nothing_to_mutate_in_a_space_of_one(toy_family):
    class One:
        def architecture(self, choose):
            return Toy((choose("values.0", (1,)),))

    with pytest.raises(ValueError, match="nothing to mutate"):
        choice.mutate(One(), Toy((1,)), np.random.default_rng(0))


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_crossover_takes_every_choice_from_a_parent_that_can_give_it(seed):
    generator = np.random.default_rng(seed)
    parents = [choice.sample(FULL, generator) for _ in range(2)]
    child = choice.crossover(FULL, *parents, generator)
    options = [{c.name: c.option for c in choice.choices_of(FULL, parent)} for parent in parents]
    for made in choice.choices_of(FULL, child):
        offered = {option[made.name] for option in options if option[made.name] in made.options}
        assert made.option in (offered or made.options)


def test_crossover_mixes_both_parents():
    generator = np.random.default_rng(0)
    first, second = (choice.sample(FULL, generator) for _ in range(2))
    children = [choice.crossover(FULL, first, second, generator) for _ in range(20)]
    assert len(set(children)) == 20
    assert choice.crossover(FULL, first, first, generator) == first
    assert {c.cell[0].operations[0] for c in children} == {first.cell[0].operations[0], second.cell[0].operations[0]}


def test_node_hints_reach_the_choices():
    architecture = choice.sample(FULL, np.random.default_rng(0))
    assert isinstance(architecture, AutoDeepLab)
    nodes = [c.name for c in choice.choices_of(FULL, architecture) if c.node]
    assert nodes == [f"cell.{i}.inputs.{j}" for i in range(5) for j in range(2)]
