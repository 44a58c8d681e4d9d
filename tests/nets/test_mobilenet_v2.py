"""MobileNet-v2 against known counts, against its definition written down plainly, and against torchvision's weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from segnas.errors import UserError
from segnas.nets.mobilenet_v2 import InvertedResidual, MobileNetV2, load_torchvision_weights, scaled_channels

TABLE_2 = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


class Unit(nn.Sequential):
    """Convolution, batch norm, ReLU6: torchvision's Conv2dNormActivation, with its names 0 and 1."""

    def __init__(self, i: int, o: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(i, o, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False), nn.BatchNorm2d(o), nn.ReLU6()
        )


class Block(nn.Module):
    """torchvision's inverted residual: its modules stand in `conv`, the last two bare."""

    def __init__(self, i: int, o: int, expansion: int, stride: int) -> None:
        super().__init__()
        units = [Unit(i, i * expansion, 1, 1)] if expansion != 1 else []
        units.append(Unit(i * expansion, i * expansion, 3, stride, groups=i * expansion))
        self.conv = nn.Sequential(*units, nn.Conv2d(i * expansion, o, 1, bias=False), nn.BatchNorm2d(o))
        self.shortcut = stride == 1 and i == o

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + x if self.shortcut else self.conv(x)


class Torchvision(nn.Module):
    """What torchvision calls MobileNetV2: features.0 .. features.18 and classifier.1."""

    def __init__(self, width: float) -> None:
        super().__init__()
        channels = [round8(width * c) for c in (32, 16, 24, 32, 64, 96, 160, 320)]
        features: list[nn.Module] = [Unit(3, channels[0], 3, 2)]
        before = channels[0]
        for (expansion, _, blocks, stride), after in zip(TABLE_2, channels[1:], strict=True):
            for number in range(blocks):
                features.append(Block(before, after, expansion, stride if number == 0 else 1))
                before = after
        features.append(Unit(before, 1280, 1, 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 10))

    def maps(self, images: Tensor) -> list[Tensor]:
        """Of strides 4, 8, 16 and 32: after features 3, 6, 13 and 17."""
        found = []
        for number, feature in enumerate(self.features):
            images = feature(images)
            if number in (3, 6, 13, 17):
                found.append(images)
        return found


