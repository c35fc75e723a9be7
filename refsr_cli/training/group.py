"""Processes that train one net together, as `torchrun` starts them: each takes its part of every batch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from refsr_cli.errors import BadSetting

_PATIENCE = timedelta(days=1)
"""How long the others wait for the one that validates, or prepares samples."""


@dataclass(frozen=True)
class Group:
    """This process among those that train together; alone, nothing is exchanged.

    All draw the same random numbers and hold the same weights. Gradients are averaged by hand, as what is trained is
    not always `forward`.
    """

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank == 0

    def part(self, batch: int) -> slice:
        """Which of the `batch` examples are ours. Raises BadSetting where they cannot be shared out evenly."""
        if batch % self.world:
            raise BadSetting(f"--batch {batch} cannot be shared out evenly to {self.world} processes")
        share = batch // self.world
        return slice(self.rank * share, (self.rank + 1) * share)

    def share(self, module: nn.Module) -> None:
        """Averages the gradients of `module` over the processes."""
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        if self.world == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.world
        for gradient, shared in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(shared.view_as(gradient))

    def broadcast(self, module: nn.Module) -> None:
        """Gives all processes the weights that `module` has in the first: what they start from may lie on its disk
        alone."""
        if self.world > 1:
            for value in module.state_dict().values():
                dist.broadcast(value, 0)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a number over the processes."""
        if self.world == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value / self.world

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in one of the processes."""
        return flag if self.world == 1 else bool(self.mean(torch.tensor(float(flag), device=self.device)) > 0)

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            dist.barrier()


def grouped_device(name: str) -> str:
    """`name` of a device, where it leaves open which GPU: that of this process."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if local and name in ("auto", "cuda") and torch.cuda.is_available() else name


@contextmanager
def joined(device: torch.device) -> Iterator[Group]:
    """The group that the environment tells of, left again in the end; a group of one without."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Group(device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Group(device, dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
