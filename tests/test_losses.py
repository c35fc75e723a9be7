"""Losses by expression: what they are of, what they refuse, and that critics learn."""

import copy
import math
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.models import vgg19

from refsr_cli.data.benchmarks import trial_photos
from refsr_cli.errors import BadSetting, BadWeights, UnknownName
from refsr_cli.images import read_rgb8
from refsr_cli.layers.colour import to_ycbcr
from refsr_cli.layers.critic import CRITICS
from refsr_cli.layers.vgg import VGGFeatures
from refsr_cli.losses import ADVERSARIAL, FEATURES, PIXELS, Adversary, Objective, Term, parse_loss

CPU = torch.device("cpu")
EVERY = (*PIXELS, *FEATURES, "GAN")


@pytest.fixture
def hr() -> torch.Tensor:
    """Two real crops, (2, 3, 32, 32)."""
    photo = read_rgb8(trial_photos().folder / "kodim23.png").float() / 255
    return torch.stack([photo[:, 100:132, 100:132], photo[:, 200:232, 300:332]])


@pytest.fixture
def sr(hr) -> torch.Tensor:
    """The same, blurred."""
    return nn.functional.avg_pool2d(hr, 3, 1, 1)


@given(st.lists(st.tuples(st.floats(1e-6, 1e6), st.sampled_from(EVERY)), min_size=1, unique_by=lambda term: term[1]))
def test_a_sum_is_read_as_it_is_written(terms):
    assert parse_loss(" + ".join(f"{weight!r}*{name}" for weight, name in terms if "e+" not in repr(weight))) == tuple(
        Term(weight, name) for weight, name in terms
    )


def test_a_name_alone_counts_once():
    assert parse_loss("L1+0.1*VGG54+5e-3*GAN") == (Term(1, "L1"), Term(0.1, "VGG54"), Term(0.005, "GAN"))


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("", "unknown loss ''"),
        ("L3", "unknown loss 'L3'"),
        ("0*L1", "weights are above 0"),
        ("-1*L1", "weights are above 0"),
        ("inf*L1", "weights are above 0"),
        ("x*L1", "weights are above 0"),
        ("L1+", "unknown loss ''"),
        ("L1+2*L1", "twice"),
        ("GAN+RGAN", "two adversarial"),
    ],
)
def test_what_is_no_loss(expression, said):
    with pytest.raises((BadSetting, UnknownName), match=said.replace("'", ".")):
        parse_loss(expression)


def take(expression: str, sr: torch.Tensor, hr: torch.Tensor, **options) -> dict[str, torch.Tensor]:
    objective = Objective(expression, CPU, sides=[hr.shape[-1]], **options)
    return objective(sr, hr, 1e-4, torch.Generator().manual_seed(0))


def test_losses_of_values(sr, hr):
    error = (sr - hr).double().numpy()
    found = take("2*L1+0.5*MSE+Charbonnier", sr, hr)
    wanted = {
        "L1": 2 * np.abs(error).mean(),
        "MSE": 0.5 * (error**2).mean(),
        "Charbonnier": np.sqrt(error**2 + 1e-6).mean(),
    }
    assert {name: float(term) for name, term in found.items()} == pytest.approx(wanted, rel=1e-5)


def test_a_net_of_luma_is_judged_by_luma(sr, hr):
    luma = to_ycbcr(hr)[:, :1]
    tinted = hr + torch.tensor([1.0, 0.0, -65.481 / 24.966]).view(1, 3, 1, 1) * 0.01  # its luma is the same
    assert float(take("L1", tinted, hr, luma_only=True)["L1"]) < 1e-6 < float(take("L1", tinted, hr)["L1"])
    assert float(take("MSE", sr, hr, luma_only=True)["MSE"]) == pytest.approx(
        float((to_ycbcr(sr)[:, :1] - luma).square().mean()), rel=1e-5
    )


@pytest.fixture
def vgg(tmp_path, monkeypatch) -> nn.Module:
    """The convolutions of a VGG-19 of random weights, where torch keeps the trained ones."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with torch.device("meta"):
        features = vgg19(init_weights=False).features
    for parameter in features.to_empty(device="cpu").parameters():
        nn.init.kaiming_normal_(parameter) if parameter.ndim > 1 else nn.init.uniform_(parameter, -0.1, 0.1)
    cache = tmp_path / "hub/checkpoints"
    cache.mkdir(parents=True)
    torch.save({f"features.{key}": value for key, value in features.state_dict().items()}, cache / "vgg19-dcbb9e9d.pth")
    return features.eval().requires_grad_(False)


def test_features_are_those_before_the_activation(vgg, sr, hr):
    """`VGG54` is the fourth convolution after the fourth pooling, counted in torchvision's own net."""

    def features(x: torch.Tensor, layer: tuple[int, int]) -> torch.Tensor:
        x = (x - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
            1, 3, 1, 1
        )
        block, number = 1, 0
        for module in vgg:
            x = module(x)
            number += isinstance(module, nn.Conv2d)
            if isinstance(module, nn.Conv2d) and (block, number) == layer:
                return x
            if isinstance(module, nn.MaxPool2d):
                block, number = block + 1, 0
        raise LookupError(layer)

    found = take("0.1*VGG22+VGG54+1e-2*VGG51", sr, hr)
    for name, layer, weight in (("VGG22", (2, 2), 0.1), ("VGG54", (5, 4), 1.0)):
        wanted = weight * (features(sr, layer) - features(hr, layer)).square().mean()
        assert float(found[name]) == pytest.approx(float(wanted), rel=1e-4)
    of_c2 = features(sr, (5, 1)).relu() - features(hr, (5, 1)).relu()  # after the activation, over the whole batch
    assert float(found["VGG51"]) == pytest.approx(1e-2 * float(of_c2.square().sum().sqrt()), rel=1e-4)
    assert (features(hr, (5, 4)) < 0).any() and (VGGFeatures("conv5_4")(hr) < 0).any()
    wrong = sr.clone().requires_grad_()
    take("VGG54", wrong, hr)["VGG54"].backward()
    assert wrong.grad is not None and wrong.grad.abs().max() > 0


