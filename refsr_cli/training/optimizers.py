"""How weights are changed: the optimiser, and the learning rate of each step and of each weight."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from refsr_cli.config import TrainConfig
from refsr_cli.models import SRModel


def optimizer_of(groups: Sequence[dict[str, Any]], config: TrainConfig, device: torch.device) -> Optimizer:
    """The optimiser that `config` names for these groups of parameters, with the options that EDSR's code gives each:
    Adam its betas and epsilon, SGD its momentum, RMSprop its epsilon; weight decay to all."""
    fused, rate, decay = device.type == "cuda", config.learning_rate, config.weight_decay
    if config.optimizer == "SGD":
        return SGD(groups, rate, momentum=config.momentum, weight_decay=decay, fused=fused)
    if config.optimizer == "RMSprop":
        return RMSprop(groups, rate, eps=config.epsilon, weight_decay=decay)
    kind = Adam if config.optimizer == "Adam" else AdamW
    return kind(groups, rate, betas=config.betas, eps=config.epsilon, weight_decay=decay, fused=fused)


def apply_options(optimizer: Optimizer, config: TrainConfig) -> None:
    """Sets the options of `config` where a checkpoint brought those it was saved with."""
    options = {
        "betas": config.betas,
        "eps": config.epsilon,
        "momentum": config.momentum if config.optimizer == "SGD" else 0.0,
        "weight_decay": config.weight_decay,
    }
    for group in optimizer.param_groups:
        group.update({name: value for name, value in options.items() if name in group})


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """The learning rate after `step` steps: a function of the step alone, so that resuming needs no state."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "step" and config.decay_at:
        return config.learning_rate * config.decay ** sum(step >= mark for mark in config.decay_at)
    if config.schedule == "step":
        return config.learning_rate * config.decay ** (step // config.decay_every)
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def learning_rate_share(model: SRModel, name: str) -> float:
    """The part of the learning rate that the weight `name` gets."""
    return next((part for mark, part in model.slower.items() if mark in name), 1.0)
