"""What a net is taught: examples, and how far its answers are from the truth."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from refsr_cli.config import TrainConfig
from refsr_cli.errors import BadSetting
from refsr_cli.inference.memory import trained_bytes_per_pixel
from refsr_cli.losses import Objective
from refsr_cli.models import SRModel
from refsr_cli.training.group import Group
from refsr_cli.training.offers import OfferSet
from refsr_cli.training.optimizers import learning_rate_at
from refsr_cli.training.photos import DegradedExamples, Examples

_SAFETY = 0.5
"""Weight of the loss for being further from the truth than without references."""
_WHOLE_BYTES, _PIECE_BYTES = 2**30, 400 * 2**20
"""Of what the layers give for a batch that a CPU takes at once, and for a piece of a larger one: a piece of the largest
EDSR takes some seconds."""

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

    @property
    def pieces(self) -> int:
        """Into how many pieces a batch is divided, whose gradients add up."""
        ...

    def forward(self, model: SRModel) -> Callable[..., Any]:
        """The function of the net that is trained: what may be compiled, and runs in lower precision."""
        ...

    def losses(self, forward: Callable[..., Any], generator: torch.Generator, step: int) -> Iterator[dict[str, Tensor]]:
        """The terms of the loss by name, on examples drawn with `generator`, a CPU generator: of each piece of a batch,
        so weighted that they add up to the loss of the whole, where `step` steps were made before."""
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
        divisible = self._objective.is_mean and not any(isinstance(module, _BatchNorm) for module in model.modules())
        self._at_once = crops_at_once(config, model, group.device, divisible=divisible)
        own = group.part(config.batch)
        self.pieces = -(-len(range(config.batch)[own]) // self._at_once)

    @property
    def unusable(self) -> int:
        return self.examples.unusable

    def forward(self, model: SRModel) -> Callable[..., Any]:
        return model.forward_folded if self.config.fold_tail else model.forward

    def losses(self, forward: Callable[..., Any], generator: torch.Generator, step: int) -> Iterator[dict[str, Tensor]]:
        if self.model.multi_scale:
            self.model.scale = self.model.scales[int(torch.randint(len(self.model.scales), (), generator=generator))]
        scale = self.model.scale
        lr, hr = self.examples.draw(scale, generator)
        border = scale * self.config.fold_tail
        inside = slice(border, hr.shape[-1] - border)
        config, pixels_only = self.config, step < self.config.pixels_first
        for small, large in zip(lr.split(self._at_once), hr.split(self._at_once), strict=True):
            sr = forward(small.to(memory_format=torch.channels_last)).float()
            sr, truth = sr[..., inside, inside], large[..., inside, inside]
            terms = self._objective(sr, truth, learning_rate_at(step, config), generator, pixels_only=pixels_only)
            yield {name: term * (len(small) / len(lr)) for name, term in terms.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"objective": self._objective.state_dict(), "examples": self.examples.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._objective.load_state_dict(state["objective"])
        self.examples.load_state_dict(state["examples"])

    def close(self) -> None:
        self.examples.close()


def crops_at_once(config: TrainConfig, model: SRModel, device: torch.device, *, divisible: bool) -> int:
    """How many crops of a batch go through `model` at once: all, but on a CPU only some where all would take a
    gigabyte or more. Raises BadSetting for a `--micro-batch` of a loss that needs the whole batch."""
    if config.micro_batch is not None:
        if not divisible:
            raise BadSetting("--micro-batch is for losses of single pictures and nets without batch norm; leave it out")
        return config.micro_batch
    if device.type != "cpu" or not divisible:
        return config.batch
    crop_bytes = trained_bytes_per_pixel(model) * config.patch**2
    return config.batch if config.batch * crop_bytes <= _WHOLE_BYTES else max(1, int(_PIECE_BYTES / crop_bytes))


class RestorationTask:
    """Shrunk photos, degraded; a net that keeps the size removes that again.

    The loss is the mean logarithm of each crop's mean squared error, so PSNR, with a floor. A mean absolute error has
    its gradient's full size where nothing is wrong, and keeps the net at the identity; a mean squared error counts
    little but the worst crops.
    """

    pieces = 1

    def __init__(self, examples: DegradedExamples) -> None:
        self.examples = examples

    @property
    def unusable(self) -> int:
        return self.examples.unusable

    def forward(self, model: SRModel) -> Callable[..., Any]:
        return model.forward

    def losses(self, forward: Callable[..., Any], generator: torch.Generator, step: int) -> Iterator[dict[str, Tensor]]:
        scale = SHRUNK[int(torch.randint(len(SHRUNK), (), generator=generator))]
        crops = self.examples.draw_crops(scale, generator)
        restored = forward(crops.lr.contiguous(memory_format=torch.channels_last)).float()
        error = (restored - crops.clean).square().mean((1, 2, 3))
        yield {"log MSE": (error / _FLOOR + 1).log().mean()}

    def state_dict(self) -> dict[str, Any]:
        return {"examples": self.examples.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.examples.load_state_dict(state["examples"])

    def close(self) -> None:
        self.examples.close()


class Merging:
    """Prepared offers; mean absolute error, and what is worse than without references counts more."""

    pieces = 1

    def __init__(self, offers: OfferSet, config: TrainConfig, group: Group) -> None:
        self.offers, self.config, self.part = offers, config, group.part(config.batch)

    @property
    def unusable(self) -> int:
        return 0  # each was made beforehand

    def forward(self, model: SRModel) -> Callable[..., Any]:
        return model.merge

    def losses(self, forward: Callable[..., Any], generator: torch.Generator, step: int) -> Iterator[dict[str, Tensor]]:
        offer, hr = self.offers.batch(self.config.batch, generator, self.part, augment=self.config.augment)
        detail, trust = forward(offer)
        error = (offer.base + trust.float() * detail.float() - hr).abs()
        worse = (error - (offer.base - hr).abs()).clamp(min=0)
        yield {"L1": error.mean(), "worse": _SAFETY * worse.mean()}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass
