"""Networks of Fast NAS and of template search against counts and outputs of the published code, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fast_nas_golden import FAST_NAS, TEMPLATE_NAS, close, fill, images
from torch import Tensor, nn

from segnas.costs.counts import count
from segnas.nets.build import build
from segnas.nets.fast_nas import FastNasNetwork
from segnas.nets.fast_nas_parts import Classifier, Separable
from segnas.nets.template_nas import Join, TemplateNasNetwork
from segnas.spaces import choice, fast_nas, template_nas
from segnas.spaces.fast_nas import FastNasOptions, FastNasSpace
from segnas.spaces.template_nas import TemplateNasOptions, TemplateNasSpace

SEARCH = FastNasOptions(agg_size=48, repeats=1, auxiliary_cell=True)


def architecture(name: str) -> Any:
    """`fast/arch0`, `template/arch1`, ..."""
    kind, number = name.split("/")
    if kind == "fast":
        return fast_nas.from_published(FAST_NAS[number]["config"])
    return template_nas.from_published(TEMPLATE_NAS[number]["config"])


def golden(name: str) -> dict[str, Any]:
    kind, number = name.split("/")
    return (FAST_NAS if kind == "fast" else TEMPLATE_NAS)[number]


NAMES = [f"fast/{name}" for name in FAST_NAS] + [f"template/{name}" for name in TEMPLATE_NAS]


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_exact_with_and_without_auxiliary_heads(name: str) -> None:
    expected = golden(name)
    counted = [key for key in expected if key.startswith("params_nc")]
    assert len(counted) >= 2
    with torch.device("meta"):
        for key in counted:
            classes = int(key.removeprefix("params_nc").removesuffix("_noaux"))
            network = build(architecture(name), classes)
            if name.startswith("fast") and not key.endswith("_noaux"):
                network.add_auxiliary_head(classes)  # type: ignore[operator]
            assert parameters(network) == expected[key], key


@pytest.mark.parametrize("name", ["arch0", "arch1"])
def test_parameters_of_the_search_are_exact(name: str) -> None:
    expected = FAST_NAS[name]["search_time_agg48_rep1_auxcell_nc21"]
    with torch.device("meta"):
        network = build(fast_nas.from_published(FAST_NAS[name]["config"], SEARCH), 21)
        assert isinstance(network, FastNasNetwork)
        assert parameters(network) == expected["params_noaux"]
        assert parameters(network) - parameters(network.encoder) == expected["decoder_noaux"]
        network.add_auxiliary_head(21)
    assert parameters(network) == expected["params"]


@pytest.mark.parametrize("name", NAMES)
def test_multiply_adds_are_exact(name: str) -> None:
    expected = golden(name)
    classes = 21 if name.startswith("fast") else 19
    for size, figures in {**expected.get("multiply_adds", {}), **expected.get("rounded", {})}.items():
        height, width = map(int, size.split("x"))
        found = count(architecture(name), (height, width), classes)
        if isinstance(figures, dict):
            assert found.multiply_adds == figures["noaux"]
            assert found.by_part["encoder"]["multiply_adds"] == figures["encoder"]
        else:
            assert found.multiply_adds == pytest.approx(figures, abs=0.0005e9)
    for size, figure in expected.get("multiply_adds_nc11", {}).items():
        height, width = map(int, size.split("x"))
        assert count(architecture(name), (height, width), 11).multiply_adds == figure


@pytest.mark.parametrize("name", ["fast/arch0", "fast/arch1", "template/arch0"])
@pytest.mark.parametrize("rule", ["F1", "F2"])
def test_outputs_agree_with_the_published_code(name: str, rule: str) -> None:
    expected = golden(name)["outputs"][rule]
    assert list(architecture(name).collected()) == golden(name)["collect"]
    network = build(architecture(name), expected["out_shape"][1])
    assert isinstance(network, (FastNasNetwork, TemplateNasNetwork))
    if isinstance(network, FastNasNetwork):
        network.add_auxiliary_head(expected["out_shape"][1])
    fill(network, rule)
    seen = images(*expected["input"])
    with torch.no_grad():
        taps = network.encoder(seen)
        out, none = network.from_taps(taps)
        assert none == ()
        assert list(out.shape) == expected["out_shape"]
        assert close(out[0, :3, 0, :4], expected["out[0,:3,0,:4]"])
        assert close(out[0, :, 2, 3], expected["out[0,:,2,3]"])
        figures = [float(out.mean()), float(out.std()), float(out.abs().max())]
        assert figures == pytest.approx([expected[key] for key in ("mean", "std", "absmax")], rel=1e-9)
        if isinstance(network, FastNasNetwork):
            assert network.auxiliary is not None
            auxiliary = [head(block) for head, block in zip(network.auxiliary, network.decoder(taps), strict=True)]
            assert [list(one.shape) for one in auxiliary] == expected["aux_shapes"]
            assert close(auxiliary[0][0, 0, 0, :4], expected["aux0[0,0,0,:4]"])
        resized = nn.functional.interpolate(out, size=seen.shape[2:], mode="bilinear", align_corners=False)
        assert torch.equal(network(seen), resized)


def small(name: str, generator: np.random.Generator) -> Any:
    """A random architecture with few channels."""
    if name == "fast":
        return choice.sample(FastNasSpace(network=FastNasOptions(4, 1, True, 4)), generator)
    return choice.sample(TemplateNasSpace(network=TemplateNasOptions(4, 1, 4)), generator)


@pytest.mark.parametrize("name", ["fast", "template"])
def test_any_architecture_takes_any_size_in_training_and_evaluation(name: str) -> None:
    generator = np.random.default_rng(0)
    for number in range(12):
        network = build(small(name, generator), 3, in_channels=2)
        size = [(33, 33), (40, 61), (64, 32)][number % 3]
        assert network(torch.randn(2, 2, *size)).shape == (2, 3, *size)
        assert network.eval()(torch.randn(1, 2, *size)).shape == (1, 3, *size)


def test_auxiliary_heads_answer_in_training_alone() -> None:
    network = build(small("fast", np.random.default_rng(1)), 3)
    assert isinstance(network, FastNasNetwork)
    network.add_auxiliary_head(3)
    logits, auxiliary = network(torch.randn(2, 3, 40, 48))
    assert isinstance(auxiliary, tuple)
    assert [tuple(one.shape) for one in (logits, *auxiliary)] == [(2, 3, 40, 48)] * 4
    assert isinstance(network.eval()(torch.randn(1, 3, 40, 48)), Tensor)
    assert all(name.startswith("auxiliary.") for name in network.state_dict() if "auxiliary" in name)


def test_what_is_collected_grows_step_by_step() -> None:
    """1/8 -> 1/4 -> 1/2: the first map is resized twice, which is not the same as once."""
    classifier = Classifier([1, 1, 1], 2, 1).eval()
    joined: list[Tensor] = []
    classifier.project.register_forward_hook(lambda module, inputs, out: joined.append(inputs[0]))
    maps = [torch.rand(1, 1, 2**k, 2**k) for k in (1, 2, 3)]
    assert classifier(maps).shape == (1, 1, 8, 8)

    def grown(x: Tensor, size: int) -> Tensor:
        return nn.functional.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)

    twice = grown(grown(maps[0], 4), 8)
    assert torch.allclose(joined[0], torch.cat([twice, grown(maps[1], 8), maps[2]], dim=1))
    assert not torch.allclose(twice, grown(maps[0], 8))
    backwards = classifier(maps[::-1])
    assert backwards.shape == (1, 1, 8, 8)


def test_a_strided_separable_convolution_is_strided_at_every_repetition() -> None:
    assert Separable(2, 4, 3, 1, stride=2, repeats=2)(torch.zeros(1, 2, 32, 32)).shape == (1, 4, 8, 8)


@pytest.mark.parametrize("smaller", [True, False])
def test_a_weighted_sum_weighs_channels(smaller: bool) -> None:
    join = Join((2, 2), "weighted_sum", smaller)
    with torch.no_grad():
        join.weights[0].copy_(torch.tensor([1.0, 2.0]))
        join.weights[1].copy_(torch.tensor([10.0, 0.0]))
    size = 2 if smaller else 4
    out = join(torch.full((1, 2, 4, 4), 3.0), torch.full((1, 2, 2, 2), 5.0))
    assert torch.equal(out, torch.tensor([53.0, 6.0])[None, :, None, None].expand(1, 2, size, size))
