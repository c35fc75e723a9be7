"""Convolutions that apply their activation and add their residual in one call of oneDNN.

The parts of a net that are made of dense convolutions are traced (torch.fx). Each convolution, with the activation
after it or the sum that takes its result, becomes one call whose weights are reordered once: features are read and
written once instead of three times. In fp32 the result is equal to the last bit, but where batch normalisation is
folded into weights. In bf16 the skip connections are bf16 too.
"""

import copy
import operator
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from refsr_cli.layers.winograd import WIDE
from refsr_cli.models import SRModel

Module = TypeVar("Module", bound=nn.Module)
_PRECISIONS = torch.float32, torch.bfloat16
_ACTIVATIONS = {nn.ReLU: "relu", nn.SiLU: "swish", nn.PReLU: "leaky_relu"}
"""What oneDNN calls them."""


def fused_on_cpu(model: SRModel, precision: torch.dtype) -> SRModel:
    """A copy of `model`, which is in evaluation mode, whose `dense_parts` are fused and compute in `precision`. `model`
    itself where it has none, its weights are not float32 on a CPU, or torch has no such calls. Not for training."""
    usual = all(its.device.type == "cpu" and its.dtype == torch.float32 for its in model.parameters())
    if not model.dense_parts or not usual or precision not in _PRECISIONS or not fusing_works(precision):
        return model
    fused = _copied(model)
    for name in model.dense_parts:
        module: nn.Module = fused
        *path, last = name.split(".")
        for step in path:
            module._modules[step] = module = _copied(module.get_submodule(step))
        module._modules[last] = _fused(module.get_submodule(last), precision)
    return fused


def _copied(module: Module) -> Module:
    """Shares parameters and submodules, until they are replaced."""
    its = copy.copy(module)
    its._modules = dict(module._modules)
    return its


@cache
def fusing_works(precision: torch.dtype) -> bool:
    """Whether torch's private calls are there and compute what they should."""
    layer = nn.Conv2d(16, 16, 3, padding=1).requires_grad_(False)
    x, other = torch.linspace(-1, 1, 2 * 16 * 64).view(2, 1, 16, 8, 8).contiguous()
    try:
        found = _Adding(layer, precision)(x, other.to(precision).clone())
        expected = layer(x) + other
        return bool((found.float() - expected).abs().max() <= (1e-5 if precision == torch.float32 else 0.05))
    except (RuntimeError, AttributeError, TypeError):
        return False


class _Fused(nn.Module):
    """A convolution and what is done with its result, in one call.   (N, C, H, W) -> (N, D, H', W')"""

    def __init__(self, layer: nn.Conv2d, precision: torch.dtype, factor: float = 1.0) -> None:
        super().__init__()
        assert isinstance(layer.padding, tuple)
        self._geometry = list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups
        weight = (factor * layer.weight.detach()).to(precision).to_mkldnn()
        self._weight = torch._C._nn.mkldnn_reorder_conv2d_weight(weight, *self._geometry)
        self._bias = None if layer.bias is None else (factor * layer.bias.detach()).to(precision)
        self._precision = precision


class _Activating(_Fused):
    def __init__(self, layer: nn.Conv2d, precision: torch.dtype, name: str = "none", numbers: Sequence[float] = ()):
        super().__init__(layer, precision)
        self._activation = name, list(numbers), ""

    def forward(self, x: Tensor) -> Tensor:
        calls = torch.ops.mkldnn._convolution_pointwise
        x = x.to(self._precision)
        return calls(x, self._weight, self._bias, *self._geometry, *self._activation)  # type: ignore[no-any-return]


class _Adding(_Fused):
    """Adds to `other`, which is overwritten where it `may_overwrite`."""

    may_overwrite = False

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        how: tuple[Any, ...] = (*self._geometry, "add", 1.0, None, [], None)
        x, other = x.to(self._precision), other.to(self._precision)
        if self.may_overwrite:
            calls = torch.ops.mkldnn._convolution_pointwise_.binary
            return calls(other, x, self._weight, self._bias, *how)  # type: ignore[no-any-return]
        calls = torch.ops.mkldnn._convolution_pointwise.binary
        return calls(x, other, self._weight, self._bias, *how)  # type: ignore[no-any-return]


def _fused(part: nn.Module, precision: torch.dtype) -> nn.Module:
    traced = fx.symbolic_trace(part)
    layers = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        layer = layers.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(layer, nn.Conv2d) or layer.groups > 1:
            continue
        if precision == torch.float32 and min(layer.in_channels, layer.out_channels) >= WIDE:
            continue  # faster by Winograd's algorithm
        last: fx.Node = node
        if isinstance(after := _only_layer_after(last, layers), nn.BatchNorm2d):
            layer, last = fuse_conv_bn_eval(layer, after), next(iter(last.users))
        call: nn.Module
        inputs: tuple[Any, ...] = node.args
        after = _only_layer_after(last, layers)
        if type(after) in _ACTIVATIONS and (not isinstance(after, nn.PReLU) or after.num_parameters == 1):
            numbers = [float(after.weight.detach())] if isinstance(after, nn.PReLU) else []
            call, last = _Activating(layer, precision, _ACTIVATIONS[type(after)], numbers), next(iter(last.users))
        elif (found := _sum_after(last)) is not None:
            total, other, factor = found
            call, inputs, last = _Adding(layer, precision, factor), (*node.args, other), total
            read = other in node.all_input_nodes or not _is_last_use(traced.graph, other, total)
            call.may_overwrite = other.op != "placeholder" and not read
        else:
            call = _Activating(layer, precision)
        _replace(traced, node, last, call, inputs)
    traced.graph.lint()
    traced.recompile()
    return traced


def _only_layer_after(node: fx.Node, layers: dict[str, nn.Module]) -> nn.Module | None:
    user = next(iter(node.users)) if len(node.users) == 1 else None
    return layers.get(str(user.target)) if user is not None and user.op == "call_module" else None


def _sum_after(node: fx.Node) -> tuple[fx.Node, fx.Node, float] | None:
    """The sum that alone takes what `node` gives, what that is added to, and the factor of `node` in it."""
    user = next(iter(node.users)) if len(node.users) == 1 else None
    if (
        user is None
        or user.target not in (torch.add, operator.add)
        or not all(isinstance(a, fx.Node) for a in user.args)
    ):
        return None
    first, second = user.args
    factor = user.kwargs.get("alpha", 1.0)
    if first is second or (second is not node and factor != 1):
        return None
    return user, first if second is node else second, float(factor)  # type: ignore[arg-type, return-value]


def _is_last_use(graph: fx.Graph, value: fx.Node, user: fx.Node) -> bool:
    """Whether nothing reads `value` after `user`."""
    order = {node: number for number, node in enumerate(graph.nodes)}
    return all(order[other] <= order[user] for other in value.users)


def _replace(traced: fx.GraphModule, first: fx.Node, last: fx.Node, call: nn.Module, inputs: tuple[Any, ...]) -> None:
    """`call` on `inputs` instead of the nodes from `first` to `last`, each of which only the next one reads."""
    name = f"fused_{first.name}"
    traced.add_submodule(name, call)
    with traced.graph.inserting_before(last):
        last.replace_all_uses_with(traced.graph.call_module(name, inputs))
    while last is not first:
        before = next(node for node in last.all_input_nodes if node is first or first in node.all_input_nodes)
        traced.graph.erase_node(last)
        last = before
    traced.graph.erase_node(first)
