"""SSEN: Shim et al., "Robust Reference-based Super-Resolution with Similarity-Aware Deformable Convolution", CVPR 2020.

There is no code of its authors. What the paper leaves open is a number of `SSENConfig`, or said where it is decided.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refsr_cli.errors import BadSetting
from refsr_cli.layers.alignment import at_least_float32, deformable_conv, pixel_grid, taps
from refsr_cli.layers.attention import NonLocal
from refsr_cli.layers.blocks import ResBlock, Upsampler, conv, exactly
from refsr_cli.layers.resample import resize
from refsr_cli.models.base import SRModel
from refsr_cli.models.edsr import DIV2K_MEAN, EDSR, EDSRConfig

_SLOPE = 0.1
"""Of the leaky rectifiers; the paper does not say."""


@dataclass(frozen=True, kw_only=True)
class SSENConfig:
    """The numbers of an SSEN."""

    features: int = 64
    """Width of every layer, as in the paper's figures."""
    extractor_blocks: int = 5
    """Residual blocks that picture and reference share; the paper says that they are shared, not how many."""
    alignments: int = 3
    """Deformable convolutions one after the other; three are the best of the paper's ablation."""
    blocks: int = 16
    """Residual blocks after the fusion; the paper says as in EDSR."""
    groups: int = 8
    """Runs of channels with offsets of their own; the paper does not say."""
    from_edsr: bool = False
    """Whether DIV2K's mean is subtracted and a convolution ends the body, as in EDSR, whose weights such a net can
    start from; the paper has EDSR's blocks and does not say more."""


@dataclass(frozen=True)
class Laid:
    """A reference laid over the picture."""

    image: Tensor
    """(N, 3, scale*h, scale*w)."""
    scale: int

    def crop(self, top: int, left: int, bottom: int, right: int) -> "Laid":
        """The part over the low-resolution pixels `top` <= row < `bottom`, `left` <= column < `right`."""
        rows, columns = (slice(self.scale * a, self.scale * b) for a, b in ((top, bottom), (left, right)))
        return replace(self, image=self.image[..., rows, columns])

    def padded(self, bottom: int, right: int) -> "Laid":
        """Continued by so many low-resolution pixels."""
        sides = (0, self.scale * right, 0, self.scale * bottom)
        return replace(self, image=F.pad(self.image, sides, mode="replicate"))

    @property
    def held_bytes(self) -> int:
        """Of the image."""
        return self.image.nbytes

    def shares(self, count: int) -> list[tuple[float, float | None]]:
        """Of the first, all; it is not known how like it is."""
        return [(1.0, None)] * min(count, 1)


class OffsetEstimator(nn.Module):
    """Where to look: three times halved, at each size all places see all places, and back (Fig. 4). Circled pluses of
    the figure add, as the widths ask for.   (N, 2F, H, W) with sides that are multiples of 8 -> (N, 18*groups, H, W)"""

    def __init__(self, features: int, groups: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            nn.Conv2d(width, features, 3, stride=2, padding=1) for width in (2 * features, features, features)
        )
        # the larger the map, the more its keys are pooled, so that attention stays affordable; the paper does not say
        self.look = nn.ModuleList(NonLocal(features, pool) for pool in (1, 2, 4))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(features, features, 3, stride=2, padding=1, output_padding=1) for _ in range(3)
        )
        self.offsets = conv(features, 2 * 9 * groups)
        nn.init.zeros_(self.offsets.weight)
        assert self.offsets.bias is not None
        nn.init.zeros_(self.offsets.bias)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for halve in self.down:
            x = F.leaky_relu(halve(x), _SLOPE)
            skips.append(x)
        for number, (look, double) in enumerate(zip(self.look, self.up, strict=True)):
            x = look(x) if number == 0 else look(x) + skips[-1 - number]
            x = F.leaky_relu(double(x), _SLOPE)
        offsets: Tensor = self.offsets(x)
        return offsets


class Alignment(nn.Module):
    """Moves features of the reference nearer to those of the picture.   (N, F, H, W) twice -> (N, F, H, W)"""

    def __init__(self, features: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.estimator = OffsetEstimator(features, groups)
        self.conv = conv(features, features)
        # several in a row: at first what they move passes through; the paper does not say
        nn.init.dirac_(self.conv.weight)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, picture: Tensor, reference: Tensor) -> Tensor:
        number, _, height, width = picture.shape
        offsets = at_least_float32(self.estimator(torch.cat([picture, reference], 1)))
        offsets = offsets.view(number, self.groups, 9, 2, height, width)
        usual = pixel_grid(height, width, offsets) + taps(3, offsets).view(9, 2, 1, 1)
        return deformable_conv(reference, usual + offsets, None, self.conv.weight, self.conv.bias)


