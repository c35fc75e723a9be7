"""Training losses, written as the field writes them: `1*L1+0.1*VGG54+0.005*GAN`."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refsr_cli.errors import BadSetting, UnknownName
from refsr_cli.layers.colour import to_ycbcr
from refsr_cli.layers.critic import CRITICS
from refsr_cli.layers.vgg import SMALLEST, VGGFeatures

Compared = Callable[[Tensor, Tensor], Tensor]
"""From sr and hr, (N, 3, H, W) each, to one number."""

PIXELS: Mapping[str, Compared] = {
    "L1": F.l1_loss,
    "MSE": F.mse_loss,
    "Charbonnier": lambda sr, hr: ((sr - hr).square() + 1e-6).sqrt().mean(),
}
"""Losses of single values; of the luma alone where a net makes nothing else."""
FEATURES = {"VGG22": "conv2_2", "VGG54": "conv5_4", "VGG51": "relu5_1"}
"""How far what VGG-19 makes of both in these layers is apart. The first two are mean squared differences: Ledig et al.
2017, but before the activation, as later work has it (Wang et al., "ESRGAN", 2018). The last is that of C2-Matching and
DATSR: after the activation, and the length of the difference over the whole batch."""
_MEANS = ("VGG22", "VGG54")
"""Those of them that are means over the pictures."""
ADVERSARIAL = ("GAN", "RGAN", "WGAN_GP")
"""Goodfellow et al. 2014; relativistic average, Jolicoeur-Martineau 2018; Wasserstein with gradient penalty, Gulrajani
et al. 2017."""
_PENALTY = 10.0
"""Weight of the gradient penalty."""


@dataclass(frozen=True)
class Term:
    """One summand of a loss."""

    weight: float
    name: str


def parse_loss(expression: str) -> tuple[Term, ...]:
    """`0.5*L1+GAN` to its terms. Raises BadSetting for what is no such sum, and UnknownName."""
    terms = []
    for summand in expression.replace(" ", "").split("+"):
        factor, star, name = summand.rpartition("*")
        try:
            weight = float(factor) if star else 1.0
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise BadSetting(f"--loss is a sum such as 1*L1+0.1*VGG54, not '{expression}'; weights are above 0")
        if name not in (*PIXELS, *FEATURES, *ADVERSARIAL):
            raise UnknownName("loss", name, (*PIXELS, *FEATURES, *ADVERSARIAL))
        terms.append(Term(weight, name))
    names = [term.name for term in terms]
    if len(set(names)) < len(names) or len(set(names) & set(ADVERSARIAL)) > 1:
        raise BadSetting(f"--loss '{expression}' names a loss twice, or two adversarial ones; each can be there once")
    return tuple(terms)


def pixel_loss_of(expression: str, *, luma_only: bool) -> Compared | None:
    """The weighted sum of the terms in PIXELS alone; None where there is none."""
    terms = [term for term in parse_loss(expression) if term.name in PIXELS]
    if not terms:
        return None
    return lambda sr, hr: torch.stack([term.weight * _of_pixels(term.name, sr, hr, luma_only) for term in terms]).sum()


def _of_pixels(name: str, sr: Tensor, hr: Tensor, luma_only: bool) -> Tensor:
    pair = (to_ycbcr(sr)[:, :1], to_ycbcr(hr)[:, :1]) if luma_only else (sr, hr)
    return PIXELS[name](*pair)


class Objective:
    """A loss ready to be taken, with the critic that an adversarial term trains beside the net."""

    def __init__(
        self,
        expression: str,
        device: torch.device,
        *,
        sides: Sequence[int],
        critic: str = "srgan",
        luma_only: bool = False,
        share: Callable[[nn.Module], None] = lambda module: None,
    ) -> None:
        """`sides` that the pictures compared may have, `critic` a name in CRITICS. `share` averages the gradients of a
        module over the processes that train together. Raises what `parse_loss` raises, BadSetting for pictures that are
        too small for a term, and BadWeights where VGG's weights cannot be had."""
        self.terms = parse_loss(expression)
        self.luma_only = luma_only
        for term in self.terms:
            if term.name in FEATURES and min(sides) < SMALLEST[FEATURES[term.name]]:
                wanted = SMALLEST[FEATURES[term.name]]
                raise BadSetting(f"{term.name} needs crops of {wanted} pixels, not {min(sides)}; give a larger --patch")
        self._features = {
            term.name: VGGFeatures(FEATURES[term.name]).to(device) for term in self.terms if term.name in FEATURES
        }
        self._adversary: Adversary | None = None
        kind = next((term.name for term in self.terms if term.name in ADVERSARIAL), None)
        if kind:
            if critic not in CRITICS:
                raise UnknownName("critic", critic, CRITICS)
            if critic == "srntt-published" and kind != "WGAN_GP":
                raise BadSetting(
                    f"--critic {critic} gives probabilities, for WGAN_GP as published; {kind} needs logits"
                )
            normed = kind != "WGAN_GP"  # the penalty is of single pictures, which normalisation would mix
            self._adversary = Adversary(kind, CRITICS[critic](sides, normed).to(device), share)

    @property
    def is_mean(self) -> bool:
        """Whether the loss of a batch is the mean of those of its pictures, so that it can be taken in pieces."""
        return all(term.name in (*PIXELS, *_MEANS) for term in self.terms)

    def __call__(
        self, sr: Tensor, hr: Tensor, learning_rate: float, generator: torch.Generator, *, pixels_only: bool = False
    ) -> dict[str, Tensor]:
        """The weighted terms by name, of float (N, 3, H, W) in [0, 1]. A critic is first trained on them for a step at
        `learning_rate`, with random numbers of `generator`, a CPU generator. With `pixels_only` it is not, and the
        terms that are not in PIXELS are 0."""
        if pixels_only:
            nothing = sr.new_zeros(())
            return {
                term.name: term.weight * self._term(term.name, sr, hr) if term.name in PIXELS else nothing
                for term in self.terms
            }
        if self._adversary:
            self._adversary.learn(sr.detach(), hr, learning_rate, generator)
        return {term.name: term.weight * self._term(term.name, sr, hr) for term in self.terms}

    def _term(self, name: str, sr: Tensor, hr: Tensor) -> Tensor:
        if name in PIXELS:
            return _of_pixels(name, sr, hr, self.luma_only)
        if name in FEATURES:
            features = self._features[name]
            with torch.no_grad():
                wanted = features(hr)
            if name == "VGG51":
                length: Tensor = torch.linalg.vector_norm(features(sr) - wanted)
                return length
            return F.mse_loss(features(sr), wanted)
        assert self._adversary is not None
        return self._adversary.loss(sr, hr)

    def state_dict(self) -> dict[str, Any]:
        """What changes while training."""
        return self._adversary.state_dict() if self._adversary else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises what torch raises for the state of another critic."""
        if self._adversary:
            self._adversary.load_state_dict(state)


class Adversary:
    """A critic with its optimiser."""

    def __init__(self, kind: str, critic: nn.Module, share: Callable[[nn.Module], None]) -> None:
        self.kind, self.critic, self.share = kind, critic.train(), share
        self.optimizer = torch.optim.Adam(critic.parameters(), lr=1e-4)

    def learn(self, sr: Tensor, hr: Tensor, learning_rate: float, generator: torch.Generator) -> None:
        """A step of the critic."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        loss = self._critic_loss(sr, hr)
        if self.kind == "WGAN_GP":
            loss = loss + _PENALTY * self._gradient_penalty(sr, hr, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.share(self.critic)
        self.optimizer.step()

    def _critic_loss(self, sr: Tensor, hr: Tensor) -> Tensor:
        fake, real = self._judge(sr), self._judge(hr)
        if self.kind == "WGAN_GP":
            return fake.mean() - real.mean()
        if self.kind == "RGAN":
            fake, real = fake - real.mean(), real - fake.mean()
        return _cross_entropy(real, 1.0) + _cross_entropy(fake, 0.0)

    def _judge(self, pictures: Tensor) -> Tensor:
        answer: Tensor = self.critic(pictures)
        return answer

    def loss(self, sr: Tensor, hr: Tensor) -> Tensor:
        """What the net is told by the critic, which itself learns nothing from it."""
        self.critic.requires_grad_(False)
        told = self._net_loss(sr, hr)
        self.critic.requires_grad_(True)
        return told

    def _net_loss(self, sr: Tensor, hr: Tensor) -> Tensor:
        fake = self._judge(sr)
        if self.kind == "WGAN_GP":
            return -fake.mean()
        if self.kind == "GAN":
            return _cross_entropy(fake, 1.0)
        real = self._judge(hr)
        return (_cross_entropy(real - fake.mean(), 0.0) + _cross_entropy(fake - real.mean(), 1.0)) / 2

    def _gradient_penalty(self, sr: Tensor, hr: Tensor, generator: torch.Generator) -> Tensor:
        """How far the slope of the critic is from 1, at a random place between each picture and its truth."""
        between = torch.rand(len(hr), 1, 1, 1, generator=generator).to(hr.device)
        mixed = (sr + between * (hr - sr)).requires_grad_()
        (slope,) = torch.autograd.grad(self._judge(mixed).sum(), mixed, create_graph=True)
        penalty: Tensor = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        return penalty

    def state_dict(self) -> dict[str, Any]:
        return {"critic": self.critic.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.critic.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(state["optimizer"])


def _cross_entropy(answer: Tensor, truth: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(answer, torch.full_like(answer, truth))
