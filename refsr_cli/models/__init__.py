"""Every model by name. Adding one is a file in this folder and a row here."""

from dataclasses import dataclass, replace
from typing import Any

from refsr_cli.errors import BadSetting, UnknownName
from refsr_cli.models.base import SRModel
from refsr_cli.models.bicubic import Bicubic, BicubicConfig
from refsr_cli.models.edsr import EDSR, EDSRConfig
from refsr_cli.models.refnet import RefNet, RefNetConfig

__all__ = ["MODELS", "ModelSpec", "SRModel", "build"]


@dataclass(frozen=True)
class ModelSpec:
    """A net's class and the numbers of one variant of it."""

    net: Any
    config: Any
    start: str | None = None
    """Id of the weights that a training starts from when none are named."""


MODELS: dict[str, ModelSpec] = {
    "bicubic": ModelSpec(Bicubic, BicubicConfig()),
    "edsr": ModelSpec(EDSR, EDSRConfig(features=256, blocks=32, res_scale=0.1)),
    "edsr-baseline": ModelSpec(EDSR, EDSRConfig()),
    "refnet": ModelSpec(RefNet, RefNetConfig(), start="edsr-baseline-x4"),
}


def build(name: str, scale: int, config: dict[str, Any] | None = None) -> SRModel:
    """The untrained net `name` for `scale`; `config` replaces fields of the variant's own numbers.

    Raises UnknownName for a name not in MODELS and BadSetting for a scale or a field that the net does not have.
    """
    if name not in MODELS:
        raise UnknownName("model", name, MODELS)
    spec = MODELS[name]
    scales = spec.net.scales
    if scale not in scales:
        raise BadSetting(f"model '{name}' has no scale {scale}; it has {', '.join(map(str, scales))}")
    try:
        chosen = replace(spec.config, **(config or {}))
    except TypeError as error:
        raise BadSetting(f"model '{name}' cannot be built from {config}: {error}") from None
    model: SRModel = spec.net(chosen, scale)
    return model
