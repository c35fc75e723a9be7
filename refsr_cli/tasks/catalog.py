"""The list of nets, and of the weights there are for each."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from refsr_cli.models import MODELS, build
from refsr_cli.weights.manifest import read_manifest
from refsr_cli.weights.store import available


@dataclass(frozen=True)
class Model:
    """A row of MODELS."""

    name: str
    needs_ref: bool
    parameters: dict[int, int]
    """Number of parameters at each scale."""
    packaged: list[int]
    """Scales whose weights travel with refsr."""
    published: list[int]
    """Scales whose weights are fetched from the hub on first use."""
    kind: str = "model"


def list_models() -> Iterator[Model]:
    """One record a net, in order of name."""
    here = available()
    for name in sorted(MODELS):
        scales = MODELS[name].net.scales
        published = sorted(record.scale for record in read_manifest() if record.model == name and record.repo)
        yield Model(
            name,
            MODELS[name].net.needs_ref,
            {scale: _count_parameters(name, scale) for scale in scales},
            sorted(scale for model, scale in here if model == name),
            published,
        )


def _count_parameters(name: str, scale: int) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(name, scale).parameters())
