"""The contract every net keeps."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from refsr_cli.errors import BadSetting
from refsr_cli.layers.folding import apply_folded, fold_tail
from refsr_cli.reference.offer import Offer
from refsr_cli.reference.trust import gate


class Guide(Protocol):
    """What a net that needs references knows of them, for a picture or a part of it."""

    def crop(self, top: int, left: int, bottom: int, right: int) -> "Guide":
        """The part for low-resolution pixels `top` <= row < `bottom`, `left` <= column < `right`."""
        ...

    def padded(self, bottom: int, right: int) -> "Guide":
        """For a picture continued below and to the right by so many low-resolution pixels."""
        ...

    def shares(self, count: int) -> list[tuple[float, float | None]]:
        """For each of `count` references the part of the picture for which it was looked at, and how like it was there,
        where that is known."""
        ...

    @property
    def held_bytes(self) -> int:
        """What it keeps in memory."""
        ...


def merge_by_formula(offer: Offer) -> tuple[Tensor, Tensor]:
    """`SRModel.merge` where nothing was learned."""
    return offer.detail, gate(offer)


class SRModel(nn.Module):
    """A super-resolution net built for one scale.

    `forward(lr)` maps `(N, 3, H, W)` float RGB in [0, 1] to `(N, 3, scale*H, scale*W)`, near [0, 1] but not clamped.
    Padding to `multiple_of`, cropping, clamping, tiling and self-ensembling happen once, outside the net.
    A net never downloads, prints, seeds or sets a global flag.
    """

    scales: ClassVar[tuple[int, ...]]
    """The scales the net can be built for."""
    needs_ref: ClassVar[bool] = False
    """Whether `forward` takes what `look` gives too."""
    most_references: ClassVar[int | None] = None
    """How many references `look` has a use for; None is any number."""
    merges_refs: ClassVar[bool] = False
    """Whether the net has learned how to `merge` references."""
    merges_degraded: bool = False
    """Whether what was learned is also for pictures that were degraded; else these are merged by formula."""
    merge_radius: ClassVar[int] = 0
    """Radius in low-resolution pixels beyond which `merge` sees nothing."""
    multiple_of: ClassVar[int] = 1
    """Input height and width must be multiples of this; the runner pads."""
    multi_scale: ClassVar[bool] = False
    """Whether one net serves all of `scales`: then `scale` can be set to any of them at any time."""
    slower: ClassVar[Mapping[str, float]] = {}
    """Parts of the names of weights that learn more slowly, and by how much; the first that fits counts."""
    luma_only: bool = False
    """Whether colour is only interpolated, so that there is nothing but luma to learn."""
    restores: ClassVar[bool] = False
    """Whether it keeps the size, scale 1, and removes what degraded a picture."""
    interpolates: ClassVar[bool] = False
    """Whether it is there to be compared with, and its result is left as it is."""
    tileable: ClassVar[bool] = True
    """Whether a tile with a halo of `receptive_field` equals the same part of the whole."""

    config: Any
    """The numbers of this net: the dataclass it was built from."""
    scale_specific: ClassVar[tuple[str, ...]] = ("tail.",)
    """Beginnings of the names of the weights that belong to a scale: of a net for another one those are taken whose
    shape is the same, as EDSR's authors do from x2 to x3 and x4."""
    foldable: ClassVar[bool] = False
    """Whether `forward` is `body_output` and then `expand`, which is affine, so that `expand` can be folded."""

    dense_parts: ClassVar[tuple[str, ...]] = ()
    """Names of the submodules, each called as (N, C, H, W) -> (N, D, H, W), whose convolutions can be fused with what
    is around them: they hold dense convolutions, activations and sums, and do the same whatever the input."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    @property
    def receptive_field(self) -> int:
        """Radius in low-resolution pixels beyond which an input pixel cannot change an output pixel."""
        raise NotImplementedError

    def forward(self, lr: Tensor) -> Tensor:
        raise NotImplementedError

    def look(self, lr: Tensor, references: Sequence[Tensor], memory: int | None = None) -> Guide:
        """For a net that `needs_ref`: what it is to know of `references` (N, 3, H', W'), of any sizes and number, to
        enlarge a whole picture (N, 3, H, W); without one the picture is its own reference. Its parts go to `forward`
        with the same parts of the picture. Of features about `memory` bytes are held, all of them when None."""
        raise NotImplementedError

    def body_output(self, lr: Tensor) -> Tensor:
        """Of a `foldable` net all but what enlarges.   (N, 3, H, W) -> (N, F, H, W)"""
        raise NotImplementedError

    def expand(self, x: Tensor) -> Tensor:
        """Of a `foldable` net what enlarges, which is affine.   (N, F, H, W) -> (N, 3, scale*H, scale*W)"""
        raise NotImplementedError

    def folded(self, features: int) -> tuple[Tensor, Tensor]:
        """The weight and bias of `expand` as one convolution of so many `features`; `apply_folded` takes them."""
        return fold_tail(self.expand, features, self.scale, next(self.parameters()))

    def forward_folded(self, lr: Tensor) -> Tensor:
        """`forward` with `expand` folded into one convolution: equal but for the outermost `BORDER` low-resolution
        pixels."""
        x = self.body_output(lr)
        return apply_folded(*self.folded(x.shape[1]), x, self.scale)

    def merge(self, offer: Offer) -> tuple[Tensor, Tensor]:
        """The detail to be added to `offer.base` (N, 3, scale*h, scale*w), and how far it is trusted, in [0, 1]
        (N, 1, scale*h, scale*w). A net that has not learned it takes the detail as it is, trusted by formula."""
        return merge_by_formula(offer)

    def merged(self) -> "SRModel":
        """The same net in as few layers as it takes to run it: itself, where training it takes no others."""
        return self

    def start_from(self, source: "SRModel", name: str, *, partly: bool = False) -> str:
        """Copies the weights of `source`, called `name` in messages: all of them, of those that belong to another scale
        the ones that fit; or `partly` those of any net that have the name and the shape of ours. A line that says what
        was taken.

        Raises BadSetting for a net of other numbers, or where nothing fits.
        """
        own, theirs = self.state_dict(), source.state_dict()
        fits = {key for key, value in own.items() if key in theirs and theirs[key].shape == value.shape}
        if partly:
            taken = [key for key in own if key in fits]
            if not taken:
                raise BadSetting(f"{name} is another net: not one of its weights has the name and the shape of ours")
        elif source.config != self.config:
            raise BadSetting(
                f"{name} is another net: {source.config}, not {self.config}; --init-partly takes what fits"
            )
        else:
            scaled = () if source.scale == self.scale or self.multi_scale else self.scale_specific
            taken = [key for key in own if key in fits or not key.startswith(scaled)]
        self.load_state_dict({**own, **{key: theirs[key] for key in taken}})
        new = [key for key in own if key not in taken]
        shown = ", ".join(new[:4]) + (", …" if len(new) > 4 else "")
        return f"{len(taken)} of {len(own)} weights are those of {name}" + (f"; new are {shown}" if new else "")
