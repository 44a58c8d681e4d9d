"""The fused engine against the plain one in float64: results, all gradients, running statistics, and what the two share."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import prune

from segnas.nets import compiled
from segnas.nets.auto_deeplab_supernet import AutoDeepLabSupernet
from segnas.nets.auto_deeplab_supernet import Mixture as PathMixture
from segnas.nets.darts_supernet import DartsSupernet, Mixture
from segnas.nets.engines import choose_engine, is_fused, plain_engine
from segnas.nets.fused import fused_graph
from segnas.nets.operations import OPERATIONS, MixedGraph, SeparableConv, search_operation
from segnas.nets.rules import RULES, Maps, layers, settled
from segnas.nets.statistics import Statistics, batch_statistics
from segnas.spaces.auto_deeplab import OPERATIONS as PATH_OPERATIONS
from segnas.spaces.cells import edges
from segnas.spaces.darts import DartsOptions

NORM = partial(nn.BatchNorm2d, affine=False)
ALL = tuple(OPERATIONS)


@pytest.fixture(autouse=True)
def _small_maps_are_computed_twice_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segnas.nets.fused.FEW", 12)
    monkeypatch.setattr("segnas.nets.fused.LITTLE", 0)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def same(found: Tensor, expected: Tensor, what: Any, tolerance: float = 1e-10) -> None:
    scale = max(1e-3, float(expected.detach().abs().max()))  # some are zero but for rounding: means of what is normalised
    assert (found - expected).abs().max() <= tolerance * scale, what


def measured(network: nn.Module, function: Callable[..., Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The result, the gradient of each input and weight, and the buffers afterwards."""
    given_ = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    network.zero_grad()
    out = function(network, **given_)
    (out * random(*out.shape, seed=99)).sum().backward()
    found = {"out": out.detach(), **{f"d {name}": value.grad for name, value in given_.items()}}
    found |= {f"d {name}": weight.grad for name, weight in network.named_parameters()}
    return {**found, **{name: buffer.double() for name, buffer in network.named_buffers()}}


def agree(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        same(found[name], value, name)


@settings(max_examples=40, deadline=None)
@given(
    operations=st.lists(st.sampled_from(ALL), min_size=1, max_size=5, unique=True).filter(lambda names: names != ["none"]),
    blocks=st.integers(1, 4),
    stride=st.sampled_from([1, 2]),
    parts=st.sampled_from([1, 2]),
    paths=st.integers(1, 3),
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    channels=st.sampled_from([4, 6]),
    kind=st.sampled_from(["softmax", "one-hot", "any"]),
    weighs_edges=st.booleans(),
    recomputed=st.booleans(),
    kernels=st.booleans(),
)
def test_any_cell(
    operations: list[str], blocks: int, stride: int, parts: int, paths: int, size: tuple[int, int], channels: int, kind: str,
    weighs_edges: bool, recomputed: bool, kernels: bool,
) -> None:  # fmt: skip
    """Random cells, operations, strides, mixtures, sizes and paths; by the compiled kernels and by torch's operations."""
    torch.manual_seed(0)
    graph = MixedGraph(blocks, operations, channels, NORM, stride, parts).double()
    logits = random(len(edges(blocks)), len(operations), seed=1)
    alpha = logits.softmax(-1) if kind == "softmax" else logits
    if kind == "one-hot":
        alpha = nn.functional.one_hot(logits.argmax(-1), len(operations)).double()
    inputs = {
        "before": random(2, channels, *size, seed=2),
        "previous": random(paths * 2, channels, *size, seed=3),
        "alpha": alpha,
    }
    if weighs_edges:
        inputs["beta"] = random(len(edges(blocks)), seed=4)

    def plain(graph: MixedGraph, before: Tensor, previous: Tensor, alpha: Tensor, beta: Tensor | None = None) -> Tensor:
        return torch.cat([graph(before, one, alpha, None, beta) for one in previous.chunk(paths)])

    def fused(graph: MixedGraph, before: Tensor, previous: Tensor, alpha: Tensor, beta: Tensor | None = None) -> Tensor:
        return fused_graph(graph, before, previous, alpha, beta, paths)

    other = copy.deepcopy(graph)
    choose_engine(other, True, recomputed)
    with pytest.MonkeyPatch.context() as patch:
        if not kernels:
            patch.setattr(compiled, "library", lambda: None)
        agree(measured(other, fused, inputs), measured(graph, plain, inputs))


@pytest.mark.parametrize("name", [name for name in ALL if name != "none"])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_operation_has_its_rules(name: str, stride: int) -> None:
    """An operation of layers that are in the table needs no more than its entry in OPERATIONS."""
    assert all(type(layer) in RULES for layer in layers(search_operation(name, 4, stride, NORM)))
    graph = MixedGraph(2, ("none", name), 4, NORM, stride).double()
    inputs = {"before": random(2, 4, 7, 6, seed=2), "previous": random(2, 4, 7, 6, seed=3), "alpha": random(5, 2, seed=1)}
    other = copy.deepcopy(graph)
    agree(measured(other, fused_graph, inputs), measured(graph, lambda graph, **given_: graph(**given_), inputs))


def test_the_new_operation_of_the_page_needs_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "engine.md").read_text(encoding="utf-8")
    name, made = re.search(r'^    "(\w+)": (lambda .*),$', page, re.MULTILINE).groups()
    monkeypatch.setitem(OPERATIONS, name, eval(made, {"nn": nn, "SeparableConv": SeparableConv}))
    for stride in (1, 2):
        test_every_operation_has_its_rules(name, stride)


