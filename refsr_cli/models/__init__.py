"""Every model by name. Adding one is a file in this folder and a row here."""

import ast
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from refsr_cli.errors import BadSetting, UnknownName
from refsr_cli.models.base import Guide, SRModel, merge_by_formula
from refsr_cli.models.bicubic import Bicubic, BicubicConfig
from refsr_cli.models.c2 import C2, C2Config
from refsr_cli.models.datsr import DATSR, DATSRConfig
from refsr_cli.models.edsr import EDSR, EDSRConfig
from refsr_cli.models.mdsr import MDSR, MDSRConfig
from refsr_cli.models.msrresnet import MSRResNet, MSRResNetConfig
from refsr_cli.models.refnet import RefNet, RefNetConfig
from refsr_cli.models.restorer import Restorer, RestorerConfig
from refsr_cli.models.span import SPAN, SPANConfig
from refsr_cli.models.srdensenet import SRDenseNet, SRDenseNetConfig
from refsr_cli.models.srresnet import SRResNet, SRResNetConfig
from refsr_cli.models.ssen import SSEN, SSENConfig

__all__ = ["MODELS", "Guide", "ModelSpec", "SRModel", "build", "fingerprint", "merge_by_formula", "numbers_of"]


@dataclass(frozen=True)
class ModelSpec:
    """A net's class and the numbers of one variant of it."""

    net: Any
    config: Any
    start: str | None = None
    """Id of the weights that a training starts from when none are named."""
    smaller: str | None = None
    """The variant of it that a CPU can train."""


MODELS: dict[str, ModelSpec] = {
    "bicubic": ModelSpec(Bicubic, BicubicConfig()),
    "c2": ModelSpec(C2, C2Config()),
    "datsr": ModelSpec(DATSR, DATSRConfig()),
    "edsr": ModelSpec(EDSR, EDSRConfig(features=256, blocks=32, res_scale=0.1), smaller="edsr-baseline"),
    "edsr-baseline": ModelSpec(EDSR, EDSRConfig()),
    "mdsr": ModelSpec(MDSR, MDSRConfig(blocks=80), smaller="mdsr-baseline"),
    "mdsr-baseline": ModelSpec(MDSR, MDSRConfig()),
    "msrresnet": ModelSpec(MSRResNet, MSRResNetConfig()),
    "refnet": ModelSpec(RefNet, RefNetConfig(), start="edsr-baseline-x4"),
    "restorer": ModelSpec(Restorer, RestorerConfig()),
    "span": ModelSpec(SPAN, SPANConfig()),
    "srdensenet": ModelSpec(SRDenseNet, SRDenseNetConfig()),
    "srdensenet-h": ModelSpec(SRDenseNet, SRDenseNetConfig(skips="h")),
    "srdensenet-hl": ModelSpec(SRDenseNet, SRDenseNetConfig(skips="hl")),
    "srresnet": ModelSpec(SRResNet, SRResNetConfig()),
    "srresnet-3x3": ModelSpec(SRResNet, SRResNetConfig(kernel_io=3)),
    "ssen": ModelSpec(SSEN, SSENConfig()),
    "ssen-large": ModelSpec(SSEN, SSENConfig(blocks=32)),
}


def build(name: str, scale: int, config: dict[str, Any] | None = None) -> SRModel:
    """The untrained net `name` for `scale`; `config` replaces fields of the variant's own numbers.

    Raises UnknownName for a name not in MODELS and BadSetting for a scale or a field that the net does not have, and
    for numbers of which no net can be made.
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
    try:
        model: SRModel = spec.net(chosen, scale)
    except (RuntimeError, MemoryError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        if not config:  # a fault of ours
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise BadSetting(f"model '{name}' cannot be built from {config}: {reason}") from None
    return model


def fingerprint(model: SRModel) -> str:
    """Tells a net with its weights from any other: a checksum of its numbers and of every weight."""
    told = hashlib.sha256(repr(model.config).encode())
    for name, value in sorted(model.state_dict().items()):
        told.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return told.hexdigest()


_LARGEST = 4096
"""Beyond which a number of a net is a slip of the hand: no published net has a tenth of it."""
_KINDS = {int: f"a whole number from 1 to {_LARGEST}", float: "a number above 0", bool: "true or false,", str: "a word"}
_KINDS |= {tuple: "numbers above 0 in parentheses"}


def numbers_of(name: str, changes: Sequence[str]) -> dict[str, Any]:
    """`("blocks=8", "global_skip=false")` as the `config` that `build` takes for the net `name`.

    Raises UnknownName for a name not in MODELS, or not of a field; BadSetting for a value that is not of its kind.
    """
    if name not in MODELS:
        raise UnknownName("model", name, MODELS)
    config = MODELS[name].config
    known = {field.name: getattr(config, field.name) for field in fields(config)}
    omissible = {field.name for field in fields(config) if field.metadata.get("omissible")}
    numbers = {}
    for change in changes:
        key, equals, text = (part.strip() for part in change.partition("="))
        if key not in known:
            raise UnknownName(f"number of model '{name}'", key, known)
        value = 0 if key in omissible and text == "0" else _value(text, known[key])
        if not equals or value is None:
            raise BadSetting(
                f"{key} of model '{name}' is {_KINDS[type(known[key])]} such as {known[key]}, not '{text}'"
            )
        numbers[key] = value
    return numbers


def _value(text: str, example: Any) -> Any:
    """`text` as what `example` is; None where it is not that."""
    if isinstance(example, str):
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text.lower(), text))
    except (ValueError, SyntaxError):
        return None
    if isinstance(example, float) and type(value) is int:
        value = float(value)
    numbers = value if isinstance(value, tuple) else (value,)
    fits = type(value) is type(example) and all(type(number) in (int, float, bool) for number in numbers)
    return value if fits and all(isinstance(number, bool) or 0 < number <= _LARGEST for number in numbers) else None
