"""The DARTS supernet against the published code's outputs and gradients, PC-DARTS, and one-hot mixtures."""

from __future__ import annotations

import pytest
import torch
from darts_golden import GOLDEN, alphas, architecture, close, fill, images, labels, mixture
from torch import Tensor, nn
from torch.nn import functional as F

from segnas.nets.build import build
from segnas.nets.darts import DartsNetwork
from segnas.nets.darts_supernet import DartsSupernet, Mixture, one_hot
from segnas.nets.engines import choose_engine
from segnas.nets.operations import PartialMixedOperation
from segnas.spaces.darts import OPERATIONS, DartsOptions

OPTIONS = DartsOptions(form="cifar", channels=4, layers=5)


@pytest.mark.parametrize("size", GOLDEN["supersizes"])
def test_parameters(size):
    channels, layers = (int(part[1:]) for part in size.split("_"))
    supernet = DartsSupernet(10, DartsOptions(form="cifar", channels=channels, layers=layers))
    assert sum(parameter.numel() for parameter in supernet.parameters()) == GOLDEN["supersizes"][size]["params"]


@pytest.mark.parametrize("rule", ["A", "B"])
@pytest.mark.parametrize("fused", [False, True])
def test_outputs_and_gradients_of_alpha(rule, fused):
    expected = GOLDEN["func_search"][f"supernet/rule{rule}/float64"]
    supernet, variables = fill(DartsSupernet(10, OPTIONS), rule).train(), alphas()
    choose_engine(supernet, fused)
    logits = supernet(images(4, 16), mixture(variables))
    assert close(logits, expected["train_logits"], 1e-9)
    loss = F.cross_entropy(logits, labels(4))
    assert close(loss, expected["train_loss"], 1e-9)
    normal, reduction = torch.autograd.grad(loss, variables)
    assert close(normal, expected["dalpha_normal"], 1e-9)
    assert close(reduction, expected["dalpha_reduce"], 1e-9)
    with torch.no_grad():
        assert close(supernet.eval()(images(4, 16), mixture(variables)), expected["eval_logits_after_one_train_forward"], 1e-9)


def edge_softmax(logits: Tensor) -> Tensor:
    """Over the edges into each of the four blocks."""
    return torch.cat([part.softmax(0) for part in logits.split([2, 3, 4, 5])])


@pytest.mark.parametrize("rule", ["A", "B"])
@pytest.mark.parametrize("fused", [False, True])
def test_partial_channels_with_edge_weights(rule, fused):
    expected = GOLDEN["pc"][f"pcdarts_supernet_C8_L5_K4/rule{rule}/float64"]
    supernet = fill(DartsSupernet(10, DartsOptions(form="cifar", channels=8, layers=5), parts=4), rule).train()
    choose_engine(supernet, fused)
    assert sum(parameter.numel() for parameter in supernet.parameters()) == expected["params"]
    place = torch.arange(14, dtype=torch.float64)
    betas = [nn.Parameter(0.1 * torch.sin(place)), nn.Parameter(0.1 * torch.cos(place))]
    variables = [*alphas(), *betas]
    plain = mixture(variables[:2])
    logits = supernet(images(4, 16), Mixture(plain.normal, plain.reduction, *map(edge_softmax, betas)))
    assert close(logits, expected["train_logits"], 1e-9)
    loss = F.cross_entropy(logits, labels(4))
    assert close(loss, expected["train_loss"], 1e-9)
    names = ("dalpha_normal", "dalpha_reduce", "dbeta_normal", "dbeta_reduce")
    for name, gradient in zip(names, torch.autograd.grad(loss, variables), strict=True):
        assert close(gradient, expected[name], 1e-9), name


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(6, 6), (7, 5)])
def test_partial_channels_pass_the_rest_on_and_shuffle(stride, size):
    """Channel p * (C / K) + g of the joined map stands at g * K + p afterwards (ShuffleNet's shuffle)."""
    operation = PartialMixedOperation(("none", "skip_connect", "max_pool_3x3"), 8, stride, nn.BatchNorm2d, parts=4)
    x = torch.randn(2, 8, *size)
    out = operation(x, torch.tensor([0.9, 0.0, 0.0]), None)
    rest = x[:, 2:] if stride == 1 else F.max_pool2d(F.pad(x[:, 2:], (0, size[1] % 2, 0, size[0] % 2), value=-torch.inf), 2)
    assert out.shape[2:] == rest.shape[2:]
    for part in range(1, 4):
        for channel in range(2):
            assert torch.equal(out[:, channel * 4 + part], rest[:, 2 * (part - 1) + channel])
    assert torch.equal(out[:, [0, 4]], torch.zeros_like(out[:, :2]))
    with pytest.raises(ValueError, match="cannot be split"):
        PartialMixedOperation(("none", "skip_connect"), 6, 1, nn.BatchNorm2d, parts=4)


@pytest.mark.parametrize("form", ["cifar", "segmentation"])
def test_a_one_hot_mixture_is_the_decoded_network(form):
    """With the supernet's weights copied into the network of the architecture, both compute the same."""
    options = DartsOptions(form=form, channels=4, layers=4, aspp_width=4, low_level_width=3, decoder_width=5, dropout=0.0)
    chosen = architecture("PC_DARTS_cifar", **vars(options))
    torch.manual_seed(0)
    supernet, network = DartsSupernet(3, options).double().train(), build(chosen, 3).double().train()
    assert isinstance(network, DartsNetwork)
    copy_weights(supernet, network)
    x = torch.randn(3, 3, 40, 33, dtype=torch.float64)
    weights = one_hot(chosen, OPERATIONS)
    dense = Mixture(weights.normal.double(), weights.reduction.double())
    sparse = Mixture(weights.normal.double(), weights.reduction.double(), sparse=True)
    with torch.no_grad():
        expected = supernet(x, dense)
        assert torch.allclose(supernet(x, sparse), expected, atol=1e-12)
        for cell in network.cells:  # a pooling of the supernet has a batch norm that the decoded network lacks
            for number, operation in enumerate(cell.operations):
                if isinstance(operation, (nn.MaxPool2d, nn.AvgPool2d)):
                    width = cell.operations[0][2].out_channels if number else cell.previous.conv.out_channels
                    cell.operations[number] = nn.Sequential(operation, nn.BatchNorm2d(width).double())
        assert torch.allclose(network(x), expected, atol=1e-10)


def copy_weights(supernet: DartsSupernet, network: DartsNetwork) -> None:
    """Stem, preprocessing, chosen operations and head."""
    network.stem.load_state_dict(supernet.stem.state_dict())
    network.head.load_state_dict(supernet.head.state_dict())
    for mixed, cell in zip(supernet.cells, network.cells, strict=True):
        cell.before.load_state_dict(mixed.before.state_dict(), strict=False)
        cell.previous.load_state_dict(mixed.previous.state_dict(), strict=False)
        number = 0
        for block, described in enumerate(cell.cell):
            for state, name in zip(described.inputs, described.operations, strict=True):
                edge = sum(earlier + 2 for earlier in range(block)) + state
                candidate = mixed.graph.mixed[edge].candidates[name]
                if name not in ("max_pool_3x3", "avg_pool_3x3"):
                    cell.operations[number].load_state_dict(candidate.state_dict(), strict=False)
                number += 1
