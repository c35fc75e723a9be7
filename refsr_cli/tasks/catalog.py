"""The list of nets, and of the weights there are for each; the layers of one."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from refsr_cli.config import ShowConfig
from refsr_cli.errors import BadWeights
from refsr_cli.layers.unfilled import Unfilled
from refsr_cli.models import MODELS, SRModel, build, numbers_of
from refsr_cli.weights.manifest import read_manifest
from refsr_cli.weights.store import available, load_model


@dataclass(frozen=True)
class Model:
    """A row of MODELS."""

    name: str
    needs_ref: bool
    parameters: dict[int, int]
    """Number of parameters at each scale."""
    packaged: dict[int, int]
    """The same of those whose weights travel with refsr, which may be of other widths and depths."""
    published: list[int]
    """Scales whose weights are fetched from the hub on first use."""
    kind: str = "model"


@dataclass(frozen=True)
class Layers:
    """What a net is made of."""

    name: str
    scale: int
    input: list[int]
    """Shape of what was sent through."""
    layers: list[dict[str, Any]]
    """Of each: its name, its class, how deep it lies, the shape of what it gives, and its parameters."""
    parameters: int
    multiply_adds: int
    text: str
    """The same as a table."""
    kind: str = "layers"


def list_models() -> Iterator[Model]:
    """One record a net, in order of name."""
    here = available()
    for name in sorted(MODELS):
        scales = MODELS[name].net.scales
        published = sorted(record.scale for record in read_manifest() if record.model == name and record.repo)
        yield Model(
            name,
            MODELS[name].net.needs_ref,
            {scale: _size(_unfilled(name, scale)) for scale in scales},
            _packaged_sizes(name, sorted(scale for model, scale in here if model == name)),
            published,
        )


def _unfilled(name: str, scale: int) -> SRModel:
    """The net of the paper, without numbers in it."""
    with torch.device("meta"), Unfilled():
        return build(name, scale)


def _packaged_sizes(name: str, scales: list[int]) -> dict[int, int]:
    """Without files that cannot be used, such as one whose trunk is missing."""
    sizes = {}
    for scale in scales:
        with suppress(BadWeights):
            sizes[scale] = _size(load_model(name, scale).model)
    return sizes


def _size(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


class _Referred(nn.Module):
    """A net that needs references, as a function of two pictures."""

    def __init__(self, net: SRModel) -> None:
        super().__init__()
        self.net = net

    def forward(self, lr: Tensor, ref: Tensor) -> Tensor:
        sr: Tensor = self.net(lr, self.net.look(lr, [ref]))
        return sr


def show_model(config: ShowConfig) -> Iterator[Layers]:
    """One record: the layers of a net, their shapes for a square picture, and what they cost. Raises UnknownName and
    BadSetting."""
    from torchinfo import summary

    net = build(config.model, config.scale, numbers_of(config.model, config.numbers)).eval()
    side = config.size + -config.size % net.multiple_of
    lr = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    pictures = [lr, torch.rand(1, 3, config.scale * side, config.scale * side)] if net.needs_ref else [lr]
    told = summary(
        _Referred(net) if net.needs_ref else net,
        input_data=pictures,
        depth=config.depth,
        col_names=("output_size", "kernel_size", "num_params", "mult_adds"),
        row_settings=("var_names", "depth"),
        verbose=0,
    )
    told.total_params = _size(net)  # torchinfo has some twice, of parts used by halves
    told.trainable_params = sum(its.numel() for its in net.parameters() if its.requires_grad)
    layers = [
        {
            "name": layer.var_name,
            "class": layer.class_name,
            "depth": layer.depth,
            "output": list(layer.output_size or []),
            "parameters": sum(parameter.numel() for parameter in layer.module.parameters()),
        }
        for layer in told.summary_list
        if layer.depth <= config.depth
    ]
    total, adds = int(told.total_params), int(told.total_mult_adds)
    yield Layers(config.model, config.scale, list(lr.shape), layers, total, adds, str(told))
