"""What a net is taught: examples, and how far its answers are from the truth."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from refsr_cli.config import TrainConfig
from refsr_cli.losses import Objective
from refsr_cli.models import SRModel
from refsr_cli.training.group import Group
from refsr_cli.training.offers import OfferSet
from refsr_cli.training.photos import DegradedExamples, Examples

_SAFETY = 0.5
"""Weight of the loss for being further from the truth than without references."""


SHRUNK = (2, 3, 4)
"""By how much photos are shrunk before they are degraded and restored: as sharp as what is enlarged later."""
_FLOOR = 1e-3
"""Mean squared error, 30 dB, below which a restored crop is as good as clean: enlarging it is about as wrong."""


class Lesson(Protocol):
    """One way to teach."""

    @property
    def unusable(self) -> int:
        """Examples that were wanted and could not be used."""
        ...

    def forward(self, model: SRModel) -> Callable[..., Any]:
        """The function of the net that is trained: what may be compiled, and runs in lower precision."""
        ...

    def losses(
        self, forward: Callable[..., Any], generator: torch.Generator, learning_rate: float
    ) -> dict[str, Tensor]:
        """The terms of the loss by name, on examples drawn with `generator`, a CPU generator."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What else changes while teaching."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        ...

    def close(self) -> None:
        """Ends what runs beside."""
        ...


class Enlarging:
    """Photos and their low-resolution pictures. A net for several scales is taught one of them at a time."""

    def __init__(self, examples: Examples, config: TrainConfig, model: SRModel, group: Group) -> None:
        """Raises what `Objective` raises."""
        scales = model.scales if model.multi_scale else (model.scale,)
        self.examples, self.config, self.model = examples, config, model
        self._objective = Objective(
            config.loss,
            group.device,
            sides=[scale * (config.patch - 2 * config.fold_tail) for scale in scales],  # its border is left out
            critic=config.critic,
            luma_only=model.luma_only,
            share=group.share,
        )

    @property
    def unusable(self) -> int:
        return self.examples.unusable

    def forward(self, model: SRModel) -> Callable[..., Any]:
        return model.forward_folded if self.config.fold_tail else model.forward

    def losses(
        self, forward: Callable[..., Any], generator: torch.Generator, learning_rate: float
    ) -> dict[str, Tensor]:
        if self.model.multi_scale:
            self.model.scale = self.model.scales[int(torch.randint(len(self.model.scales), (), generator=generator))]
        scale = self.model.scale
        lr, hr = self.examples.draw(scale, generator)
        sr = forward(lr.to(memory_format=torch.channels_last)).float()
        border = scale * self.config.fold_tail
        inside = slice(border, hr.shape[-1] - border)
        return self._objective(sr[..., inside, inside], hr[..., inside, inside], learning_rate, generator)

    def state_dict(self) -> dict[str, Any]:
        return {"objective": self._objective.state_dict(), "examples": self.examples.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._objective.load_state_dict(state["objective"])
        self.examples.load_state_dict(state["examples"])

    def close(self) -> None:
        self.examples.close()


class RestorationTask:
    """Shrunk photos, degraded; a net that keeps the size removes that again.

    The loss is the mean logarithm of each crop's mean squared error, so PSNR, with a floor. A mean absolute error has
    its gradient's full size where nothing is wrong, and keeps the net at the identity; a mean squared error counts
    little but the worst crops.
    """

    def __init__(self, examples: DegradedExamples) -> None:
        self.examples = examples

    @property
    def unusable(self) -> int:
        return self.examples.unusable

    def forward(self, model: SRModel) -> Callable[..., Any]:
        return model.forward

    def losses(
        self, forward: Callable[..., Any], generator: torch.Generator, learning_rate: float
    ) -> dict[str, Tensor]:
        scale = SHRUNK[int(torch.randint(len(SHRUNK), (), generator=generator))]
        crops = self.examples.draw_crops(scale, generator)
        restored = forward(crops.lr.contiguous(memory_format=torch.channels_last)).float()
        error = (restored - crops.clean).square().mean((1, 2, 3))
        return {"log MSE": (error / _FLOOR + 1).log().mean()}

    def state_dict(self) -> dict[str, Any]:
        return {"examples": self.examples.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.examples.load_state_dict(state["examples"])

    def close(self) -> None:
        self.examples.close()


class Merging:
    """Prepared offers; mean absolute error, and what is worse than without references counts more."""

    def __init__(self, offers: OfferSet, config: TrainConfig, group: Group) -> None:
        self.offers, self.config, self.part = offers, config, group.part(config.batch)

    @property
    def unusable(self) -> int:
        return 0  # each was made beforehand

    def forward(self, model: SRModel) -> Callable[..., Any]:
        return model.merge

    def losses(
        self, forward: Callable[..., Any], generator: torch.Generator, learning_rate: float
    ) -> dict[str, Tensor]:
        offer, hr = self.offers.batch(self.config.batch, generator, self.part)
        detail, trust = forward(offer)
        error = (offer.base + trust.float() * detail.float() - hr).abs()
        worse = (error - (offer.base - hr).abs()).clamp(min=0)
        return {"L1": error.mean(), "worse": _SAFETY * worse.mean()}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass
