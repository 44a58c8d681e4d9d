"""The compiled kernels against the plain torch operations that define them, in float64 and float32."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segnas.nets import kernels
from segnas.nets.kernels import Depthwise, Window, depthwise_plain, library, mix, mix_plain, normalize, normalize_plain, pointwise
from segnas.nets.kernels import pointwise_plain as plain_matrices

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-4}


@pytest.fixture(params=[1, 2], autouse=True)
def _threads(request: pytest.FixtureRequest):
    if library() is None:
        pytest.skip("no C compiler")
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[torch.float64, torch.float32])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def with_gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """The result and the gradient of a random sum of it for each input."""
    inputs = [one.clone().requires_grad_() for one in inputs]
    out = function(*inputs)
    return [out.detach(), *torch.autograd.grad(out, inputs, random(*out.shape, dtype=out.dtype, seed=7))]


def agree(found: Sequence[Tensor], expected: Sequence[Tensor], dtype: torch.dtype) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= TOLERANCE[dtype] * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize(("kernel", "stride", "dilation"), itertools.product((3, 5, 7), (1, 2), (1, 2)))
@pytest.mark.parametrize(("channels", "copies"), [(3, 1), (8, 5), (16, 2)])
def test_depthwise(kernel: int, stride: int, dilation: int, channels: int, copies: int, dtype: torch.dtype) -> None:
    window = Window(kernel, stride, dilation)
    for (height, width), rectify in itertools.product(((9, 6), (2, 13)), (False, True)):
        inputs = [
            random(3, height, width, channels, dtype=dtype),
            random(kernel * kernel, copies * channels, dtype=dtype, seed=1),
        ]
        found = with_gradients(lambda x, weight: Depthwise.apply(x, weight, copies, window, rectify), inputs)  # noqa: B023
        plain = with_gradients(lambda x, weight: depthwise_plain(x, weight, copies, window, rectify), inputs)  # noqa: B023
        agree(found, plain, dtype)


def test_depthwise_in_several_bands(dtype: torch.dtype) -> None:
    """An image that a thread does not hold at once."""
    inputs = [random(1, 70, 60, 32, dtype=dtype), random(25, 64, dtype=dtype, seed=1)]
    found = with_gradients(lambda x, weight: Depthwise.apply(x, weight, 2, Window(5, 1, 2), True), inputs)
    agree(found, with_gradients(lambda x, weight: depthwise_plain(x, weight, 2, Window(5, 1, 2), True), inputs), dtype)


@pytest.mark.parametrize(("edges", "channels", "out"), [(1, 8, 3), (4, 8, 8), (5, 3, 17), (2, 20, 16)])
def test_pointwise(edges: int, channels: int, out: int, dtype: torch.dtype) -> None:
    inputs = [random(3, 7, 5, edges * channels, dtype=dtype), random(edges, channels, out, dtype=dtype, seed=1)]
    agree(with_gradients(pointwise, inputs), with_gradients(plain_matrices, inputs), dtype)


@pytest.mark.parametrize("paths", [1, 3])
def test_normalize(paths: int, dtype: torch.dtype) -> None:
    x = random(paths * 2, 9, 7, 5, dtype=dtype) + 3
    found = with_gradients(lambda x: normalize(x, paths, 1e-3)[0], [x])
    agree(found, with_gradients(lambda x: normalize_plain(x, paths, 1e-3)[0], [x]), dtype)
    agree(normalize(x, paths, 1e-3)[1:], normalize_plain(x, paths, 1e-3)[1:], dtype)


@pytest.mark.parametrize("paths", [1, 3])
@pytest.mark.parametrize("edges", [1, 4])
@pytest.mark.parametrize("carried", ["nothing", "images", "paths"])
def test_mix(paths: int, edges: int, carried: str, dtype: torch.dtype) -> None:
    channels, epsilons = 5, [None, 1e-3, 1e-3, 1e-5]
    widths = (channels, channels, edges * channels, edges * channels)
    terms = [random(paths * 2, 5, 6, width, dtype=dtype, seed=seed) + 1 for seed, width in enumerate(widths)]
    inputs = [random(4, edges, dtype=dtype, seed=8), *terms]
    if carried != "nothing":
        inputs.append(random(2 if carried == "images" else 2 * paths, 5, 6, edges * channels, dtype=dtype, seed=9))

    def by(function: Callable[..., tuple[Tensor, object]]) -> Callable[..., Tensor]:
        return lambda weights, *rest: function(rest[4] if rest[4:] else None, weights, rest[:4], epsilons, paths, channels)[0]

    agree(with_gradients(by(mix), inputs), with_gradients(by(mix_plain), inputs), dtype)
    for found, plain in zip(
        mix(None, inputs[0], terms, epsilons, paths, channels)[1],
        mix_plain(None, inputs[0], terms, epsilons, paths, channels)[1],
        strict=True,
    ):
        assert (found is None) == (plain is None)
        if found is not None and plain is not None:
            agree(found, plain, dtype)


def test_only_what_is_asked_for_is_computed() -> None:
    x, weight = random(1, 4, 4, 3, dtype=torch.float32), random(9, 3, dtype=torch.float32)
    out = Depthwise.apply(x.requires_grad_(), weight, 1, Window(3), True)
    out.sum().backward()
    assert x.grad is not None
    assert weight.grad is None
    out = pointwise(x, random(1, 3, 2, dtype=torch.float32))
    assert out.grad_fn.saved_tensors[0] is None, "the input is kept for the gradient of the weight alone"


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in (("SEGNAS_KERNELS", "off"), ("PATH", str(tmp_path))):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            assert kernels.library.__wrapped__() is None
    assert list(tmp_path.iterdir()) == []


def test_it_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kernels.library.__wrapped__() is not None
    (built,) = (tmp_path / "segnas").iterdir()
    monkeypatch.setattr(kernels.subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert kernels.library.__wrapped__() is not None
    assert built.suffix == ".so"


def test_a_compiler_that_fails_is_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kernels.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("CC", "false")
    assert kernels.library.__wrapped__() is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "what was begun is removed"
