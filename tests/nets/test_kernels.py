"""The compiled kernels against the plain torch operations that define them, in float64 and float32."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segnas.nets import compiled
from segnas.nets.compiled import _loaded, library
from segnas.nets.kernels import Before, Window, mix, normalize, separable

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


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of kernels.py by its definition."""

    def defined(*given: Any, **named: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compiled, "takes", lambda *tensors: False)
            return function(*given, **named)

    return defined


def by_separable(function: Callable[..., Any], before: Before, window: Window, paths: int) -> Callable[..., Tensor]:
    """The result alone, of x and the weights of all edges in two tensors."""
    return lambda x, depthwise, pointwise: function(x, before, depthwise.unbind(), pointwise.unbind(), window, paths)[0]


@pytest.mark.parametrize(("kernel", "stride", "dilation"), itertools.product((3, 5, 7), (1, 2), (1, 2)))
@pytest.mark.parametrize(
    ("channels", "out", "edges", "shared"), [(3, 5, 1, True), (8, 8, 5, True), (16, 16, 2, False), (12, 3, 3, False)]
)
def test_separable(
    kernel: int, stride: int, dilation: int, channels: int, out: int, edges: int, shared: bool, dtype: torch.dtype
) -> None:
    window = Window(kernel, stride, dilation)
    for size, before in itertools.product(((9, 6), (2, 13)), (Before(), Before(rectify=True), Before(1e-3, True), Before(1e-3))):
        inputs = [
            random(6, *size, channels * (1 if shared else edges), dtype=dtype) + 0.3,
            random(edges, channels, 1, kernel, kernel, dtype=dtype, seed=1),
            random(edges, out, channels, 1, 1, dtype=dtype, seed=2),
        ]
        found, expected = (
            with_gradients(by_separable(function, before, window, 3), inputs) for function in (separable, plain(separable))
        )
        agree(found, expected, dtype)


def test_separable_in_several_bands(dtype: torch.dtype) -> None:
    """An image that a thread does not hold at once."""
    for stride, dilation in itertools.product((1, 2), (1, 2)):
        window, before = Window(5, stride, dilation), Before(1e-5, True)
        weights = random(2, 32, 1, 5, 5, dtype=dtype, seed=1), random(2, 32, 32, 1, 1, dtype=dtype, seed=2)
        inputs = [random(1, 71, 60, 32, dtype=dtype), *weights]
        found, expected = (
            with_gradients(by_separable(function, before, window, 1), inputs) for function in (separable, plain(separable))
        )
        agree(found, expected, dtype)


@pytest.mark.parametrize("paths", [1, 3])
def test_moments(paths: int, dtype: torch.dtype) -> None:
    """Of large means, found where the norm is; and used as they are when they are known."""
    x = random(paths * 2, 9, 7, 5, dtype=dtype) + 3
    weights = random(1, 5, 1, 3, 3, dtype=dtype, seed=1), random(1, 4, 5, 1, 1, dtype=dtype, seed=2)
    given = (x, Before(1e-3, True), *weights, Window(3), paths)
    out, found = separable(*given)
    assert found is not None
    agree(found, normalize(x, paths, 1e-3)[1], dtype)
    rows = x.double().reshape(paths, -1, 5)
    agree([found[0], found[2]], [rows.mean(1).to(dtype), rows.var(1).to(dtype)], dtype)
    agree([separable(*given, known=found)[0]], [out], dtype)
    other = (found[0] + 1, found[1], found[2])
    assert not torch.allclose(separable(*given, known=other)[0], out)


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

    agree(with_gradients(by(mix), inputs), with_gradients(by(plain(mix)), inputs), dtype)
    found, expected = (function(None, inputs[0], terms, epsilons, paths, channels)[1] for function in (mix, plain(mix)))
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            agree(one, other, dtype)


def test_the_gradients_of_a_mixture_whose_moments_are_known(dtype: torch.dtype) -> None:
    """The sum is not made again, but what it is differentiated by is the same."""
    terms = [random(4, 5, 6, width, dtype=dtype, seed=width) for width in (3, 3, 6)]
    weights, epsilons = random(3, 2, dtype=dtype, seed=8), [None, 1e-3, 1e-5]
    known = mix(None, weights, terms, epsilons, 2, 3)[1]
    by = lambda known: lambda weights, *terms: mix(None, weights, terms, epsilons, 2, 3, known)[0]  # noqa: E731
    agree(*([*with_gradients(by(one), [weights, *terms])[1:]] for one in (known, None)), dtype)


def test_only_what_is_asked_for_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weights = random(1, 4, 4, 3, dtype=torch.float32), [random(3, 1, 3, 3, dtype=torch.float32)]
    matrices = [random(2, 3, 1, 1, dtype=torch.float32)]
    asked = []
    call = compiled._call
    monkeypatch.setattr(compiled, "_call", lambda name, *given: (asked.append((name, given)), call(name, *given)))
    separable(x.requires_grad_(), Before(), weights, matrices, Window(3), 1)[0].sum().backward()
    assert x.grad is not None
    assert weights[0].grad is None
    (name, given) = asked[-1]
    assert (name, given[-2:]) == ("separable_back", (None, None)), "no gradient of the weights"


def test_what_cannot_be_divided_into_paths_is_refused() -> None:
    weights = [random(3, 1, 3, 3, dtype=torch.float32)], [random(2, 3, 1, 1, dtype=torch.float32)]
    for images in (4, 0):
        x = random(images, 4, 4, 3, dtype=torch.float32)
        with pytest.raises(ValueError, match="cannot be divided into 3 paths"):
            separable(x, Before(), *weights, Window(3), 3)


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in (("SEGNAS_KERNELS", "off"), ("PATH", str(tmp_path))):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            found, reason = _loaded.__wrapped__()
            assert found is None
            assert (reason is None) == (name == "SEGNAS_KERNELS"), "who forbids it knows"
    assert list(tmp_path.iterdir()) == []


def test_it_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _loaded.__wrapped__()[0] is not None
    (built,) = (tmp_path / "segnas").iterdir()
    monkeypatch.setattr(compiled.subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert _loaded.__wrapped__()[0] is not None
    assert built.suffix == ".so"


def test_a_compiler_that_fails_is_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(compiled.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("CC", "false")
    found, reason = _loaded.__wrapped__()
    assert found is None
    assert reason is not None
    assert "failed" in reason
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "what was begun is removed"
