"""Swin layers on feature maps, of torchvision's blocks: Liu et al., "Swin Transformer", ICCV 2021, as Liang et al.,
"SwinIR", 2021, put them into residual groups."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_TOKENS, _TOKENS_OF_GPU = 2**13, 2**16
"""How many go through a block at once, so that what lies between its layers takes little and stays near."""


class SwinGroup(nn.Module):
    """Swin blocks, shifted by half a window in turn, and a convolution; their input is added.   (N, F, H, W) -> same"""

    def __init__(self, features: int, heads: int, window: int, mlp_ratio: float, drops: list[float]) -> None:
        from torchvision.models.swin_transformer import SwinTransformerBlock  # here, as it takes a second to import

        super().__init__()
        self.blocks = nn.Sequential(
            *(
                SwinTransformerBlock(
                    features,
                    heads,
                    [window, window],
                    [window // 2 * (number % 2)] * 2,
                    mlp_ratio=mlp_ratio,
                    stochastic_depth_prob=drop,
                )
                for number, drop in enumerate(drops)
            )
        )
        self.conv = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = x.permute(0, 2, 3, 1)
        tokens = self.blocks(tokens) if torch.is_grad_enabled() else self._in_bands(tokens)
        answer: Tensor = x + self.conv(tokens.permute(0, 3, 1, 2))
        return answer

    def _in_bands(self, tokens: Tensor) -> Tensor:
        """(N, H, W, F) through the blocks, some rows of windows after the other."""
        tokens = tokens.clone(memory_format=torch.contiguous_format)
        block: Any
        for block in self.blocks:
            window, shift = block.attn.window_size[0], block.attn.shift_size[0]
            for rows, wraps in _bands(tokens, window, shift):
                part = tokens[:, rows]
                part = part + _attended(block.attn, block.norm1(part), shift if wraps else 0)
                tokens[:, rows] = part + block.mlp(block.norm2(part))
        return tokens


def _bands(tokens: Tensor, window: int, shift: int) -> Iterator[tuple[Tensor | slice, bool]]:
    """Rows of (N, H, W, F) that make whole windows, which begin at row `shift` and come round the border; and whether
    some of these do."""
    height, width = tokens.shape[1:3]
    at_once = (_TOKENS_OF_GPU if tokens.is_cuda else _TOKENS) // (len(tokens) * width * window)
    step = window * max(2, at_once)
    if height % window or height <= step:
        yield slice(0, height), True
        return
    round_the_border = (window - shift) % window  # the last rows, which are in one window with the first
    first, last = step - round_the_border, height - round_the_border
    yield torch.cat([torch.arange(first), torch.arange(last, height)]).to(tokens.device), True
    for start in range(first, last, step):
        yield slice(start, min(start + step, last)), False


def _attended(attention: Any, x: Tensor, shift: int) -> Tensor:
    """What torchvision's `attention` makes of rows of which it is known whether their windows come round."""
    from torchvision.models.swin_transformer import shifted_window_attention

    answer: Tensor = shifted_window_attention(
        x,
        attention.qkv.weight,
        attention.proj.weight,
        attention.get_relative_position_bias(),
        attention.window_size,
        attention.num_heads,
        shift_size=[shift, attention.shift_size[1]],
        qkv_bias=attention.qkv.bias,
        proj_bias=attention.proj.bias,
        training=False,
    )
    return answer


class SwinBody(nn.Module):
    """Groups between two layer normalisations.   (N, F, H, W) -> same"""

    def __init__(
        self, features: int, depths: tuple[int, ...], heads: tuple[int, ...], window: int, mlp_ratio: float, drop: float
    ) -> None:
        super().__init__()
        steps = iter(range(sum(depths)))
        drops = [[drop * next(steps) / max(1, sum(depths) - 1) for _ in range(depth)] for depth in depths]
        self.norm_in = nn.LayerNorm(features)
        self.groups = nn.ModuleList(
            SwinGroup(features, its, window, mlp_ratio, part) for its, part in zip(heads, drops, strict=True)
        )
        self.norm_out = nn.LayerNorm(features)

    def forward(self, x: Tensor) -> Tensor:
        x = _normalized(self.norm_in, x)
        for group in self.groups:
            x = group(x)
        return _normalized(self.norm_out, x)


def _normalized(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    answer: Tensor = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return answer
