"""SPAN: Wan et al., "Swift Parameter-free Attention Network for Efficient Super-Resolution", CVPRW 2024. Its 3x3
convolutions are trained as sums and products of smaller ones, and merged into one each."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refsr_cli.layers.blocks import conv, exactly
from refsr_cli.layers.unfilled import Unfilled
from refsr_cli.models.base import SRModel
from refsr_cli.models.edsr import DIV2K_MEAN

_GAIN = 2
"""How many times as wide an expanded convolution is inside."""
_FIRST = 4.0
"""Size of the first weights, of a net that works on values in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class SPANConfig:
    """The numbers of a SPAN; the defaults are the paper's."""

    features: int = 48
    blocks: int = 6
    value_range: float = 255.0
    """What the net sees white as, after `mean`, in [0, 1], is subtracted."""
    mean: tuple[float, float, float] = DIV2K_MEAN
    expanded: bool = False
    """Whether all 3x3 convolutions but the last are made of four, as the net is trained; else they are merged."""


class ExpandedConv(nn.Module):
    """A 3x3 convolution made of four: narrow to wide, 3x3, wide to narrow, and a 1x1 beside (section 3.3). What they
    amount to is put together at each call, and continued with zeros as one 3x3 convolution is.

    (N, C, H, W) -> (N, D, H, W)"""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.widen = conv(in_channels, _GAIN * in_channels, 1)
        self.conv = conv(_GAIN * in_channels, _GAIN * out_channels)
        self.narrow = conv(_GAIN * out_channels, out_channels, 1)
        self.skip = conv(in_channels, out_channels, 1)

    def merged(self) -> tuple[Tensor, Tensor]:
        """The weight (D, C, 3, 3) and the bias (D) of the one convolution."""
        with torch.autocast(self.conv.weight.device.type, enabled=False):
            widen, narrow = self.widen.weight[..., 0, 0], self.narrow.weight[..., 0, 0]
            weight = torch.einsum("dp,pqyx,qc->dcyx", narrow, self.conv.weight, widen)
            inside = self.conv.weight.sum((2, 3)) @ _bias(self.widen) + _bias(self.conv)
            bias = narrow @ inside + _bias(self.narrow) + _bias(self.skip)
            return weight + F.pad(self.skip.weight, (1, 1, 1, 1)), bias

    def become(self, layer: nn.Conv2d) -> None:
        """Takes the values of one 3x3 convolution: half of what is inside carries them, the other half nothing yet."""
        out_channels, in_channels = layer.weight.shape[:2]
        with torch.no_grad():
            for value in (_bias(self.widen), _bias(self.conv), *self.narrow.parameters(), *self.skip.parameters()):
                value.zero_()
            self.widen.weight[:in_channels, :, 0, 0] = torch.eye(in_channels)
            self.narrow.weight[:, :out_channels, 0, 0] = torch.eye(out_channels)
            self.conv.weight[:out_channels] = 0
            self.conv.weight[:out_channels, :in_channels] = layer.weight
            _bias(self.conv)[:out_channels] = _bias(layer)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, *self.merged(), padding=1)


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None, "all of them have one"
    return layer.bias


class AttentionBlock(nn.Module):
    """`(y + x) * (sigmoid(y) - 1/2)` with y from three convolutions (Fig. 3).   (N, F, H, W) -> same, and what the
    first convolution gave after its activation."""

    def __init__(self, features: int, *, expanded: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(_conv(features, features, expanded), nn.SiLU())
        self.second = nn.Sequential(_conv(features, features, expanded), nn.SiLU())
        self.third = nn.Sequential(_conv(features, features, expanded))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inner = self.first(x)
        y = self.third(self.second(inner))
        return (y + x) * (y.sigmoid() - 0.5), inner


def _conv(in_channels: int, out_channels: int, expanded: bool) -> nn.Module:
    return ExpandedConv(in_channels, out_channels) if expanded else conv(in_channels, out_channels)


class SPAN(SRModel):
    """Six blocks whose attention has no weights of its own, joined with what the first and the last of them and the
    head give; one 3x3 convolution enlarges.   (N, 3, H, W) -> (N, 3, scale*H, scale*W)"""

    scales = (2, 3, 4)

    def __init__(self, config: SPANConfig, scale: int) -> None:
        super().__init__(scale)
        self.config: SPANConfig = config
        features = config.features
        self.head = nn.Sequential(_conv(3, features, config.expanded))
        self.body = nn.ModuleList(AttentionBlock(features, expanded=config.expanded) for _ in range(config.blocks))
        self.after = nn.Sequential(_conv(features, features, config.expanded))
        self.join = nn.Sequential(conv(4 * features, features, 1))
        self.tail = conv(features, 3 * scale**2)
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self._begin_small()

    def _begin_small(self) -> None:
        """Ours: the first features are about 1 instead of hundreds, where the attention would be saturated, and the
        first result is nearly the mean colour; so a thousand steps are saved that go into that otherwise."""
        (first,) = self.head
        layers = (first.narrow, first.skip) if isinstance(first, ExpandedConv) else (first,)
        with torch.no_grad():
            for layer in layers:
                next(layer.parameters()).mul_(min(1.0, _FIRST / self.config.value_range))
            self.tail.weight /= self.config.value_range
            _bias(self.tail).copy_(torch.tensor(self.config.mean).repeat_interleave(self.scale**2))

    @property
    def dense_parts(self) -> tuple[str, ...]:  # type: ignore[override]
        if self.config.expanded:
            return ()
        parts = (f"body.{i}.{part}" for i in range(self.config.blocks) for part in ("first", "second", "third"))
        return ("head", *parts, "after", "join")

    @property
    def receptive_field(self) -> int:
        return 3 + 3 * self.config.blocks

    def forward(self, lr: Tensor) -> Tensor:
        shallow = self.head((lr - self.mean) * self.config.value_range)
        first, inner = self.body[0](shallow)
        x = first
        for block in self.body[1:]:
            x, inner = block(x)
        joined = self.join(torch.cat([shallow, self.after(x), first, inner], 1))
        return F.pixel_shuffle(exactly(self.tail, joined), self.scale)

    def merged(self) -> "SPAN":
        if not self.config.expanded:
            return self
        with Unfilled():
            net = SPAN(replace(self.config, expanded=False), self.scale).to(self.tail.weight)
        values = {key: value for key, value in self.state_dict().items() if key in net.state_dict()}
        for name, layer in self.named_modules():
            if isinstance(layer, ExpandedConv):
                values[f"{name}.weight"], values[f"{name}.bias"] = (value.detach() for value in layer.merged())
        net.load_state_dict(values)
        return net.train(self.training)

    def start_from(self, source: SRModel, name: str, *, partly: bool = False) -> str:
        """From a merged net too where this one is expanded, and from an expanded one where this is not."""
        if isinstance(source, SPAN) and not self.config.expanded:
            source = source.merged()
        if partly or source.config != replace(self.config, expanded=False) or source.config == self.config:
            return super().start_from(source, name, partly=partly)
        expanded = SPAN(self.config, source.scale)
        layers = dict(source.named_modules())
        values = {key: value for key, value in source.state_dict().items() if key in expanded.state_dict()}
        expanded.load_state_dict(values, strict=False)
        for key, layer in expanded.named_modules():
            if isinstance(layer, ExpandedConv):
                layer.become(layers[key])
        return super().start_from(expanded, name)
