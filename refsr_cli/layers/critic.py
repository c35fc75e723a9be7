"""Critics: nets that tell real pictures from made ones, for adversarial losses."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from refsr_cli.errors import BadSetting

_SLOPE = 0.2
_PUBLISHED_STD = 0.02


def _norm(features: int, normed: bool) -> nn.Module:
    return nn.BatchNorm2d(features) if normed else nn.Identity()


class SRGANCritic(nn.Sequential):
    """Ledig et al. 2017, Fig. 4: eight convolutions, every second one halving, and two dense layers.

    (N, 3, side, side) -> (N, 1), a logit. Raises BadSetting where there are several sides.
    """

    def __init__(self, sides: Sequence[int], normed: bool) -> None:
        if len(set(sides)) > 1:
            raise BadSetting("--critic srgan is for crops of one size, and this net has several scales; use patch")
        side = sides[0]
        widths = [64, 64, 128, 128, 256, 256, 512, 512]
        stages: list[nn.Module] = []
        before = 3
        for number, width in enumerate(widths):
            halves = number % 2 == 1
            stages.append(nn.Conv2d(before, width, 3, stride=2 if halves else 1, padding=1))
            stages += [_norm(width, normed and number > 0), nn.LeakyReLU(_SLOPE, inplace=True)]
            before, side = width, (side + 1) // 2 if halves else side
        dense = [nn.Linear(before * side**2, 1024), nn.LeakyReLU(_SLOPE, inplace=True), nn.Linear(1024, 1)]
        super().__init__(*stages, nn.Flatten(), *dense)


class PatchCritic(nn.Sequential):
    """PatchGAN, Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017: an answer
    for every place, each of which sees 70 pixels a side.   (N, 3, H, W) -> (N, 1, h, w), logits

    Raises BadSetting for pictures that are too small."""

    SMALLEST = 24
    """Pixels that leave something to answer for."""

    def __init__(self, sides: Sequence[int], normed: bool) -> None:
        if min(sides) < self.SMALLEST:
            raise BadSetting(
                f"--critic patch needs crops of {self.SMALLEST} pixels, not {min(sides)}; give a larger --patch"
            )
        stages: list[nn.Module] = [nn.Conv2d(3, 64, 4, stride=2, padding=1), nn.LeakyReLU(_SLOPE, inplace=True)]
        for before, width, stride in ((64, 128, 2), (128, 256, 2), (256, 512, 1)):
            stages.append(nn.Conv2d(before, width, 4, stride=stride, padding=1))
            stages += [_norm(width, normed), nn.LeakyReLU(_SLOPE, inplace=True)]
        super().__init__(*stages, nn.Conv2d(512, 1, 4, padding=1))


class SRNTTCritic(nn.Sequential):
    """Zhang et al., "Image Super-Resolution by Neural Texture Transfer", CVPR 2019, which C2-Matching and DATSR take:
    ten convolutions, every second one halving, their mean over all places, and two dense layers.

    (N, 3, H, W) -> (N, 1)
    """

    def __init__(self, sides: Sequence[int], normed: bool) -> None:
        stages: list[nn.Module] = []
        before = 3
        for width in (32, 64, 128, 256, 512):
            for stride in (1, 2):
                stages.append(nn.Conv2d(before, width, 3, stride=stride, padding=1))
                stages += [_norm(width, normed), nn.LeakyReLU(_SLOPE, inplace=True)]
                before = width
        dense = [nn.Linear(before, 1024), nn.LeakyReLU(_SLOPE, inplace=True), nn.Linear(1024, 1)]
        super().__init__(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *dense)


class PublishedSRNTTCritic(nn.Sequential):
    """As C2-Matching's and DATSR's code has it, for pictures in [0, 1]: normalised over the batch even under a gradient
    penalty, and ending in a sigmoid; it begins with normal weights of 0.02.

    (N, 3, H, W) -> (N, 1), in [0, 1]
    """

    def __init__(self, sides: Sequence[int], normed: bool) -> None:
        super().__init__(SRNTTCritic(sides, normed=True), nn.Sigmoid())
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=_PUBLISHED_STD)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # all have one
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, _PUBLISHED_STD)


class Centred(nn.Module):
    """A critic of pictures in [-1, 1], given them in [0, 1]."""

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.critic(2 * x - 1)
        return answer


CRITICS: Mapping[str, Callable[[Sequence[int], bool], nn.Module]] = {
    "srgan": lambda sides, normed: Centred(SRGANCritic(sides, normed)),
    "srntt": lambda sides, normed: Centred(SRNTTCritic(sides, normed)),
    "srntt-published": PublishedSRNTTCritic,
    "patch": lambda sides, normed: Centred(PatchCritic(sides, normed)),
}
"""From the sides that the pictures may have, and whether to normalise over the batch."""