def test_features_that_cannot_be_had(tmp_path, monkeypatch):
    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(BadWeights, match=r"cannot be fetched .* \(no network\); put the file there, or leave VGG out"):
        take("VGG54", torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32))
    cached: Path = tmp_path / "hub/checkpoints/vgg19-dcbb9e9d.pth"
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.write_bytes(b"not a file of weights")
    with pytest.raises(BadWeights, match="is damaged"):
        take("VGG54", torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32))
    torch.save({"other": torch.zeros(1)}, cached)
    with pytest.raises(BadWeights, match="is not VGG-19"):
        take("VGG54", torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("kind", ADVERSARIAL)
@pytest.mark.parametrize("critic", [name for name in CRITICS if name != "srntt-published"])  # sees no whole batch
def test_a_critic_learns_to_tell(kind, critic, sr, hr):
    """And a picture that follows what the critic says is judged better."""
    objective = Objective(kind, CPU, sides=[32], critic=critic)
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        objective(sr, hr, 1e-4, generator)
    assert objective._adversary is not None
    judge = objective._adversary.critic
    before = [parameter.clone() for parameter in judge.parameters()]
    assert judge(hr).mean() > judge(sr).mean()
    better = sr.clone().requires_grad_()
    told = objective._adversary.loss(better, hr)
    told.backward()
    assert better.grad is not None
    assert objective._adversary.loss(sr - 1e-4 * better.grad.sign(), hr) < told  # a short step, as normalisation bends
    assert all(torch.equal(now, then) for now, then in zip(judge.parameters(), before, strict=True))


class Slope(nn.Module):
    """A critic whose answer is known: a weighted sum."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weight


def test_adversarial_losses_are_those_of_their_papers(sr, hr):
    critic = Slope(sr[0].numel())
    fake, real = critic(sr), critic(hr)
    softplus = nn.functional.softplus
    norm = critic.weight.norm()
    wanted = {  # the critic's, and the net's
        "GAN": (softplus(-real).mean() + softplus(fake).mean(), softplus(-fake).mean()),
        "RGAN": (
            softplus(-(real - fake.mean())).mean() + softplus(fake - real.mean()).mean(),
            (softplus(real - fake.mean()).mean() + softplus(-(fake - real.mean())).mean()) / 2,
        ),
        "WGAN_GP": (fake.mean() - real.mean() + 10 * (norm - 1) ** 2, -fake.mean()),
    }
    for kind, (of_critic, of_net) in wanted.items():
        adversary = Adversary(kind, critic, lambda module: None)
        found = adversary._critic_loss(sr, hr)
        if kind == "WGAN_GP":
            found = found + 10 * adversary._gradient_penalty(sr, hr, torch.Generator())
        torch.testing.assert_close(found, of_critic)
        torch.testing.assert_close(adversary.loss(sr, hr), of_net)


def test_a_critic_goes_on_where_it_was(sr, hr):
    def steps(objective: Objective, generator: torch.Generator, count: int) -> float:
        return [float(objective(sr, hr, 1e-4, generator)["WGAN_GP"]) for _ in range(count)][-1]

    torch.manual_seed(0)
    whole, generator = Objective("WGAN_GP", CPU, sides=[32]), torch.Generator().manual_seed(0)
    steps(whole, generator, 2)
    state, where = whole.state_dict(), generator.get_state()
    state = copy.deepcopy(state)
    later = steps(whole, generator, 2)
    again, generator = Objective("WGAN_GP", CPU, sides=[32]), torch.Generator()
    again.load_state_dict(state)
    generator.set_state(where)
    assert steps(again, generator, 2) == later
    assert math.isfinite(later)


@pytest.mark.parametrize("kind", ["GAN", "RGAN"])
def test_a_critic_of_probabilities_is_for_the_loss_it_was_published_with(kind):
    with pytest.raises(BadSetting, match="gives probabilities, for WGAN_GP"):
        Objective(kind, CPU, sides=[32], critic="srntt-published")


def test_critics_that_are_not_there():
    with pytest.raises(UnknownName, match="unknown critic 'pixel'"):
        Objective("GAN", CPU, sides=[32], critic="pixel")


def test_the_critic_of_the_reference_nets_has_the_published_size():
    """SRNTT's ImageDiscriminator: 5,242,529 parameters, for pictures of any size."""
    critic = CRITICS["srntt"]([160, 96], True)
    assert sum(parameter.numel() for parameter in critic.parameters()) == 5_242_529
    assert critic(torch.rand(2, 3, 40, 56)).shape == (2, 1)
