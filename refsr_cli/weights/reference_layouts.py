"""Published files of reference nets: C2-Matching and DATSR, in two files, and VGG-19 from torchvision."""

import math
from pathlib import Path
from typing import Any

from refsr_cli.errors import BadWeights
from refsr_cli.layers.vgg import STEM, imagenet_stem
from refsr_cli.weights.contents import Contents, Naming, Tensors, count_layers, first_layer, renamed

_SHARED = (
    (r"correspondence\.picture\.", "feature_extraction_image1.model."),
    (r"correspondence\.reference\.", "feature_extraction_image2.model."),
    *(
        (rf"stem\.{name}\.", beginning)
        for name, beginning in zip(("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1"), STEM, strict=True)
    ),
)
_C2 = renamed(
    *_SHARED,
    (r"restoration\.head\.", "content_extractor.conv_first."),
    (r"restoration\.content\.", "content_extractor.body."),
    (r"restoration\.(\w+)\.offset(\d)\.", r"dyn_agg_restore.\1_offset_conv\2."),
    (r"restoration\.(\w+)\.aggregation\.", r"dyn_agg_restore.\1_dyn_agg."),
    (r"restoration\.(\w+)\.head\.", r"dyn_agg_restore.head_\1.0."),
    (r"restoration\.(\w+)\.(body|tail)\.", r"dyn_agg_restore.\2_\1."),
)
_BODY = r"restoration\.(up|down)_(\w+)\.body\."
_THEIR_BODY = r"dyn_agg_restore.\1_body_\2."
_BLOCKS = r"groups\.(\d+)\.blocks\."
_DATSR = renamed(
    *_SHARED,
    (r"restoration\.content\.", "content_extractor."),
    (r"restoration\.head\.", "dyn_agg_restore.unet_head."),
    (r"restoration\.(\w+)\.offset(\d)\.", r"dyn_agg_restore.\1_offset_conv\2."),
    (r"restoration\.(\w+)\.aggregation\.", r"dyn_agg_restore.\1_dyn_agg."),
    (r"restoration\.(up|down)_(\w+)\.head\.", r"dyn_agg_restore.\1_head_\2.0."),
    (r"restoration\.(up|down)_(\w+)\.tail\.", r"dyn_agg_restore.\1_tail_\2."),
    (_BODY + r"norm_in\.", _THEIR_BODY + "patch_embed.norm."),
    (_BODY + r"norm_out\.", _THEIR_BODY + "norm."),
    (_BODY + r"groups\.(\d+)\.conv\.", _THEIR_BODY + r"layers.\3.conv."),
    (_BODY + _BLOCKS + r"(\d+)\.mlp\.0\.", _THEIR_BODY + r"layers.\3.residual_group.blocks.\4.mlp.fc1."),
    (_BODY + _BLOCKS + r"(\d+)\.mlp\.3\.", _THEIR_BODY + r"layers.\3.residual_group.blocks.\4.mlp.fc2."),
    (_BODY + _BLOCKS, _THEIR_BODY + r"layers.\3.residual_group.blocks."),
)


def read_c2(path: Path, tensors: Tensors, _: float | None) -> Contents:
    """The numbers of a C2-Matching net. Raises BadWeights where a part of it is not among the files."""
    config = {
        "features": first_layer(path, tensors, "content_extractor.conv_first.weight").shape[0],
        "blocks": count_layers(tensors, lambda i: f"content_extractor.body.{i}.conv1.weight"),
        **_aggregations(tensors, ("large", "medium", "small")),
    }
    return _whole(path, tensors, "c2", config, _C2)


def read_datsr(path: Path, tensors: Tensors, _: float | None) -> Contents:
    """The numbers of a DATSR. Raises BadWeights where a part of it is not among the files."""
    body = "dyn_agg_restore.down_body_large.layers"
    groups = count_layers(tensors, lambda i: f"{body}.{i}.conv.weight")
    blocks = [f"{body}.{i}.residual_group.blocks" for i in range(groups)]
    features = first_layer(path, tensors, "dyn_agg_restore.unet_head.weight").shape[0]
    absent = [key for key in (f"{its}.0.{end}" for its in blocks for end in _BLOCK) if key not in tensors]
    if absent or not blocks:
        raise BadWeights(f"{path} is no whole DATSR: {absent[0] if absent else body} is missing")
    tables = [tensors[f"{its}.0.{_BLOCK[0]}"] for its in blocks]
    config = {
        "features": features,
        "depths": tuple(_depth(tensors, its) for its in blocks),
        "heads": tuple(table.shape[-1] for table in tables),
        "window": (math.isqrt(tables[0].shape[0]) + 1) // 2,
        "mlp_ratio": tensors[f"{blocks[0]}.0.{_BLOCK[1]}"].shape[0] / features,
        "content_blocks": count_layers(tensors, lambda i: f"content_extractor.body.{i}.conv1.weight"),
        **_aggregations(tensors, ("down_large", "down_medium", "up_small")),
    }
    return _whole(path, tensors, "datsr", config, _DATSR)


_BLOCK = ("attn.relative_position_bias_table", "mlp.fc1.weight")
"""What tells the numbers of a Swin block."""


def _depth(tensors: Tensors, group: str) -> int:
    return count_layers(tensors, lambda i: f"{group}.{i}.norm1.weight")


def _aggregations(tensors: Tensors, stages: tuple[str, ...]) -> dict[str, Any]:
    """Widths of the features of references, and groups, from the three deformable convolutions; the usual ones where
    they are missing, which is told when the net is filled."""
    masks = [tensors.get(f"dyn_agg_restore.{stage}_dyn_agg.conv_offset_mask.weight") for stage in stages]
    if any(mask is None or mask.dim() != 4 for mask in masks):
        return {}
    shapes = [mask.shape for mask in masks if mask is not None]
    return {"textures": tuple(shape[1] for shape in shapes), "groups": shapes[0][0] // 27}


def _whole(path: Path, tensors: Tensors, model: str, config: dict[str, Any], naming: Naming) -> Contents:
    """With the features of VGG-19 from torch's cache where they are not among the files."""
    if not any(key.startswith("feature_extraction_image1.") for key in tensors):
        raise BadWeights(f"{path} restores only; name the file that matches too: --weights feature_extraction.pth")
    added: Tensors = {}
    if not any(key.startswith(STEM) for key in tensors):
        stem = imagenet_stem()
        if stem is None:
            raise BadWeights(
                f"{path} needs features of VGG-19, which are not published with it: `refsr weights slice-vgg` fetches "
                "them (548 MB) and keeps the 2 MB needed in a file for --weights"
            )
        added = {key: value.float() for key, value in stem.items()}
    for key, value in tensors.items():
        if key.endswith("relative_position_index"):
            added[key] = value.reshape(-1)
    return Contents(model, 4, config, naming, tuple(filter(_is_left_out, tensors)), added)


def _is_left_out(key: str) -> bool:
    """Masks for one size of crop, which are made anew; the means of VGG; what of VGG-19 is not used."""
    rest = key.startswith(("features.", "classifier.")) and not key.startswith(STEM)
    means = key.startswith("feature_extraction_image") and key.endswith((".mean", ".std"))
    return rest or means or key.endswith("attn_mask")
