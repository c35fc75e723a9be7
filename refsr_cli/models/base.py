"""The contract every net keeps."""

from typing import Any, ClassVar

from torch import Tensor, nn

from refsr_cli.errors import BadSetting
from refsr_cli.reference.offer import Offer
from refsr_cli.reference.trust import gate


class SRModel(nn.Module):
    """A super-resolution net built for one scale.

    `forward(lr)` maps `(N, 3, H, W)` float RGB in [0, 1] to `(N, 3, scale*H, scale*W)`, near [0, 1] but not clamped.
    Padding to `multiple_of`, cropping, clamping, tiling and self-ensembling happen once, outside the net.
    A net never downloads, prints, seeds or sets a global flag.
    """

    scales: ClassVar[tuple[int, ...]]
    """The scales the net can be built for."""
    needs_ref: ClassVar[bool] = False
    """Whether `forward` takes reference images too."""
    merges_refs: ClassVar[bool] = False
    """Whether the net has learned how to `merge` references."""
    merge_radius: ClassVar[int] = 0
    """Radius in low-resolution pixels beyond which `merge` sees nothing."""
    multiple_of: ClassVar[int] = 1
    """Input height and width must be multiples of this; the runner pads."""
    multi_scale: ClassVar[bool] = False
    """Whether one net serves all of `scales`: then `scale` can be set to any of them at any time."""
    luma_only: bool = False
    """Whether colour is only interpolated, so that there is nothing but luma to learn."""
    tileable: ClassVar[bool] = True
    """Whether a tile with a halo of `receptive_field` equals the same part of the whole."""

    config: Any
    """The numbers of this net: the dataclass it was built from."""
    scale_specific: ClassVar[tuple[str, ...]] = ("tail.",)
    """Beginnings of the names of the weights that another scale cannot start from."""
    foldable: ClassVar[bool] = False
    """Whether the upsampling tail is linear, so that `forward_folded` exists."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    @property
    def receptive_field(self) -> int:
        """Radius in low-resolution pixels beyond which an input pixel cannot change an output pixel."""
        raise NotImplementedError

    def forward(self, lr: Tensor) -> Tensor:
        raise NotImplementedError

    def forward_folded(self, lr: Tensor) -> Tensor:
        """`forward` with the linear tail folded into one convolution: equal but for the outermost `scale` pixels."""
        raise NotImplementedError

    def merge(self, offer: Offer) -> tuple[Tensor, Tensor]:
        """The detail to be added to `offer.base` (N, 3, scale*h, scale*w), and how far it is trusted, in [0, 1]
        (N, 1, scale*h, scale*w). A net that has not learned it takes the detail as it is, trusted by formula."""
        return offer.detail, gate(offer)

    def start_from(self, source: "SRModel", name: str) -> None:
        """Copies the weights of `source`, called `name` in messages; of a net for another scale all but those that
        belong to its scale. Raises BadSetting for a net of other numbers."""
        if source.config != self.config:
            raise BadSetting(f"{name} is another net: {source.config}, not {self.config}")
        left_out = () if source.scale == self.scale else self.scale_specific
        weights = {name: value for name, value in source.state_dict().items() if not name.startswith(left_out)}
        self.load_state_dict(weights, strict=not left_out)
