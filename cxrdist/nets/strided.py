"""Convolutions that halve the side and transposed ones that double it, computed as a matrix product on small maps on
CPU, where that is faster.

oneDNN's kernels distribute work over the pixels of a map. At 4x4 there are few pixels, but millions of weights: the
gradient of the weights takes seven times as long as a matrix product of the same result. Weights and results are
those of torch's own layers.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import linear, pad

MATMUL_SIDE = 4  # largest side, of the smaller maps, at which the matrix product is used
MATMUL_WEIGHTS = 1 << 18  # with fewer, copying the windows takes longer than the convolution


class Down(nn.Conv2d):
    """Maps [B, in, 2h, 2w] -> [B, out, h, w]: a kernel of at least 2 with stride 2, padded so that the side is
    halved."""

    def __init__(self, inside: int, outside: int, kernel: int, *, bias: bool) -> None:
        super().__init__(inside, outside, kernel, stride=2, padding=(kernel - 1) // 2, bias=bias)

    def forward(self, maps: Tensor) -> Tensor:
        if not _takes_matmul(maps, maps.shape[2] // 2, self.weight):
            return super().forward(maps)
        # [B, h, w, in k k] x [in k k, out]; permuted to [B, out, h, w] it is channels_last
        windows = _Windows.apply(maps, self.kernel_size[0])
        return linear(windows, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class Up(nn.ConvTranspose2d):
    """Maps [B, in, h, w] -> [B, out, 2h, 2w]: the transpose of ``Down``."""

    def __init__(self, inside: int, outside: int, kernel: int, *, bias: bool) -> None:
        super().__init__(
            inside,
            outside,
            kernel,
            stride=2,
            padding=(kernel - 1) // 2,
            output_padding=kernel % 2,
            bias=bias,
        )

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is not None or not _takes_matmul(maps, maps.shape[2], self.weight):
            return super().forward(maps, output_size)
        # [B, h, w, in] x [in, out k k]: the values that each pixel adds to its window
        added = linear(maps.permute(0, 2, 3, 1), self.weight.flatten(1).t())
        summed: Tensor = _Overlaid.apply(added, self.kernel_size[0])
        return summed if self.bias is None else summed + self.bias[:, None, None]


def _takes_matmul(maps: Tensor, side: int, weight: Tensor) -> bool:
    return maps.device.type == "cpu" and side <= MATMUL_SIDE and weight.numel() >= MATMUL_WEIGHTS


class _Windows(Function):
    """Maps [B, C, 2h, 2w] -> [B, h, w, C k k]: the input window of each output pixel, with zeros around the maps."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, kernel: int) -> Tensor:
        ctx.kernel = kernel
        batch, channels, height, width = maps.shape
        before, after = _padding(kernel)
        padded = pad(maps.contiguous(), (before, after, before, after))
        of_image, of_map, of_row, of_pixel = padded.stride()
        windows = padded.as_strided(
            (batch, height // 2, width // 2, channels, kernel, kernel),
            (of_image, 2 * of_row, 2 * of_pixel, of_map, of_row, of_pixel),
        )
        return windows.reshape(batch, height // 2, width // 2, channels * kernel * kernel)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Overlaid.apply(gradients[0], ctx.kernel), None


class _Overlaid(Function):
    """[B, h, w, C k k] -> maps [B, C, 2h, 2w], channels_last: the transpose of ``_Windows``, which sums overlapping
    windows."""

    @staticmethod
    def forward(ctx: Any, windows: Tensor, kernel: int) -> Tensor:
        ctx.kernel = kernel
        batch, height, width, values = windows.shape
        before, after = _padding(kernel)
        by_offset = (
            windows.view(batch, height, width, -1, kernel, kernel).permute(4, 5, 0, 1, 2, 3).contiguous()
        )
        padded = windows.new_zeros(
            batch, 2 * height + before + after, 2 * width + before + after, values // kernel**2
        )
        for row in range(kernel):
            for column in range(kernel):
                padded[:, row : row + 2 * height : 2, column : column + 2 * width : 2] += by_offset[
                    row, column
                ]
        return padded[:, before : before + 2 * height, before : before + 2 * width].permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Windows.apply(gradients[0], ctx.kernel), None


def _padding(kernel: int) -> tuple[int, int]:
    """Number of zeros in the windows before the first pixel of a row, and after the last."""
    before = (kernel - 1) // 2
    return before, kernel - 2 - before
