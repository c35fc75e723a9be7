"""Published files of SRResNet and MSRResNet: how their codes name the layers."""

import re
from pathlib import Path

from refsr_cli.weights.contents import Contents, Naming, Tensors, count_layers, first_layer, kernel_of, renamed

SRRESNET = renamed(
    (r"head\.", "conv1."),
    (r"body\.(\d+)\.conv1\.", r"trunk.\1.rcb.0."),
    (r"body\.(\d+)\.norm1\.", r"trunk.\1.rcb.1."),
    (r"body\.(\d+)\.prelu\.", r"trunk.\1.rcb.2."),
    (r"body\.(\d+)\.conv2\.", r"trunk.\1.rcb.3."),
    (r"body\.(\d+)\.norm2\.", r"trunk.\1.rcb.4."),
    (r"after\.", "conv2."),
    (r"upsample\.(\d+)\.", r"upsampling.\1.upsample_block."),
    (r"tail\.", "conv3."),
)


def early_srresnet(key: str) -> str:
    """As the same code named its layers before."""
    return re.sub(r"^conv(?=[123]\.)", "conv_block", SRRESNET(key))


def read_srresnet(path: Path, tensors: Tensors, res_scale: float | None, *, naming: Naming) -> Contents:
    """SRGAN-PyTorch's."""
    head = first_layer(path, tensors, naming("head.0.weight"))
    stages = [key for key in (naming(f"upsample.{i}.0.weight") for i in range(3)) if key in tensors]
    tripled = len(stages) == 1 and tensors[stages[0]].shape[0] == 9 * head.shape[0]
    blocks = count_layers(tensors, lambda i: naming(f"body.{i}.conv1.weight"))
    config = {"features": head.shape[0], "blocks": blocks, "kernel_io": head.shape[2]}
    name = "srresnet-3x3" if head.shape[2] == 3 else "srresnet"
    return Contents(name, 3 if tripled else 2 ** max(1, len(stages)), config, naming)


def read_flat_srresnet(path: Path, tensors: Tensors, res_scale: float | None, *, block: str) -> Contents:
    """As the same code named its layers in autumn 2021: the tail in one row, a `block` within each of the trunk."""

    def naming(key: str) -> str:
        stage = re.fullmatch(r"upsample\.(\d+)\.(\d+)\.(\w+)", key)
        if stage:
            return f"upsampling.{3 * int(stage[1]) + int(stage[2])}.{stage[3]}"
        return early_srresnet(key).replace(".rcb.", f".{block}.")

    return read_srresnet(path, tensors, res_scale, naming=naming)


_MSRRESNET = renamed(
    (r"head\.", "conv_first."),
    *((rf"upsample\.{i}\.", f"upconv{i + 1}.") for i in range(2)),
    (r"after\.", "conv_hr."),
    (r"tail\.", "conv_last."),
    (r"", ""),
)


def read_msrresnet(path: Path, tensors: Tensors, res_scale: float | None) -> Contents:
    """BasicSR's."""
    features = first_layer(path, tensors, "conv_first.weight").shape[0]
    blocks = count_layers(tensors, lambda i: f"body.{i}.conv1.weight")
    tripled = kernel_of(path, tensors, "upconv1.weight").shape[0] == 9 * features
    scale = 3 if tripled else 4 if "upconv2.weight" in tensors else 2
    return Contents("msrresnet", scale, {"features": features, "blocks": blocks}, _MSRRESNET)