def round8(value: float) -> int:
    nearest = max(8, int(value + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * value else nearest + 8


def randomised(network: nn.Module) -> nn.Module:
    """With batch norms whose statistics and parameters are no identity."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.8, 1.4),
                (module.bias, -0.3, 0.6),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.3, 0.8),
            ):
                assert isinstance(tensor, Tensor)
                tensor.data.uniform_(low, high, generator=generator)
    return network


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("stages", "count", "channels"), [(7, 1812800, [24, 32, 96, 320]), (3, 56576, [24, 32]), (5, None, [24, 32, 96])]
)
def test_counts_and_channels_are_those_of_fast_nas(stages: int, count: int | None, channels: list[int]) -> None:
    encoder = MobileNetV2(stages=stages)
    assert encoder.channels == channels
    assert count is None or parameters(encoder) == count
    assert [tap.shape[1] for tap in encoder(torch.zeros(2, 3, 33, 65))] == channels


def test_without_the_first_expansion_it_has_the_parameters_of_the_paper_less_its_head() -> None:
    """3,504,872 in torchvision with 1000 classes: the last 1x1 to 1280 and the classifier are not in an encoder."""
    head = 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert parameters(MobileNetV2(first_expansion=False)) == 3504872 - head


@pytest.mark.parametrize(("height", "width"), [(64, 96), (65, 97), (50, 33)])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_the_maps_have_the_strides_up_to_the_output_stride(height: int, width: int, output_stride: int) -> None:
    encoder = MobileNetV2(width=0.1, output_stride=output_stride).eval()
    strides = [min(stride, output_stride) for stride in (4, 8, 16, 32)]
    found = [tuple(tap.shape[2:]) for tap in encoder(torch.zeros(1, 3, height, width))]
    assert found == [(-(-height // stride), -(-width // stride)) for stride in strides]


def test_dilation_sees_what_the_strided_network_saw() -> None:
    """At every second pixel the dilated encoder gives what the strided one gives: the same weights, the same neighbours."""
    images = torch.randn(1, 3, 96, 128, dtype=torch.float64)
    plain, dilated = (randomised(MobileNetV2(width=0.1, output_stride=stride)).double().eval() for stride in (32, 16))
    dilated.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for number, (coarse, fine) in enumerate(zip(plain(images), dilated(images), strict=True)):
            step = 2 if number == 3 else 1
            assert torch.allclose(fine[:, :, ::step, ::step], coarse, rtol=1e-10, atol=1e-10)


def test_only_blocks_after_the_lost_stride_are_dilated() -> None:
    encoder = MobileNetV2(width=0.1, output_stride=8)
    rates = [
        {conv.dilation[0] for block in stage for conv in block.modules() if isinstance(conv, nn.Conv2d) and conv.groups > 1}
        for stage in encoder.stages
    ]
    assert rates == [{1}, {1}, {1}, {1, 2}, {2}, {2, 4}, {4}]
    first = encoder.stages[3][0]  # type: ignore[index]
    assert isinstance(first, InvertedResidual)
    assert first.layers[3].dilation == (1, 1)


@pytest.mark.parametrize(
    ("channels", "width", "expected"), [(32, 1.0, 32), (24, 0.75, 24), (24, 0.5, 16), (16, 0.1, 8), (24, 1.4, 32)]
)
def test_channels_are_multiples_of_eight_near_the_product(channels: int, width: float, expected: int) -> None:
    assert scaled_channels(channels, width) == expected


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("first_expansion", [True, False])
@pytest.mark.parametrize("stages", [3, 7])
def test_torchvisions_weights_give_torchvisions_maps(tmp_path: Path, suffix: str, first_expansion: bool, stages: int) -> None:
    source = randomised(Torchvision(0.25)).eval()
    path = tmp_path / f"weights{suffix}"
    safetensors.torch.save_file(source.state_dict(), path) if suffix == ".safetensors" else torch.save(source.state_dict(), path)
    encoder = MobileNetV2(width=0.25, stages=stages, first_expansion=first_expansion).eval()
    load_torchvision_weights(encoder, path)
    images = 3 * torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found, expected = encoder(images), source.maps(images)
    assert len(found) == (4 if stages == 7 else 2)
    for one, other in zip(found, expected, strict=False):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def files(folder: Path) -> Iterator[tuple[Path, str]]:
    state = Torchvision(0.25).state_dict()
    yield folder / "none.pth", "no such file"
    torch.save({name: tensor for name, tensor in state.items() if "features.4.conv.0.1.bias" not in name}, folder / "less.pth")
    yield folder / "less.pth", "of .* tensors are missing, features.4.conv.0.1.bias"
    torch.save(Torchvision(1.0).state_dict(), folder / "wide.pth")
    yield folder / "wide.pth", r"does not fit this encoder: features\.0\.0\.weight has shape \[32, 3, 3, 3\], not \[8, 3, 3, 3\]"
    (folder / "text.pth").write_text("no weights")
    yield folder / "text.pth", "cannot read the weights"
    (folder / "text.safetensors").write_text("no weights")
    yield folder / "text.safetensors", "cannot read the weights"
    torch.save([1, 2], folder / "list.pth")
    yield folder / "list.pth", "no mapping of names to tensors"


def test_a_file_that_does_not_fit_is_met_with_one_line_and_changes_nothing(tmp_path: Path) -> None:
    encoder = MobileNetV2(width=0.25)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    for path, message in files(tmp_path):
        with pytest.raises(UserError, match=message) as caught:
            load_torchvision_weights(encoder, path)
        assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_impossible_encoders_are_refused() -> None:
    with pytest.raises(ValueError, match=r"stages must lie in 2\.\.7, not 1"):
        MobileNetV2(stages=1)
    with pytest.raises(ValueError, match="output_stride must be one of 8, 16, 32, not 4"):
        MobileNetV2(output_stride=4)
