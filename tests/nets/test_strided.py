from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from cxrdist.nets import strided
from cxrdist.nets.strided import Down, Up


@pytest.fixture(autouse=True)
def matmul_for_few_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strided, "MATMUL_WEIGHTS", 0)


TORCHS = {Down: nn.Conv2d, Up: nn.ConvTranspose2d}


def layer_and_maps(
    kind: Any, kernel: int, sides: tuple[int, int], bias: bool = True, dtype: Any = torch.float32
) -> Any:
    torch.manual_seed(0)
    scale = 2 if kind is Down else 1
    maps = torch.randn(2, 3, sides[0] * scale, sides[1] * scale, dtype=dtype, requires_grad=True)
    return kind(3, 5, kernel, bias=bias).to(dtype), maps


@pytest.mark.parametrize("kind", [Down, Up])
@pytest.mark.parametrize("kernel", [2, 3, 4, 5])
@pytest.mark.parametrize("sides", [(4, 4), (1, 3), (5, 5)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_values_and_gradients_are_those_of_torchs_layer(
    kind: Any, kernel: int, sides: tuple[int, int], channels_last: bool
) -> None:
    layer, maps = layer_and_maps(kind, kernel, sides)
    # The layer of torch that DCGAN's tutorials build: same weights, same names, same shapes.
    arguments = {"output_padding": kernel % 2} if kind is Up else {}
    torchs = TORCHS[kind](3, 5, kernel, stride=2, padding=(kernel - 1) // 2, **arguments)
    torchs.load_state_dict(layer.state_dict())
    if channels_last:
        layer.to(memory_format=torch.channels_last)
        maps = maps.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    ours, theirs = layer(maps), torchs(maps)
    scale = 1 if kind is Down else 2
    assert ours.shape == (2, 5, scale * sides[0], scale * sides[1])
    torch.testing.assert_close(ours, theirs)
    given = torch.randn(ours.shape)
    torch.testing.assert_close(
        torch.autograd.grad(ours, (maps, *layer.parameters()), given),
        torch.autograd.grad(theirs, (maps, *torchs.parameters()), given),
    )


@pytest.mark.parametrize("kind", [Down, Up])
def test_matrix_products_take_over_at_4x4_and_convolutions_above(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("torch's convolution was called")

    monkeypatch.setattr(TORCHS[kind], "forward", refuse)
    layer, maps = layer_and_maps(kind, 5, (4, 4))
    layer(maps)
    layer, maps = layer_and_maps(kind, 5, (5, 5))
    with pytest.raises(AssertionError, match="convolution was called"):
        layer(maps)


@pytest.mark.parametrize("kernel", [4, 5])
@pytest.mark.parametrize("kind", [Down, Up])
def test_first_and_second_derivatives(kind: Any, kernel: int) -> None:
    """R1 differentiates D's gradient."""
    layer, maps = layer_and_maps(kind, kernel, (2, 2), bias=False, dtype=torch.float64)
    assert gradcheck(lambda x: layer(x).square().sum(), maps)
    assert gradgradcheck(lambda x: layer(x).pow(3).sum(), maps)


def test_under_bf16_autocast_the_product_is_bf16_and_gradients_float32() -> None:
    layer, maps = layer_and_maps(Down, 5, (4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        made = layer(maps)
    assert made.dtype == torch.bfloat16
    made.float().sum().backward()
    assert {p.grad.dtype for p in (maps, *layer.parameters())} == {torch.float32}
    torch.testing.assert_close(made.float(), layer(maps), rtol=2e-2, atol=2e-2)


def test_few_weights_take_torchs_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strided, "MATMUL_WEIGHTS", 3 * 5 * 16 + 1)
    monkeypatch.setattr(strided._Windows, "apply", None)  # a call would fail
    layer, maps = layer_and_maps(Down, 4, (4, 4))
    assert layer(maps).shape == (2, 5, 4, 4)
