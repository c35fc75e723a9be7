"""Swin layers on feature maps, of torchvision's blocks: Liu et al., "Swin Transformer", ICCV 2021, as Liang et al.,
"SwinIR", 2021, put them into residual groups."""

from torch import Tensor, nn


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
        tokens: Tensor = self.blocks(x.permute(0, 2, 3, 1))
        answer: Tensor = x + self.conv(tokens.permute(0, 3, 1, 2))
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
