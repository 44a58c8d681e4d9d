"""The spaces of NASNet, AmoebaNet and PNAS: sizes, published cells in them, legal children, the paper's mutation, growth."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import combinations_with_replacement, pairwise, product
from math import prod

import numpy as np
import pytest

from segnas import zoo
from segnas.spaces import choice
from segnas.spaces.choice import NotInSpace, search_spaces
from segnas.spaces.nasnet import NasNet, NasNetCell, unused_states
from segnas.spaces.nasnet_space import PNAS_OPERATIONS, AmoebaNetSpace, NasNetSpace, PnasSpace

SPACES = {"nasnet": NasNetSpace(), "amoebanet": AmoebaNetSpace(), "pnas": PnasSpace()}
TWO = ("sep_conv_3x3", "skip_connect")


def test_they_are_registered_at_the_size_of_their_papers():
    assert {name: search_spaces[name]() for name in SPACES} == SPACES


def test_sizes():
    """A block reads two of b + 1 states through two operations; the unordered pairs of n sides are n (n + 1) / 2."""
    states = range(2, 7)
    assert choice.size(SPACES["nasnet"]) == prod(2 * 13**2 * n**2 for n in states) ** 2
    assert choice.size(SPACES["amoebanet"]) == prod(8**2 * n**2 for n in states) ** 2
    assert choice.size(SPACES["pnas"]) == prod(8 * n * (8 * n + 1) // 2 for n in states)
    assert f"{choice.size(PnasSpace(ordered=True)):.3g}" == "5.57e+14"


def test_the_first_stage_of_pnas_has_136_of_256_cells():
    sides = list(product(range(2), PNAS_OPERATIONS))
    found = list(choice.enumerate_space(SPACES["pnas"].stage(1)))
    assert len(found) == len(set(found)) == choice.size(SPACES["pnas"].stage(1)) == 136
    pairs = {
        frozenset(Counter(zip(one.normal.blocks[0].inputs, one.normal.blocks[0].operations, strict=True)).items())
        for one in found
    }
    assert pairs == {frozenset(Counter(pair).items()) for pair in combinations_with_replacement(sides, 2)}
    assert choice.size(PnasSpace(blocks=1, ordered=True)) == len(list(choice.enumerate_space(PnasSpace(1, ordered=True)))) == 256


@pytest.mark.parametrize("ordered", [False, True])
def test_growing_reaches_every_cell_of_the_next_stage_once(ordered):
    space = PnasSpace(blocks=2, operations=TWO, ordered=ordered)
    grown = [child for one in choice.enumerate_space(space.stage(1)) for child in space.grow(one)]
    assert len(grown) == choice.size(space)
    assert set(grown) == set(choice.enumerate_space(space))
    assert space.stage(space.stages) == space
    for child in space.grow(next(choice.enumerate_space(space.stage(1)))):
        assert child.normal.concat == (2, 3)
        assert child.reduction is None


def test_growth_of_the_papers_size():
    space = SPACES["pnas"]
    parent = choice.sample(space.stage(3), np.random.default_rng(0))
    children = list(space.grow(parent))
    assert len(children) == len(set(children)) == 8 * 5 * (8 * 5 + 1) // 2
    assert {child.normal.blocks[:3] for child in children} == {parent.normal.blocks}
    for child in children[::50]:
        choice.encode(space.stage(4), child)


def test_nothing_grows_beyond_the_space():
    space = PnasSpace(blocks=2, operations=TWO)
    last = next(choice.enumerate_space(space))
    with pytest.raises(ValueError, match="a cell of 2 blocks is at the last stage"):
        next(space.grow(last))
    with pytest.raises(ValueError, match="stage 3 of a space with stages 1 to 2"):
        space.stage(3)
    other = next(choice.enumerate_space(PnasSpace(1, ("max_pool_3x3",))))
    with pytest.raises(NotInSpace, match="max_pool_3x3"):
        next(space.grow(other))


def test_pnasnet_5_is_in_the_space_once_its_sides_are_in_order():
    published = zoo.load("pnasnet-5-cifar").architecture
    space = dataclasses.replace(SPACES["pnas"], network=published.network)
    with pytest.raises(NotInSpace):
        choice.encode(space, published)
    found = space.in_order(published)
    assert choice.from_indices(space, choice.encode(space, found)) == found
    for block, original in zip(found.normal.blocks, published.normal.blocks, strict=True):
        sides = [sorted(zip(one.inputs, one.operations, strict=True)) for one in (block, original)]
        assert sides[0] == sides[1]
    assert choice.encode(dataclasses.replace(space, ordered=True), published)
    with pytest.raises(NotInSpace, match="it has the operation conv_1x1"):
        space.in_order(zoo.load("amoebanet-b-mobile").architecture)


def searched(cell: NasNetCell) -> NasNetCell:
    """The cell with the output that a search would give it."""
    return NasNetCell(cell.blocks, unused_states(cell.blocks))


@pytest.mark.parametrize(("name", "space"), [("nasnet-a-cifar", "nasnet"), ("amoebanet-a-cifar", "amoebanet")])
def test_the_blocks_of_published_cells_are_in_the_space(name, space):
    published = zoo.load(name).architecture
    own = dataclasses.replace(SPACES[space], network=published.network)
    with pytest.raises(NotInSpace, match=r"differs at normal\.concat"):
        choice.encode(own, published)
    found = NasNet(searched(published.normal), searched(published.reduction), published.network)
    assert choice.from_indices(own, choice.encode(own, found)) == found


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_inputs_are_nodes_and_nothing_else_is(space):
    _, choices = choice.replay(space, lambda name, options: len(options) - 1)
    assert {made.node for made in choices if "inputs" in made.name} == {True}
    assert {made.node for made in choices if "inputs" not in made.name} == {False}
    assert len(choices) == {"NasNetSpace": 2 * 5 * 5, "AmoebaNetSpace": 2 * 5 * 4, "PnasSpace": 5 * 4}[type(space).__name__]


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_samples_mutants_and_children_are_in_the_space(space):
    generator = np.random.default_rng(0)
    parents = [choice.sample(space, generator) for _ in range(20)]
    assert len(set(parents)) == 20
    for first, second in pairwise(parents):
        for found in (first, choice.mutate(space, first, generator), choice.crossover(space, first, second, generator)):
            assert choice.from_indices(space, choice.encode(space, found)) == found
            assert all(0 <= state < 7 for state in found.normal.concat)


def test_samples_of_pnas_are_uniform_before_they_are_put_in_order():
    """One operation, two states: the inputs (0, 1) come from two of four draws."""
    space = PnasSpace(1, ("skip_connect",))
    generator = np.random.default_rng(0)
    counts = Counter(choice.sample(space, generator).normal.blocks[0].inputs for _ in range(2000))
    expected = {(0, 0): 0.25, (0, 1): 0.5, (1, 1): 0.25}
    assert counts.keys() == expected.keys()
    for inputs, share in expected.items():
        assert abs(counts[inputs] - 2000 * share) < 4 * (2000 * share * (1 - share)) ** 0.5


def difference(parent: NasNet, child: NasNet) -> tuple[str, ...]:
    """(cell, kind, block, side) of the only change; () without one."""
    found = []
    for name in ("normal", "reduction"):
        before, after = getattr(parent, name), getattr(child, name)
        assert after.concat == unused_states(after.blocks)
        for number, (one, other) in enumerate(zip(before.blocks, after.blocks, strict=True)):
            for kind in ("inputs", "operations"):
                for side in (0, 1):
                    if getattr(one, kind)[side] != getattr(other, kind)[side]:
                        found.append((name, kind, str(number), str(side)))
    assert len(found) <= 1
    return found[0] if found else ()


def test_amoebanets_mutation_has_the_papers_frequencies():
    """0.475 another input; 0.475 a random operation, of which one in eight is the old one; 0.05 nothing."""
    space, generator, trials = SPACES["amoebanet"], np.random.default_rng(0), 4000
    parent = choice.sample(space, generator)
    changes = Counter(difference(parent, space.mutate(parent, generator)) for _ in range(trials))
    kinds = Counter({"": changes.pop(())})
    places: Counter[tuple[str, str, str]] = Counter()
    for (cell, kind, number, side), count in changes.items():
        kinds[kind] += count
        places[cell, number, side] += count
    expected = {"inputs": 0.475, "operations": 0.475 * 7 / 8, "": 0.05 + 0.475 / 8}
    for kind, share in expected.items():
        assert abs(kinds[kind] - trials * share) < 4 * (trials * share * (1 - share)) ** 0.5, kind
    changed = sum(places.values())
    assert len(places) == 2 * 5 * 2
    for place, count in places.items():
        assert abs(count - changed / 20) < 4 * (changed / 20) ** 0.5, place


def test_amoebanets_mutation_draws_every_other_state_and_every_operation():
    space, generator = SPACES["amoebanet"], np.random.default_rng(1)
    parent = choice.sample(space, generator)
    reached = Counter()
    for _ in range(4000):
        block, old = choice.mutate(space, parent, generator).normal.blocks[3], parent.normal.blocks[3]
        reached["input", block.inputs[0]] += block.inputs[0] != old.inputs[0]
        reached["operation", block.operations[0]] += block.operations[0] != old.operations[0]
    found = {key for key, count in reached.items() if count}
    states = {("input", state) for state in range(5) if state != parent.normal.blocks[3].inputs[0]}
    operations = {("operation", name) for name in space.operations if name != parent.normal.blocks[3].operations[0]}
    assert found == states | operations


def test_amoebanets_mutation_is_of_its_own_space_and_repeats_with_its_generator():
    space = SPACES["amoebanet"]
    with pytest.raises(NotInSpace):
        space.mutate(zoo.load("amoebanet-b-mobile").architecture, np.random.default_rng(0))
    parent = choice.sample(space, np.random.default_rng(0))
    assert space.mutate(parent, np.random.default_rng(3)) == choice.mutate(space, parent, np.random.default_rng(3))