def darts(**settings_: Any) -> tuple[nn.Module, Any, Tensor]:
    torch.manual_seed(0)
    form = settings_.pop("form", "cifar")
    options = DartsOptions(form=form, channels=4, layers=4, aspp_width=6, low_level_width=3, decoder_width=4, dropout=0.0)
    supernet = DartsSupernet(3, options, blocks=3, **settings_).double()
    rows = len(edges(3))
    return supernet, lambda a, b: Mixture(a.softmax(-1), b.softmax(-1)), torch.Size((rows, 8))


@pytest.mark.parametrize("form", ["cifar", "imagenet", "segmentation"])
@pytest.mark.parametrize("parts", [1, 2])
def test_the_supernet_of_darts(form: str, parts: int) -> None:
    supernet, mixture, shape = darts(form=form, parts=parts)
    size = (40, 36) if form == "segmentation" else (33, 34)
    inputs = {"images": random(2, 3, *size, seed=1), "a": random(*shape, seed=2), "b": random(*shape, seed=3)}
    other = copy.deepcopy(supernet)
    choose_engine(other, True)
    by = lambda net, images, a, b: net(images, mixture(a, b))  # noqa: E731
    agree(measured(other, by, inputs), measured(supernet, by, inputs))


@pytest.mark.parametrize("size", [(33, 46), (64, 40)])
@pytest.mark.parametrize("recomputed", [False, True])
def test_the_supernet_of_auto_deeplab(size: tuple[int, int], recomputed: bool) -> None:
    torch.manual_seed(0)
    supernet = AutoDeepLabSupernet(3, 5, 3, 2, PATH_OPERATIONS, stem=(3, 4, 5), head_width=3).double()
    inputs = {"images": random(2, 3, *size, seed=1), "alpha": random(9, 8, seed=2), "beta": random(5, 4, 3, seed=3)}
    other = copy.deepcopy(supernet)
    choose_engine(other, True, recomputed)
    by = lambda net, images, alpha, beta: net(images, PathMixture(alpha.softmax(-1), beta.softmax(-1)))  # noqa: E731
    agree(measured(other, by, inputs), measured(supernet, by, inputs))


def test_weights_that_take_the_place_of_the_networks_own() -> None:
    """As in a second-order step: the gradients are taken after functional_call has put the network's own weights back."""
    supernet, mixture, shape = darts()
    images, alpha = random(2, 3, 16, 16, seed=1), random(*shape, seed=2).requires_grad_()
    moved = {name: (weight * 1.1).detach().requires_grad_() for name, weight in supernet.named_parameters()}
    found = []
    for fused, recomputed in ((False, False), (True, False), (True, True)):
        choose_engine(supernet, fused, recomputed)
        loss = functional_call(supernet, moved, (images, mixture(alpha, alpha))).pow(2).sum()
        found.append(torch.autograd.grad(loss, [alpha, *moved.values()]))
    for other in found[1:]:
        for one, expected in zip(other, found[0], strict=True):
            same(one, expected, "gradient")


def test_ten_search_steps_of_auto_deeplab_end_the_same() -> None:
    """Losses, weights, alpha and beta after ten steps of each kind, with the optimizers of the search."""
    ends = []
    for fused, recomputed in ((False, False), (True, False), (True, True)):
        torch.manual_seed(0)
        supernet = AutoDeepLabSupernet(3, 4, 2, 2, PATH_OPERATIONS, stem=(3, 4, 5), head_width=3).double()
        choose_engine(supernet, fused, recomputed)
        variables = [1e-3 * random(5, 8, seed=1), 1e-3 * random(4, 4, 3, seed=2)]
        alpha, beta = (variable.requires_grad_() for variable in variables)
        weights = torch.optim.SGD(supernet.parameters(), lr=0.025, momentum=0.9, weight_decay=3e-4)
        architecture = torch.optim.Adam([alpha, beta], lr=3e-3, weight_decay=1e-3)
        losses = []
        for step, optimizer in itertools.product(range(10), (weights, architecture)):
            labels = torch.randint(0, 3, (2, 64, 72), generator=torch.Generator().manual_seed(step))
            logits = supernet(random(2, 3, 64, 72, seed=step), PathMixture(alpha.softmax(-1), beta.softmax(-1)))
            loss = nn.functional.cross_entropy(logits, labels)
            supernet.zero_grad()
            architecture.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        ends.append([torch.stack(losses), alpha.detach(), beta.detach(), *supernet.state_dict().values()])
    for other in ends[1:]:
        for found, expected in zip(other, ends[0], strict=True):
            same(found.double(), expected.double(), "state", 1e-8)


