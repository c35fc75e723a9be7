"""What references offer to a picture: the detail in them that a net cannot know, and how sure it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from refsr_cli.layers.resample import downscale
from refsr_cli.reference.transfer import Shown

Quality = tuple[float, float, float]
"""JPEG's steps in units of those of libjpeg's quality 50, σ of the noise in units of 10 levels of 255, σ of the blur in
pixels."""
CLEAN: Quality = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Offer:
    """All that is known where references are merged with what a net made alone.   h x w low-resolution pixels"""

    lr: Tensor
    """(N, 3, h, w) the picture."""
    base: Tensor
    """(N, 3, scale*h, scale*w) what the net makes of it alone."""
    detail: Tensor
    """(N, 3, scale*h, scale*w) what the net misses on the references as they are shown here: to be added to `base`."""
    own: Tensor
    """(N, 3, scale*h, scale*w) what the pixel's own match shows beyond the mean of the votes."""
    variance: Tensor
    """(N, 1, scale*h, scale*w) disagreement of the votes."""
    score: Tensor
    """(N, 1, h, w) correlation of the match."""
    misfit: Tensor
    """(N, 3, h, w) the references shown here, shrunk, minus the picture."""
    quality: Tensor
    """(N, 3, h, w) how degraded the picture was before it was restored, a `Quality` everywhere."""

    @property
    def scale(self) -> int:
        return self.base.shape[-1] // self.lr.shape[-1]


def offered(
    run: Callable[[Tensor], Tensor],
    lr: Tensor,
    shown: Shown,
    qualities: Sequence[Quality] = (CLEAN,),
    alike: Tensor | None = None,
) -> Offer:
    """What references that are `shown` offer to `lr` (N, 3, h, w) and the net `run`: it enlarges them too, shrunk, and
    the difference to what they were is the detail it cannot know. Where pictures were degraded, by one of the
    `qualities` each, and restored, so is `alike` (N, 3, h, w), the shrunk references: the detail is then all that this
    took, too."""
    shrunk = downscale(shown.mean, shown.mean.shape[-1] // lr.shape[-1])
    return Offer(
        lr=lr,
        base=run(lr),
        detail=shown.mean - run(shrunk.clamp(0, 1) if alike is None else alike),
        own=shown.own - shown.mean,
        variance=shown.variance,
        score=shown.score,
        misfit=shrunk - lr,
        quality=lr.new_tensor(qualities).view(-1, 3, 1, 1).expand(len(lr), -1, *lr.shape[-2:]),
    )