class SSEN(SRModel):
    """Aligns one reference at low resolution, by deformable convolutions in a row, and merges it into an EDSR.

    (N, 3, H, W), multiples of 8, and a reference `Laid` over it -> (N, 3, 4*H, 4*W). Of several references the first
    is taken.
    """

    scales = (4,)
    needs_ref = True
    multiple_of = 8
    most_references = 1
    slower: ClassVar[Mapping[str, float]] = {".estimator.": 0.1}
    """Before the offsets know anything they blur what they move; the paper does not say."""

    def __init__(self, config: SSENConfig, scale: int) -> None:
        super().__init__(scale)
        self.config: SSENConfig = config
        features = config.features
        self.head = conv(3, features)
        self.shrink = nn.Sequential(  # the reference to the size of the picture: strided, as in the figure
            nn.Conv2d(3, features, 3, stride=2, padding=1),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(features, features, 3, stride=2, padding=1),
            nn.LeakyReLU(_SLOPE),
        )
        for module in self.shrink:  # as strong at first as the picture, so that it is not learned to do without it
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=_SLOPE)
        self.extractor = nn.Sequential(*(ResBlock(features) for _ in range(config.extractor_blocks)))
        self.alignments = nn.ModuleList(Alignment(features, config.groups) for _ in range(config.alignments))
        self.fusion = conv(2 * features, features)
        blocks = [ResBlock(features) for _ in range(config.blocks)]
        self.body = nn.Sequential(*blocks, conv(features, features)) if config.from_edsr else nn.Sequential(*blocks)
        self.tail = nn.Sequential(Upsampler(features, scale), conv(features, 3))
        mean = torch.tensor(DIV2K_MEAN if config.from_edsr else (0.0, 0.0, 0.0)).view(1, 3, 1, 1)
        self.mean: Tensor
        self.register_buffer("mean", mean, persistent=False)

    @property
    def receptive_field(self) -> int:
        """Beyond which little changes: attention sees all, but weakly."""
        return 32

    def look(self, lr: Tensor, references: Sequence[Tensor], memory: int | None = None) -> Laid:
        """The first of `references` (N, 3, H, W) resized to the result, as in CUFED's training pairs; without one the
        picture itself (N, 3, h, w), enlarged, as the paper has it. Only its pixels are held."""
        height, width = (self.scale * side for side in lr.shape[-2:])
        return Laid(resize(references[0] if references else lr, height, width).clamp(0, 1), self.scale)

    def forward(self, lr: Tensor, reference: Laid) -> Tensor:  # type: ignore[override]
        picture = self.extractor(self.head(lr - self.mean))
        shown = self.extractor(self.shrink(reference.image - self.mean))
        for align in self.alignments:
            shown = align(picture, shown)
        merged = self.body(self.fusion(torch.cat([picture, shown], 1)))
        upsample, reconstruct = self.tail
        return exactly(reconstruct, upsample(merged + picture)) + self.mean

    def start_from(self, source: SRModel, name: str, *, partly: bool = False) -> str:
        """From another SSEN; or, if `from_edsr`, from an EDSR, which it then equals until it learns more."""
        if partly or not isinstance(source, EDSR):
            return super().start_from(source, name, partly=partly)
        wanted = EDSRConfig(features=self.config.features, blocks=self.config.blocks)
        if not self.config.from_edsr or (source.config, source.scale) != (wanted, self.scale):
            raise BadSetting(
                f"{name} is no EDSR to start from: {source.config} for scale {source.scale}; wanted are "
                f"--set from_edsr=true, and {wanted} for scale {self.scale}"
            )
        theirs = {  # pixels of one instead of 255: all between is as much smaller
            key: value / wanted.value_range if key.endswith(".bias") else value
            for key, value in source.state_dict().items()
        }
        self.load_state_dict({**self.state_dict(), **theirs})
        for key, value in self.named_parameters():
            if (key.startswith("extractor.") and ".conv2." in key) or key == "fusion.bias":
                nn.init.zeros_(value)
        nn.init.dirac_(self.fusion.weight)  # of what is joined, the first half: the picture
        return f"head, body and tail are those of {name}"