@pytest.mark.parametrize("kernels", [True, False])
def test_cells_computed_twice_give_the_same_bits(kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a run may begin without and go on with it. In float32, with gradients of some inputs alone, too."""
    if not kernels:
        monkeypatch.setattr(compiled, "library", lambda: None)
    torch.manual_seed(0)
    graph = MixedGraph(3, ALL, 4, NORM)
    before, previous = (torch.randn(images, 4, 12, 11) for images in (2, 4))
    alpha = torch.randn(len(edges(3)), len(ALL)).requires_grad_()
    for wanted in ([alpha], list(graph.parameters())):
        found = []
        for recomputed in (False, True):
            choose_engine(graph, True, recomputed)
            out = fused_graph(graph, before, previous, alpha if wanted[0] is alpha else alpha.detach(), paths=2)
            found.append([out, *torch.autograd.grad(out.square().sum(), wanted)])
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_cells_computed_twice_are_computed_in_the_same_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward pass alone is inside autocast, as in a search."""
    monkeypatch.setattr(compiled, "library", lambda: None)
    torch.manual_seed(0)
    graph = MixedGraph(2, ("sep_conv_3x3", "skip_connect"), 4, NORM)
    x, alpha = torch.randn(2, 4, 12, 11), torch.randn(5, 2).requires_grad_()
    found = []
    for recomputed in (False, True):
        choose_engine(graph, True, recomputed)
        with torch.autocast("cpu", torch.bfloat16):
            out = fused_graph(graph, x, x, alpha)
        found.append(torch.autograd.grad(out.float().square().sum(), [alpha, *graph.parameters()]))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_state_that_alone_wants_a_gradient() -> None:
    """What leaves the other states is computed twice, and nothing of it is differentiated."""
    graph = MixedGraph(2, ("skip_connect", "sep_conv_3x3"), 4, NORM).double().requires_grad_(False)
    choose_engine(graph, True, True)
    x, alpha = random(2, 4, 9, 9, seed=1), random(5, 2, seed=2)
    before = random(2, 4, 9, 9, seed=3).requires_grad_()
    found, expected = (function(before, x, alpha).square().sum() for function in (partial(fused_graph, graph), graph))
    same(*(torch.autograd.grad(loss, before)[0] for loss in (found, expected)), "gradient")


def test_a_first_pass_in_inference_mode_spoils_nothing() -> None:
    graph = MixedGraph(2, ALL, 4, NORM).double()
    choose_engine(graph, True)
    x, alpha = random(4, 4, 9, 9, seed=1), random(5, len(ALL), seed=2)
    with torch.inference_mode():
        fused_graph(graph, x[:2], x, alpha, paths=2)
    fused_graph(graph, x[:2], x, alpha.requires_grad_(), paths=2).sum().backward()


def test_a_replaced_module_is_seen_once_the_engine_is_chosen_again() -> None:
    graph = MixedGraph(1, ("sep_conv_3x3",), 4, NORM).double()
    x, alpha = random(2, 4, 9, 9, seed=1), random(2, 1, seed=2)
    choose_engine(graph, True)
    fused_graph(graph, x, x, alpha)
    graph.mixed[0].candidates["sep_conv_3x3"] = SeparableConv(4, 3, 1, NORM).double()
    choose_engine(graph, True)
    same(fused_graph(graph, x, x, alpha), graph(x, x, alpha), "out")


@pytest.mark.parametrize("alpha_type", [torch.float32, torch.float64])
def test_mixed_types_are_computed_as_torch_does(alpha_type: torch.dtype) -> None:
    """Of the mixture and the cell; and under autocast, where some operations give bfloat16."""
    graph = MixedGraph(2, ("skip_connect", "atrous_conv_3x3", "sep_conv_3x3"), 4, NORM)
    x, alpha = random(2, 4, 9, 9, seed=1), random(5, 3, seed=2).to(alpha_type)
    choose_engine(graph.double(), True)
    same(fused_graph(graph, x, x, alpha), graph(x, x, alpha), "out", 1e-6)
    graph.float()
    with torch.autocast("cpu", torch.bfloat16):
        out = fused_graph(graph, x.float(), x.float(), alpha.float())
    same(out.double(), graph(x.float(), x.float(), alpha.float()).double(), "out", 0.05)


def test_terms_of_unlike_sizes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATIONS, "larger", lambda channels, stride, norm: nn.AvgPool2d(2, stride, 1))
    graph = MixedGraph(1, ("skip_connect", "larger"), 4, NORM)
    choose_engine(graph, True)
    x = torch.randn(2, 4, 9, 9)
    with pytest.raises((ValueError, RuntimeError), match=r"cannot be summed|must match"):
        fused_graph(graph, x, x, torch.randn(2, 2))


