"""What a net is taught: examples, and how far its answers are from the truth."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from refsr_cli.config import TrainConfig
from refsr_cli.data.photos import PhotoSet
from refsr_cli.models import SRModel
from refsr_cli.training.offers import OfferSet

_SAFETY = 0.5
"""Weight of the loss for being further from the truth than without references."""


class Lesson(Protocol):
    """One way to teach."""

    def forward(self, model: SRModel) -> Callable[..., Any]:
        """The function of the net that is trained: what may be compiled, and runs in lower precision."""
        ...

    def loss(self, forward: Callable[..., Any], generator: torch.Generator) -> Tensor:
        """The loss on examples drawn with `generator`, a CPU generator."""
        ...


class Enlarging:
    """Photos and their low-resolution pictures; mean absolute error."""

    def __init__(self, photos: PhotoSet, config: TrainConfig) -> None:
        self.photos, self.config = photos, config

    def forward(self, model: SRModel) -> Callable[..., Any]:
        return model.forward_folded if self.config.fold_tail else model.forward

    def loss(self, forward: Callable[..., Any], generator: torch.Generator) -> Tensor:
        lr, hr = self.photos.batch(self.config.batch, generator, self.config.candidates)
        sr = forward(lr.to(memory_format=torch.channels_last)).float()
        border = self.config.scale if self.config.fold_tail else 0
        inside = slice(border, hr.shape[-1] - border)
        loss: Tensor = F.l1_loss(sr[..., inside, inside], hr[..., inside, inside])
        return loss


class Merging:
    """Prepared offers; mean absolute error, and what is worse than without references counts more."""

    def __init__(self, offers: OfferSet, config: TrainConfig) -> None:
        self.offers, self.config = offers, config

    def forward(self, model: SRModel) -> Callable[..., Any]:
        return model.merge

    def loss(self, forward: Callable[..., Any], generator: torch.Generator) -> Tensor:
        offer, hr = self.offers.batch(self.config.batch, generator)
        detail, trust = forward(offer)
        error = (offer.base + trust.float() * detail.float() - hr).abs()
        worse = (error - (offer.base - hr).abs()).clamp(min=0)
        loss: Tensor = error.mean() + _SAFETY * worse.mean()
        return loss
