"""The settings with which papers trained their nets: what `refsr train --recipe` starts from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from refsr_cli.errors import UnknownName


@dataclass(frozen=True)
class Recipe:
    """Fields of a `TrainConfig`, and where they are from."""

    source: str
    settings: Mapping[str, Any]
    goes_on: bool = False
    """Whether it begins with a net that was trained otherwise."""
    from_x2: bool = False
    """Whether nets for 3 and 4 begin with the one for 2, where that is there."""


_EDSR: dict[str, Any] = {
    "loss": "L1",
    "batch": 16,
    "patch": 48,
    "learning_rate": 1e-4,
    "schedule": "step",
    "decay": 0.5,
    "decay_every": 200_000,
    "steps": 300_000,
    "ema": 0.0,
    "skip_above": 10.0,
}
_LIM = "Lim et al. 2017, and its code; scales 3 and 4 from the weights for 2 where these are there"
_SRRESNET: dict[str, Any] = {"loss": "MSE", "learning_rate": 1e-4, "schedule": "constant", "ema": 0.0}
_SRDENSENET: dict[str, Any] = {
    "loss": "MSE",
    "batch": 32,
    "patch": 25,
    "learning_rate": 1e-4,
    "schedule": "step",
    "decay": 0.1,
    "decay_every": 46_875,
    "steps": 93_750,
    "ema": 0.0,
    "scale": 4,
}
_SSEN: dict[str, Any] = {
    "model": "ssen",
    "scale": 4,
    "batch": 32,
    "patch": 40,
    "steps": 100_000,
    "learning_rate": 1e-4,
    "schedule": "cosine",
    "loss": "Charbonnier",
    "ema": 0.0,
    "foreign": 0.0,
}
_C2: dict[str, Any] = {
    "scale": 4,
    "loss": "L1",
    "batch": 9,
    "patch": 40,
    "learning_rate": 1e-4,
    "schedule": "step",
    "decay": 0.1,
    "decay_at": (72_545, 211_040),
    "ema": 0.0,
    "foreign": 0.0,
}
_MATCHING: dict[str, Any] = {
    "scale": 4,
    "batch": 8,
    "patch": 40,
    "learning_rate": 1e-3,
    "schedule": "constant",
    "ema": 0.0,
    "foreign": 0.0,
}
_C2_GAN: dict[str, Any] = {
    **_C2,
    "loss": "1*L1+1e-4*VGG51+1e-6*WGAN_GP",
    "critic": "srntt-published",
}
_TONG = "Tong et al. 2017: 60 epochs of 50,000 crops of 100x100, a tenth of the learning rate from epoch 30 on"

RECIPES: Mapping[str, Recipe] = {
    "edsr": Recipe(_LIM, {**_EDSR, "model": "edsr"}, from_x2=True),
    "edsr-baseline": Recipe(_LIM, {**_EDSR, "model": "edsr-baseline"}, from_x2=True),
    "mdsr": Recipe(_LIM, {**_EDSR, "model": "mdsr", "steps": 650_000}),
    "mdsr-baseline": Recipe(_LIM, {**_EDSR, "model": "mdsr-baseline", "steps": 650_000}),
    "srresnet": Recipe(
        "Ledig et al. 2017: HR crops of 96x96",
        {**_SRRESNET, "model": "srresnet", "scale": 4, "batch": 16, "patch": 24, "steps": 1_000_000},
    ),
    "srresnet-x2": Recipe(
        "3x3 kernels throughout, crops of 64x64, 100,000 steps on DIV2K",
        {**_SRRESNET, "model": "srresnet-3x3", "scale": 2, "batch": 8, "patch": 64, "steps": 100_000},
    ),
    "srgan": Recipe(
        "Ledig et al. 2017: from a trained SRResNet (--init-from), a tenth of the learning rate for the second half",
        {
            **_SRRESNET,
            "model": "srresnet",
            "scale": 4,
            "batch": 16,
            "patch": 24,
            "loss": "0.006*VGG54+0.001*GAN",
            "schedule": "step",
            "decay": 0.1,
            "decay_every": 100_000,
            "steps": 200_000,
        },
        goes_on=True,
    ),
    "ssen": Recipe(
        "Shim et al. 2020: 160x160 crops, Charbonnier loss, cosine; the paper also names a gamma of 0.9, for which a "
        "cosine has no use. Ours: offsets learn at a tenth of the rate, as they blur what they move before they are "
        "right, and have 8 groups",
        _SSEN,
    ),
    "ssen-gan": Recipe(
        "Shim et al. 2020: with VGG features and PatchGAN, from a trained SSEN; the paper does not give the weights",
        {**_SSEN, "loss": "1*Charbonnier+0.1*VGG54+0.001*GAN", "critic": "patch"},
        goes_on=True,
    ),
    "c2-gan": Recipe(
        "Jiang et al. 2021, and its code: VGG features and WGAN-GP as well, after 10,000 steps of L1 alone",
        {**_C2_GAN, "model": "c2", "steps": 255_000, "pixels_first": 10_000},
    ),
    "datsr-gan": Recipe(
        "Cao et al. 2022, and its code: VGG features and WGAN-GP as well; with or without a net to go on from",
        {**_C2_GAN, "model": "datsr", "steps": 400_000, "decay_at": (72_545, 161_040)},
    ),
    "c2": Recipe("Jiang et al. 2021, and its code; L1 alone", {**_C2, "model": "c2", "steps": 255_000}),
    "c2-teacher": Recipe(
        "Jiang et al. 2021, section 3.2: homographies of single photos",
        {**_MATCHING, "model": "c2", "stage": "teacher", "steps": 5_000},
    ),
    "c2-match": Recipe(
        "Jiang et al. 2021, section 3.2.2; --teacher names what `c2-teacher` gave",
        {
            **_MATCHING,
            "model": "c2",
            "stage": "match",
            "steps": 75_000,
            "schedule": "step",
            "decay": 0.1,
            "decay_at": (72_545,),
        },
    ),
    "datsr": Recipe("Cao et al. 2022, and its code; L1 alone", {**_C2, "model": "datsr", "steps": 400_000}),
    "restorer": Recipe(
        "ours: how the packaged restorer was trained, on two cores for an hour",
        {
            "model": "restorer",
            "scale": 1,
            "degrade": "photo",
            "batch": 12,
            "patch": 64,
            "candidates": 4,
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "warmup": 100,
            "steps": 12_000,
            "clip": 1.0,
        },
    ),
    "srdensenet": Recipe(_TONG, {**_SRDENSENET, "model": "srdensenet"}),
    "srdensenet-h": Recipe(_TONG, {**_SRDENSENET, "model": "srdensenet-h"}),
    "srdensenet-hl": Recipe(_TONG, {**_SRDENSENET, "model": "srdensenet-hl"}),
}


def settings_of(name: str) -> dict[str, Any]:
    """The fields that a recipe sets, its own name among them. Raises UnknownName."""
    if name not in RECIPES:
        raise UnknownName("recipe", name, RECIPES)
    return {**RECIPES[name].settings, "recipe": name}