def test_states_are_interchangeable_and_the_choice_is_not_part_of_them() -> None:
    supernet, *_ = darts()
    other, *_ = darts()
    choose_engine(other, True, True)
    other.load_state_dict(supernet.state_dict())
    assert supernet.state_dict().keys() == other.state_dict().keys()


def test_what_is_computed_plainly() -> None:
    """Sparse mixtures, running statistics, and what must be differentiated twice."""
    graph = MixedGraph(2, ALL, 4, NORM)
    assert not is_fused(graph, False)
    choose_engine(graph, True)
    assert is_fused(graph, False)
    assert not is_fused(graph, True)
    with plain_engine(graph):
        assert not is_fused(graph, False)
    graph.eval()
    assert not is_fused(graph, False)
    with batch_statistics(graph):
        assert is_fused(graph, False)


def test_statistics_of_the_batch_leave_the_running_ones_alone() -> None:
    graph = MixedGraph(2, ALL, 4, NORM).double()
    before = copy.deepcopy(graph.state_dict())
    x, alpha = random(2, 4, 6, 6, seed=1), random(5, len(ALL), seed=2)
    with batch_statistics(graph):
        fused_graph(graph, x, x, alpha)
    for name, value in graph.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_second_derivative_is_refused_where_it_would_be_wrong() -> None:
    if compiled.library() is None:
        pytest.skip("no C compiler")
    graph = MixedGraph(1, ("sep_conv_3x3",), 4, NORM).double()
    x = random(1, 4, 5, 5, seed=2)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        torch.autograd.functional.hessian(lambda alpha: fused_graph(graph, x, x, alpha).pow(4).sum(), random(2, 1, seed=1))


@pytest.mark.parametrize(
    ("norm", "changed", "message"),
    [
        (nn.BatchNorm2d, lambda graph: None, "affine"),
        (partial(nn.BatchNorm2d, affine=False, momentum=None), lambda graph: None, "momentum"),
        (NORM, lambda graph: setattr(convolution(graph), "bias", nn.Parameter(torch.zeros(4))), "bias"),
        (NORM, lambda graph: setattr(convolution(graph), "padding_mode", "reflect"), "padded with zeros"),
        (NORM, lambda graph: graph.mixed[0].candidates["sep_conv_3x3"].append(nn.GELU()), "no rule for GELU"),
        (NORM, lambda graph: prune.identity(convolution(graph), "weight"), "whose weight is a parameter"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(norm: Any, changed: Callable[[MixedGraph], None], message: str) -> None:
    graph = MixedGraph(1, ("sep_conv_3x3",), 4, norm)
    changed(graph)
    choose_engine(graph, False)
    with pytest.raises(ValueError, match=message):
        choose_engine(graph, True)


def convolution(network: nn.Module) -> nn.Conv2d:
    return next(module for module in network.modules() if isinstance(module, nn.Conv2d))


@pytest.mark.parametrize(
    "settings_",
    [
        {"kernel_size": 9, "padding": 4},
        {"kernel_size": 3, "padding": 0},
        {"kernel_size": 5, "padding": 2, "stride": (1, 2)},
        {"kernel_size": (3, 5), "padding": (1, 2)},
        {"kernel_size": 2, "padding": 1, "stride": 2},
        {"kernel_size": 4, "padding": 2, "stride": 2},
    ],
)
def test_depthwise_windows_that_the_kernels_do_not_know(settings_: dict[str, Any]) -> None:
    """Wide ones, unlike sides and other paddings go through torch."""
    modules = [
        nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, groups=4, bias=False, **settings_), nn.Conv2d(4, 4, 1, bias=False)).double()
        for _ in range(3)
    ]
    x = random(2, 4, 11, 12, seed=1)
    maps = Maps(x.permute(0, 2, 3, 1))
    for layer in zip(*modules, strict=True):
        maps = RULES[type(layer[0])](layer, maps, Statistics())
    same(settled(maps, Statistics()).permute(0, 3, 1, 2), torch.cat([module(x) for module in modules], dim=1), "out")
