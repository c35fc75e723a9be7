"""SSEN, DATSR and C2-Matching: their parts against slow versions written from the papers, and their published files."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.ops import deform_conv2d

from refsr_cli.config import SliceConfig
from refsr_cli.data.benchmarks import trial_photos
from refsr_cli.errors import BadSetting, BadWeights
from refsr_cli.images import Picture, read_image, read_rgb8
from refsr_cli.inference.memory import Held
from refsr_cli.inference.results import finished
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.layers import alignment
from refsr_cli.layers.alignment import DynamicAggregation, deformable_conv, pixel_grid, read, taps
from refsr_cli.layers.attention import NonLocal
from refsr_cli.layers.strips import Strips
from refsr_cli.layers.swin import SwinBody, SwinGroup
from refsr_cli.layers.vgg import VGGStem
from refsr_cli.models import SRModel, build
from refsr_cli.reference.bank import RefBank, open_reference
from refsr_cli.reference.patches import match_patches, patch_length
from refsr_cli.reference.textures import Textures, as_textures, begins, in_one_map
from refsr_cli.tasks.weights import slice_vgg
from refsr_cli.weights.formats import load_any

SMALL = {
    "ssen": {"features": 8, "extractor_blocks": 1, "blocks": 2, "groups": 2},
    "c2": {"features": 8, "blocks": 2, "groups": 2, "textures": (4, 6, 8)},
    "datsr": {
        "features": 8,
        "depths": (2, 2),
        "heads": (2, 2),
        "textures": (4, 6, 8),
        "groups": 2,
        "content_blocks": 1,
    },
}


def double(*shape: int, spread: float = 1.0) -> Tensor:
    return spread * torch.randn(*shape, dtype=torch.float64)


# Matching


def slow_match(query: Tensor, reference: Tensor, count: int) -> tuple[list, list]:
    """Every patch with every other, one by one: the cosine of their 3x3 cells of unit length."""
    query, reference = (x / x.norm(dim=0, keepdim=True).clamp(min=1e-12) for x in (query, reference))

    def patch(x: Tensor, row: int, column: int) -> Tensor:
        return x[:, row : row + 3, column : column + 3].flatten()

    found, scores = [], []
    for row in range(query.shape[1] - 2):
        for column in range(query.shape[2] - 2):
            mine = patch(query, row, column)
            all_of_them = [
                (float(mine @ other / (mine.norm() * other.norm()).clamp(min=1e-5)), place)
                for place in np.ndindex(reference.shape[1] - 2, reference.shape[2] - 2)
                for other in [patch(reference, *place)]
            ]
            best = sorted(all_of_them, key=lambda item: -item[0])[:count]
            found.append([place for _, place in best])
            scores.append([score for score, _ in best])
    return found, scores


@given(sizes=st.tuples(*[st.integers(3, 9)] * 4), count=st.integers(1, 2), seed=st.integers(0, 99))
def test_patches_are_found_as_one_by_one(sizes: tuple[int, ...], count: int, seed: int) -> None:
    torch.manual_seed(seed)
    query, reference = double(5, *sizes[:2]), double(5, *sizes[2:])
    if (sizes[2] - 2) * (sizes[3] - 2) < count:
        with pytest.raises(ValueError, match="fewer than"):
            match_patches(query, reference, count)
        return
    pos, score = match_patches(query, reference, count)
    found, scores = slow_match(query, reference, count)
    assert pos.flatten(2).permute(2, 0, 1).tolist() == [list(map(list, places)) for places in found]
    torch.testing.assert_close(score.flatten(1).T, torch.tensor(scores, dtype=torch.float64), rtol=0, atol=1e-9)


def test_the_result_does_not_depend_on_how_much_is_compared_at_once(monkeypatch) -> None:
    query, reference = torch.randn(6, 17, 13), torch.randn(6, 15, 19)
    reference[:, 2:7, 3:9] = reference[:, 8:13, 11:17]  # some patches are there twice
    whole = match_patches(query, reference)
    monkeypatch.setattr("refsr_cli.reference.patches._PAIRS", 1000)
    parts = match_patches(query, reference)
    assert torch.equal(whole[0], parts[0])
    torch.testing.assert_close(whole[1], parts[1], rtol=0, atol=1e-6)


def test_a_picture_is_found_in_itself() -> None:
    cells = torch.randn(8, 12, 10)
    pos, score = match_patches(cells, F.pad(cells, (3, 0, 5, 0)))
    assert torch.equal(pos[0], (pixel_grid(10, 8, cells) + torch.tensor([5, 3]).view(2, 1, 1)).long())
    torch.testing.assert_close(score, torch.ones_like(score))
    assert patch_length(F.normalize(cells, dim=0)).sub(3).abs().max() < 1e-5


# Where taps read


def together(maps: dict[int, list[Tensor]], found: list[tuple[Tensor, Tensor]], cells: tuple[int, int]) -> Textures:
    """Textures of references whose features are held."""
    heights = [part.shape[2] for part in maps[4]]
    strips = [{stride: parts[number] for stride, parts in maps.items()} for number in range(len(heights))]
    rows, columns = begins(heights)[-1] + heights[-1], max(part.shape[3] for part in maps[4])
    return as_textures(in_one_map(zip(begins(heights), strips, strict=True), rows, columns), heights, found, cells)


def published_places(index: Tensor, shape: tuple[int, int], factor: int) -> Tensor:
    """The published way for a reference of the picture's size: an index to a flow of x and y, padded below and to the
    right, enlarged by repetition, then nine times shifted.   index (h-2, w-2) -> (9, 2, factor*h, factor*w), x and y"""
    height, width = shape
    down, right = (torch.arange(size - 2) for size in shape)
    flow_x = index % (width - 2) - right
    flow_y = index // (width - 2) - down[:, None]
    flow = F.pad(torch.stack([flow_x, flow_y]), (0, 2, 0, 2))
    large = flow.repeat_interleave(factor, 1).repeat_interleave(factor, 2) * factor
    shifted = []
    for i in range(3):
        for j in range(3):
            moved = torch.zeros_like(large)
            moved[:, factor * i :, factor * j :] = large[:, : factor * (height - i), : factor * (width - j)]
            shifted.append(moved)
    return torch.stack(shifted)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_places_are_the_published_pre_offsets_for_equal_sizes(factor: int) -> None:
    height, width = 9, 7
    pos, score = match_patches(torch.randn(6, height, width), torch.randn(6, height, width))
    maps = {stride: [torch.randn(1, 2, 4 // stride * height, 4 // stride * width)] for stride in (1, 2, 4)}
    textures = together(maps, [(pos, score)], (height, width))
    offsets = published_places(pos[0, 0] * (width - 2) + pos[0, 1], (height, width), factor)
    usual = pixel_grid(factor * height, factor * width, score)
    for tap, (i, j) in enumerate(np.ndindex(3, 3)):
        wanted = usual + torch.tensor([i - 1, j - 1]).view(2, 1, 1) + offsets[tap].flip(0)
        assert torch.equal(textures.places(factor)[0, tap], wanted)
    assert torch.equal(textures.score[0, 0, 1:-1, 1:-1], score[0])


def test_several_references_are_as_each_alone_where_it_is_the_likest() -> None:
    """In any order, of any sizes; and nothing of one is read beside the other."""
    cells, shapes = (6, 8), [(24, 40), (37, 20), (52, 61)]
    refs = [torch.rand(1, 3, -(-height // 4) * 4, -(-width // 4) * 4) for height, width in shapes]
    maps = {1: refs, 2: [F.avg_pool2d(ref, 2) for ref in refs], 4: [F.avg_pool2d(ref, 4) for ref in refs]}
    found = [match_patches(torch.randn(5, *cells), torch.randn(5, *ref.shape[2:])) for ref in maps[4]]

    def ordered(order: list[int]) -> Textures:
        chosen = {stride: [its[i] for i in order] for stride, its in maps.items()}
        return together(chosen, [found[i] for i in order], cells)

    first, second = ordered([0, 1, 2]), ordered([2, 0, 1])
    for factor in (1, 2, 4):
        inside = (..., slice(0, factor * (cells[0] - 2)), slice(0, factor * (cells[1] - 2)))  # where patches begin
        torch.testing.assert_close(first.warped(factor)[inside], second.warped(factor)[inside], rtol=0, atol=1e-4)
    one = ordered([1])
    here = (first.ref_id == 1)[0, : cells[0] - 2, : cells[1] - 2]
    assert here.any()
    shown, alone = (its.warped(1)[0, :, : cells[0] - 2, : cells[1] - 2] for its in (first, one))
    assert torch.equal(shown[:, here], alone[:, here])
    shares = first.shares(3)
    assert sum(share for share, _ in shares) == pytest.approx(1)


def test_a_part_knows_where_it_is() -> None:
    pos, score = match_patches(torch.randn(6, 12, 11), torch.randn(6, 9, 14))
    maps = {stride: [torch.randn(1, 3, 36 // stride, 56 // stride)] for stride in (1, 2, 4)}
    whole = together(maps, [(pos, score)], (12, 11))
    part = whole.crop(3, 2, 11, 10).crop(1, 1, 7, 8).padded(2, 1)
    for factor in (1, 2, 4):
        rows, columns = slice(factor * 4, factor * 10), slice(factor * 3, factor * 10)
        inside = (..., slice(0, factor * 6), slice(0, factor * 7))
        assert torch.equal(part.warped(factor)[inside], whole.warped(factor)[..., rows, columns])
        assert torch.equal(part.unmoved(factor)[inside], whole.unmoved(factor)[..., rows, columns])
        seen = (..., slice(factor * 2, factor * 6), slice(factor * 2, factor * 7))  # votes from outside are not known
        assert torch.equal(part.places(factor)[seen], whole.places(factor)[..., rows, columns][seen])


# Maps in strips


def in_two_or_three(source: Tensor) -> Strips:
    """A map (1, C, H, W) in strips of unequal heights."""
    height = source.shape[2]
    spans = ((0, height // 3), (height // 3, height // 3 + 1), (height // 3 + 1, height))
    return Strips(spans, lambda number: source[:, :, slice(*spans[number])])


def test_what_is_read_in_strips_is_what_is_read_in_the_whole() -> None:
    """Also between two of them, and beyond the border."""
    source = torch.randn(1, 4, 13, 9)
    place = torch.rand(1, 2, 20, 15) * 18 - 3
    place[0, 0, 0] = torch.linspace(3.5, 4.5, 15)
    torch.testing.assert_close(read(in_two_or_three(source), place), read(source, place), rtol=0, atol=1e-5)
    places = torch.rand(1, 2, 9, 2, 7, 6) * 18 - 3
    mask, weight, bias = torch.rand(1, 2, 9, 7, 6), torch.randn(5, 4, 3, 3), torch.randn(5)
    parts, whole = (deformable_conv(its, places, mask, weight, bias) for its in (in_two_or_three(source), source))
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-4)
    away = torch.full((1, 2, 3, 3), 99.0)
    assert read(in_two_or_three(source), away).abs().sum() == 0


def test_only_strips_that_are_read_are_made() -> None:
    made = []
    strips = Strips(((0, 8), (8, 16), (16, 24)), lambda number: made.append(number) or torch.ones(1, 1, 8, 4))
    read(strips, torch.full((1, 2, 2, 2), 3.2))
    assert made == [0]
    assert strips.above(16).spans == ((0, 8), (8, 16))


def test_nothing_is_read_beyond_all_strips() -> None:
    strips = Strips(((0, 8), (8, 16)), lambda number: torch.ones(1, 3, 8, 4))
    place = pixel_grid(5, 4, torch.zeros(())).add(100)[None]
    assert torch.equal(read(strips, place), torch.zeros(1, 3, 5, 4))


def test_a_stem_sees_no_border_between_strips() -> None:
    stem, picture = VGGStem((4, 6, 8)), torch.rand(1, 3, 76, 40)
    with torch.no_grad():
        whole = stem(picture)
        for first, stop in ((0, 4), (4, 40), (40, 76), (0, 76)):
            for stride, features, part in zip((1, 2, 4), whole, stem.strip(picture, first, stop), strict=True):
                wanted = features[:, :, first // stride : stop // stride]
                torch.testing.assert_close(part, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["c2", "datsr"])
def test_features_that_are_not_held_give_the_same(name: str) -> None:
    """Two references of other sizes, in strips of a few rows of which next to nothing is kept."""
    small = {"textures": (8, 16, 16), "matched": (4, 8, 8), "groups": 2}
    small |= {"features": 8, "blocks": 1} if name == "c2" else {"features": 8, "depths": (1,), "heads": (2,)}
    net = build(name, 4, small).eval()
    lr, references = torch.rand(1, 3, 24, 16), [torch.rand(1, 3, 90, 64), torch.rand(1, 3, 60, 77)]
    for module in net.modules():  # untrained offsets are none
        if isinstance(module, DynamicAggregation):
            torch.nn.init.normal_(module.conv_offset_mask.weight, std=0.2)
    with torch.no_grad():
        held = net(lr, net.look(lr, references))
        streamed = net.look(lr, references, memory=1)
        assert isinstance(streamed.map(4), Strips) and len(streamed.map(4).spans) > 8
        torch.testing.assert_close(net(lr, streamed), held, rtol=0, atol=1e-4)


# Deformable convolution


def slow_deformable(source: Tensor, place: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Every value of every tap of every channel, read between four pixels."""
    groups, count, _, height, width = place.shape[1:]
    channels = source.shape[1]

    def value(plane: Tensor, row: float, column: float) -> float:
        top, left = math.floor(row), math.floor(column)
        total = 0.0
        for y, x in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            if 0 <= y < plane.shape[0] and 0 <= x < plane.shape[1]:
                total += float(plane[y, x]) * (1 - abs(row - y)) * (1 - abs(column - x))
        return total

    made = source.new_zeros(1, len(weight), height, width)
    for y, x in np.ndindex(height, width):
        for channel in range(channels):
            group = channel // (channels // groups)
            for tap in range(count):
                row, column = (float(end) for end in place[0, group, tap, :, y, x])
                read = float(mask[0, group, tap, y, x]) * value(source[0, channel], row, column)
                made[0, :, y, x] += weight[:, channel, tap // 3, tap % 3] * read
    return made + bias.view(1, -1, 1, 1)


@pytest.mark.parametrize(("height", "width"), [(5, 4), (7, 6)])
@pytest.mark.parametrize("fused", [True, False])
def test_deformable_convolution(monkeypatch, height: int, width: int, fused: bool) -> None:
    """Against loops, also where what is read is larger than what is made, and against torchvision's conventions."""
    monkeypatch.setattr(alignment, "_COLUMNS", 2**26 if fused else 0)
    source, weight, bias = double(1, 4, 5, 4), double(3, 4, 3, 3), double(3)
    offset = double(1, 2, 9, 2, height, width, spread=2.0)
    place = pixel_grid(height, width, offset) + taps(3, offset).view(9, 2, 1, 1) + offset
    mask = torch.rand(1, 2, 9, height, width, dtype=torch.float64)
    made = deformable_conv(source, place, mask, weight, bias)
    torch.testing.assert_close(made, slow_deformable(source, place, mask, weight, bias), rtol=0, atol=1e-10)
    if (height, width) == (5, 4):
        theirs = deform_conv2d(source, offset.flatten(1, 3), weight, bias, padding=1, mask=mask.flatten(1, 2))
        torch.testing.assert_close(made, theirs, rtol=0, atol=1e-10)
    wider = deformable_conv(F.pad(source, (0, 9, 0, 6)), place, mask, weight, bias)
    torch.testing.assert_close(made, wider, rtol=0, atol=1e-10, msg="nothing beyond the border is not nothing")


def test_deformable_convolution_can_be_differentiated() -> None:
    source, weight = double(1, 2, 4, 3).requires_grad_(), double(2, 2, 3, 3)
    offset = double(1, 1, 9, 2, 3, 5, spread=0.3)
    place = (pixel_grid(3, 5, offset) + taps(3, offset).view(9, 2, 1, 1) + offset + 0.37).requires_grad_()
    mask = torch.rand(1, 1, 9, 3, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: deformable_conv(*given, weight, None), (source, place, mask))


def test_aggregation_is_that_of_the_papers() -> None:
    """Bounded offsets, and the logit of the mask times the score; without both as in C2-Matching; at first half of a
    plain convolution at the places found."""
    torch.manual_seed(3)
    source, guess, score = double(1, 4, 6, 5), double(1, 4, 6, 5), torch.rand(1, 1, 6, 5, dtype=torch.float64)
    usual = (pixel_grid(6, 5, source) + taps(3, source).view(9, 2, 1, 1))[None]
    layer = DynamicAggregation(4, groups=2, bound=10.0).double()
    plain = F.conv2d(source, layer.weight, padding=1)
    torch.testing.assert_close(layer(source, guess, usual, score), 0.5 * plain + layer.bias.view(1, -1, 1, 1))
    torch.nn.init.normal_(layer.conv_offset_mask.weight)
    made = layer.conv_offset_mask(guess)
    for bound, judged in ((10.0, score), (None, None)):
        layer.bound = bound
        raw = made[:, :36].view(1, 2, 9, 2, 6, 5)
        place = usual[:, None] + (10 * raw.tanh() if bound else raw)
        logit = made[:, 36:].view(1, 2, 9, 6, 5)
        mask = torch.sigmoid(logit * judged[:, :, None] if judged is not None else logit)
        wanted = slow_deformable(source, place.detach(), mask.detach(), layer.weight.detach(), layer.bias.detach())
        torch.testing.assert_close(layer(source, guess, usual, judged).detach(), wanted, rtol=0, atol=1e-9)


def test_rows_are_aligned_one_after_the_other_as_all_at_once(monkeypatch) -> None:
    monkeypatch.setattr(alignment, "_BAND", 20)
    layer = DynamicAggregation(4, groups=2, bound=10.0).double()
    torch.nn.init.normal_(layer.conv_offset_mask.weight)
    source, guess, score = double(1, 4, 9, 7), double(1, 4, 11, 6), torch.rand(1, 1, 11, 6, dtype=torch.float64)
    place = double(1, 9, 2, 11, 6, spread=4.0)
    for judged in (score, None):
        whole = layer(source, guess, place, judged)
        with torch.no_grad():
            torch.testing.assert_close(layer(source, guess, place, judged), whole, rtol=0, atol=1e-9)


# Attention


def test_non_local_block() -> None:
    """Every place against every other, one by one."""
    block = NonLocal(6, pool=2).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    x = double(1, 6, 5, 4)

    def embedded(name: str, place: Tensor) -> Tensor:
        layer = getattr(block, name)
        return layer.weight[:, :, 0, 0] @ place + layer.bias

    keys = {}  # the largest of each 2x2 block, cut at the border
    for row, column in np.ndindex(3, 2):
        keys[row, column] = x[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].amax((1, 2))
    wanted = torch.zeros_like(x)
    for row, column in np.ndindex(5, 4):
        here = x[0, :, row, column]
        likeness = torch.stack([embedded("theta", here) @ embedded("phi", key) for key in keys.values()])
        share = likeness.exp() / likeness.exp().sum()
        looked = sum(part * embedded("g", key) for part, key in zip(share, keys.values(), strict=True))
        wanted[0, :, row, column] = here + embedded("out", looked)
    torch.testing.assert_close(block(x), wanted, rtol=0, atol=1e-9)
    assert torch.equal(NonLocal(6)(x.float()), x.float()), "at first it changes something"


def slow_window_attention(block: torch.nn.Module, x: Tensor, window: int, shift: int, heads: int) -> Tensor:
    """(H, W, F): each token with those of its window, which is cut after the map was rolled by `shift`; tokens that
    were not neighbours before do not see each other."""
    height, width, features = x.shape
    size = features // heads
    qkv = x @ block.qkv.weight.T + block.qkv.bias
    made = torch.zeros_like(x)

    def region(place: int, length: int) -> int:
        """Of the rolled map: the part before the last window, its own part, and what came round the border."""
        return 0 if place < length - window else 1 if place < length - shift else 2

    for row, column in np.ndindex(height, width):
        top, left = row // window * window, column // window * window
        others = [(r, c) for r in range(top, top + window) for c in range(left, left + window)]
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)

            def token(place: tuple[int, int]) -> Tensor:
                return qkv[(place[0] + shift) % height, (place[1] + shift) % width].view(3, features)

            mine = token((row, column))[0][part] * size**-0.5
            logits = []
            for r, c in others:
                table = (row - r + window - 1) * (2 * window - 1) + column - c + window - 1
                logit = mine @ token((r, c))[1][part] + block.relative_position_bias_table[table, head]
                if shift and (region(r, height), region(c, width)) != (region(row, height), region(column, width)):
                    logit = logit - 100
                logits.append(logit)
            share = torch.stack(logits).softmax(0)
            looked = sum(s * token(o)[2][part] for s, o in zip(share, others, strict=True))
            made[(row + shift) % height, (column + shift) % width, part] = looked
    return made @ block.proj.weight.T + block.proj.bias


def test_swin_group() -> None:
    torch.manual_seed(1)
    group = SwinGroup(4, heads=2, window=4, mlp_ratio=2.0, drops=[0.0, 0.0]).double().eval()
    for parameter in group.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = double(1, 4, 8, 12)
    tokens = x[0].permute(1, 2, 0)
    for block, shift in zip(group.blocks, (0, 2), strict=True):
        normed = F.layer_norm(tokens, (4,), block.norm1.weight, block.norm1.bias)
        tokens = tokens + slow_window_attention(block.attn, normed, 4, shift, 2)
        normed = F.layer_norm(tokens, (4,), block.norm2.weight, block.norm2.bias)
        hidden = normed @ block.mlp[0].weight.T + block.mlp[0].bias
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        tokens = tokens + hidden @ block.mlp[3].weight.T + block.mlp[3].bias
    wanted = x + F.conv2d(tokens.permute(2, 0, 1)[None], group.conv.weight, group.conv.bias, padding=1)
    torch.testing.assert_close(group(x), wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [(64, 24), (40, 8), (8, 40), (24, 16), (30, 21)])
@pytest.mark.parametrize("at_once", [1, 500])
def test_blocks_go_band_by_band_as_in_one(monkeypatch, size: tuple[int, int], at_once: int) -> None:
    """Also where windows come round the border, and where there is no whole number of them."""
    group = SwinGroup(8, heads=2, window=8, mlp_ratio=2.0, drops=[0.0, 0.0]).double().eval()
    for parameter in group.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = double(2, 8, *size)
    whole = group(x)
    monkeypatch.setattr("refsr_cli.layers.swin._TOKENS", at_once)
    with torch.no_grad():
        torch.testing.assert_close(group(x), whole, rtol=0, atol=1e-9)


def test_drops_rise_over_all_groups() -> None:
    body = SwinBody(4, (4, 4), (2, 2), 8, 2.0, 0.1)
    drops = [block.stochastic_depth.p for group in body.groups for block in group.blocks]
    assert drops == pytest.approx([0.1 * number / 7 for number in range(8)])


# Whole nets


def small(name: str, **changes: object) -> SRModel:
    """With offsets and attention that do something, as after a training."""
    torch.manual_seed(0)
    model = build(name, 4, {**SMALL[name], **changes}).eval()
    for key, parameter in model.named_parameters():
        if "offset" in key or "out." in key or key.endswith("up_large.tail.2.weight"):
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def photo(height: int, width: int) -> Picture:
    pixels = read_image(trial_photos().folder / "kodim08.png").pixels[100 : 100 + height, 50 : 50 + width]
    return Picture(np.ascontiguousarray(pixels), None, "png", None, None, None)


def references(*names: str) -> RefBank:
    folder = trial_photos().folder
    return RefBank([open_reference(name, lambda name=name: read_rgb8(folder / name)[:, :150, :211]) for name in names])


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(50, 33), (17, 31), (40, 40), (1, 1), (2, 40)])
def test_any_size_with_references_of_other_sizes(name: str, size: tuple[int, int]) -> None:
    upscaler, picture = Upscaler(small(name), device="cpu"), photo(*size)
    bank = references("kodim08.png", "kodim19.png")
    enlarged = finished(upscaler.enlarge(picture, 4 * size[0], 4 * size[1], bank))
    assert enlarged.picture.pixels.shape == (4 * size[0], 4 * size[1], 3)
    assert enlarged.uses and sum(use.share for use in enlarged.uses) == pytest.approx(1)
    again = finished(upscaler.enlarge(picture, 4 * size[0], 4 * size[1], references("kodim19.png", "kodim08.png")))
    assert np.array_equal(enlarged.picture.pixels, again.picture.pixels), "the order of references matters"
    alone = upscaler(picture)
    assert alone.pixels.shape == enlarged.picture.pixels.shape
    assert not np.array_equal(alone.pixels, enlarged.picture.pixels), "the reference makes no difference"


@pytest.mark.parametrize("name", SMALL)
def test_tiles_are_as_the_whole(name: str) -> None:
    picture, bank = photo(72, 56), references("kodim08.png")
    whole, tiled = (
        finished(Upscaler(small(name), device="cpu", tile=tile).enlarge(picture, 288, 224, bank)).picture.pixels
        for tile in (0, 24)
    )
    error = np.mean((whole.astype(float) - tiled) ** 2)
    assert error < 255**2 / 10**5, "less than 50 dB"
    assert whole.std() > 3, "there is nothing to compare"


@pytest.mark.parametrize("name", SMALL)
def test_self_ensemble_turns_the_references_along(name: str) -> None:
    """A net that turns with its input answers the same in each orientation: here the mean is that of eight runs, none
    of whose results is clamped."""
    picture, bank, model = photo(24, 16), references("kodim08.png"), small(name)
    usual = model.forward
    model.forward = lambda lr, part: torch.sigmoid(4 * usual(lr, part))  # within what a picture can hold
    enlarged = finished(Upscaler(model, device="cpu", self_ensemble=True).enlarge(picture, 96, 64, bank))
    total = np.zeros((96, 64, 3))
    for turns in range(4):
        for mirrored in (False, True):

            def turn(pixels: np.ndarray, turns: int = turns, mirrored: bool = mirrored) -> np.ndarray:
                pixels = np.rot90(pixels, turns)
                return np.ascontiguousarray(pixels[:, ::-1] if mirrored else pixels)

            ref = torch.from_numpy(turn(bank.references[0].load().permute(1, 2, 0).numpy())).permute(2, 0, 1)
            turned = RefBank([open_reference("turned", lambda ref=ref: ref.contiguous())])
            its = Picture(turn(picture.pixels), None, "png", None, None, None)
            made = Upscaler(model, device="cpu")(its, refs=turned).pixels.astype(float)
            made = made[:, ::-1] if mirrored else made
            total += np.rot90(made, -turns)
    assert np.abs(enlarged.picture.pixels - total / 8).max() <= 1.01


@pytest.mark.parametrize("name", SMALL)
def test_half_the_bits_read_at_the_same_places(name: str) -> None:
    """Also far from the corner, where bfloat16 counts by twos and fours, and with offsets that are parts of a pixel."""
    model, lr, reference = small(name), torch.rand(1, 3, 96, 16), torch.rand(1, 3, 384, 64)
    for key, weight in model.named_parameters():
        if "offsets.weight" in key or "conv_offset_mask.weight" in key:
            torch.nn.init.normal_(weight, std=0.1)
    with torch.no_grad():
        exact = model(lr, model.look(lr, [reference]))
        with torch.autocast("cpu", torch.bfloat16):
            guide = model.look(lr, [reference])
            rough = model(lr, guide)
    if isinstance(guide, Textures):
        assert torch.equal(guide.flow, model.look(lr, [reference]).flow)
    assert float((exact - rough.float()).square().mean()) < 1e-5  # 50 dB


def test_several_places_in_a_reference_of_one_patch() -> None:
    model, lr = small("datsr", matches=2), torch.rand(1, 3, 8, 8)
    for reference in (torch.rand(1, 3, 12, 12), torch.rand(1, 3, 5, 40)):
        for memory in (None, 1):
            guide = model.look(lr, [reference], memory)
            assert guide.flow.shape == (1, 2, 2, 8, 8)
            assert torch.isfinite(model(lr, guide)).all()


@pytest.mark.parametrize(
    ("name", "most", "size"), [("ssen", 16, (240, 160)), ("c2", 32, (120, 100)), ("datsr", 32, (120, 100))]
)
def test_memory_is_kept_to(name: str, most: int, size: tuple[int, int]) -> None:
    """What lives at once, of tensors, while a picture is enlarged that would need several times as much."""
    fewer = {"ssen": {}, "c2": {"matched": (4, 6, 8)}, "datsr": {"matched": (4, 6, 8), "depths": (1,), "heads": (2,)}}
    model = small(name, **fewer[name])
    upscaler, whole = (
        Upscaler(model, device="cpu", precision="fp32", **how) for how in ({"memory": most * 2**20}, {"tile": 0})
    )
    picture, bank = photo(*size), references("kodim08.png")
    upscaler(photo(8, 8), refs=bank)  # measures what a pixel takes
    peaks = []
    for its in (upscaler, whole):
        with Held() as held:
            its(picture, refs=bank)
        peaks.append(held.peak / 2**20)
    assert peaks[0] < most < peaks[1] / 2, peaks


def test_ssen_does_not_say_how_like_a_reference_is() -> None:
    picture, bank = photo(16, 16), references("kodim08.png")
    (use,) = finished(Upscaler(small("ssen"), device="cpu").enlarge(picture, 64, 64, bank)).uses
    assert (use.share, use.trust, use.likeness) == (1.0, None, None)
    (use,) = finished(Upscaler(small("c2"), device="cpu").enlarge(picture, 64, 64, bank)).uses
    assert use.trust is None and use.likeness is not None and -1 <= use.likeness <= 1


def test_without_a_reference_the_picture_is_its_own() -> None:
    for name in SMALL:
        model, lr = small(name), torch.rand(1, 3, 16, 24)
        large = F.interpolate(lr, scale_factor=4, mode="bicubic", antialias=True).clamp(0, 1)
        if name != "ssen":  # the others match what Pillow makes of a file
            planes = lr[0].mul(255).round().byte().numpy()
            resized = [
                np.asarray(Image.fromarray(plane).resize((96, 64), Image.Resampling.BICUBIC)) for plane in planes
            ]
            large = torch.from_numpy(np.stack(resized))[None] / 255
        torch.testing.assert_close(model(lr, model.look(lr, [])), model(lr, model.look(lr, [large])))


def test_more_matches_are_mixed_by_their_scores() -> None:
    """With two equal scores each counts by half; a second one that is nothing like it hardly counts."""
    model = small("datsr", matches=2)
    lr, ref = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 64, 64)
    guide = model.look(lr, [ref])
    assert guide.score.shape == (1, 2, 16, 16) and (guide.score[:, 0] >= guide.score[:, 1]).all()
    swapped = replace(guide, flow=guide.flow.flip(1), score=guide.score.flip(1))
    torch.testing.assert_close(model(lr, guide), model(lr, swapped))


def test_fixed_matching_finds_the_picture_in_a_moved_one() -> None:
    """To parts of a cell, with no weights: what is warped is the picture."""
    model = small("datsr", matching="fixed")
    hr = read_rgb8(trial_photos().folder / "kodim08.png")[None, :, 100:292, 60:252].float() / 255
    lr = F.interpolate(hr, scale_factor=0.25, mode="bicubic", antialias=True).clamp(0, 1)
    moved = hr[..., 5:, 7:]
    guide = model.look(lr, [moved])
    inner = (..., slice(12, -24), slice(12, -24))
    guide.maps[1] = torch.cat([moved, moved[:, :1]], 1)  # what is read is seen
    shown = guide.warped(4)[:, :3]
    assert F.mse_loss(shown[inner], hr[inner]).log10() * -10 > 25
    assert F.mse_loss(guide.unmoved(4)[:, :3][inner], hr[inner]).log10() * -10 < 20


# Starting


def test_an_untrained_datsr_gives_its_base_and_hears_the_reference() -> None:
    """With all of the paper's widths: what is read of the reference is about as strong as what it is joined with."""
    torch.manual_seed(0)
    model = build("datsr", 4, {"content_blocks": 0}).eval()
    lr, strengths = photo(16, 16).pixels, []
    lr = torch.from_numpy(lr.copy()).permute(2, 0, 1)[None].float() / 255
    for name, module in model.restoration.named_modules():
        if name.endswith(".aggregation"):
            module.register_forward_hook(lambda _, given, answer: strengths.append(answer.std() / given[1].std()))
    with torch.no_grad():
        guide = model.look(lr, [read_rgb8(trial_photos().folder / "kodim08.png")[None, :, :96, :96].float() / 255])
        base = F.interpolate(lr, scale_factor=4, mode="bilinear", align_corners=False)
        torch.testing.assert_close(model(lr, guide), base)
    assert len(strengths) == 5 and all(0.2 < strength < 5 for strength in strengths)


def test_ssen_equals_the_edsr_it_starts_from() -> None:
    """Whatever the reference shows, borders included; and a net of other numbers is refused."""
    edsr = build("edsr-baseline", 4, {"features": 8, "blocks": 2})
    model = build("ssen", 4, {**SMALL["ssen"], "from_edsr": True})
    lr, reference = torch.rand(1, 3, 16, 24), torch.rand(1, 3, 70, 50)
    assert (model(lr, model.look(lr, [reference])) - edsr(lr)).abs().max() > 0.01
    assert "of an edsr" in model.start_from(edsr, "an edsr")
    torch.testing.assert_close(model(lr, model.look(lr, [reference])), edsr(lr))
    for other in (build("edsr-baseline", 4, {"features": 8, "blocks": 3}), build("edsr-baseline", 2)):
        with pytest.raises(BadSetting, match="an edsr is no EDSR to start from"):
            model.start_from(other, "an edsr")
    with pytest.raises(BadSetting, match="from_edsr=true"):
        small("ssen").start_from(edsr, "an edsr")


@pytest.mark.parametrize("name", ["c2", "datsr"])
def test_nets_with_a_trunk_add_to_its_result(name) -> None:
    """It is not trained further, and has to be the EDSR that is named."""
    edsr = build("edsr-baseline", 4, {"blocks": 2})
    model = small(name, trunk_blocks=2)
    assert model.start_from(edsr, "an edsr").startswith("trunk: ")
    lr, reference = torch.rand(1, 3, 16, 24), torch.rand(1, 3, 70, 50)
    guide = model.look(lr, [reference])
    added = model.restoration(lr, edsr(lr), guide)
    torch.testing.assert_close(model(lr, guide), edsr(lr) + added)
    assert not any(weight.requires_grad for weight in model.trunk.parameters())
    with pytest.raises(BadSetting, match="another net"):
        model.start_from(build("edsr-baseline", 4, {"blocks": 3}), "an edsr")
    with pytest.raises(BadSetting, match="not the trunk of this net"):  # what enlarges would stay untrained
        model.start_from(build("edsr-baseline", 2, {"blocks": 2}), "an edsr")
    with pytest.raises(BadSetting, match="another net"):
        small(name).start_from(edsr, "an edsr")


# Published files


def conv_keys(name: str, inputs: int, outputs: int, kernel: int = 3) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs, kernel, kernel), f"{name}.bias": (outputs,)}


def matcher_keys() -> dict[str, tuple[int, ...]]:
    keys: dict[str, tuple[int, ...]] = {}
    for image in (1, 2):
        start = f"feature_extraction_image{image}"
        keys |= {f"{start}.mean": (1, 3, 1, 1), f"{start}.std": (1, 3, 1, 1)}
        for name, inputs, outputs in (
            ("conv1_1", 3, 64), ("conv1_2", 64, 64), ("conv2_1", 64, 128), ("conv2_2", 128, 128), ("conv3_1", 128, 256),
        ):  # fmt: skip
            keys |= conv_keys(f"{start}.model.{name}", inputs, outputs)
    return keys


def vgg_keys() -> dict[str, tuple[int, ...]]:
    keys: dict[str, tuple[int, ...]] = {"classifier.6.bias": (1000,), **conv_keys("features.12", 256, 256)}
    for number, inputs, outputs in ((0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128), (10, 128, 256)):
        keys |= conv_keys(f"features.{number}", inputs, outputs)
    return keys


def c2_keys() -> dict[str, tuple[int, ...]]:
    keys = conv_keys("content_extractor.conv_first", 3, 64)
    for block in range(16):
        for number in (1, 2):
            keys |= conv_keys(f"content_extractor.body.{block}.conv{number}", 64, 64)
            for size in ("small", "medium", "large"):
                keys |= conv_keys(f"dyn_agg_restore.body_{size}.{block}.conv{number}", 64, 64)
    for size, width in (("small", 256), ("medium", 128), ("large", 64)):
        start = "dyn_agg_restore."
        keys |= conv_keys(f"{start}{size}_offset_conv1", 64 + width, width)
        keys |= conv_keys(f"{start}{size}_offset_conv2", width, width)
        keys |= conv_keys(f"{start}{size}_dyn_agg", width, width)
        keys |= conv_keys(f"{start}{size}_dyn_agg.conv_offset_mask", width, 216)
        keys |= conv_keys(f"{start}head_{size}.0", 64 + width, 64)
        if size != "large":
            keys |= conv_keys(f"{start}tail_{size}.0", 64, 256)
    return keys | conv_keys("dyn_agg_restore.tail_large.0", 64, 32) | conv_keys("dyn_agg_restore.tail_large.2", 32, 3)


def datsr_keys() -> dict[str, tuple[int, ...]]:
    keys = conv_keys("content_extractor.conv_first", 3, 128) | conv_keys("dyn_agg_restore.unet_head", 3, 128)
    for block in range(8):
        for number in (1, 2):
            keys |= conv_keys(f"content_extractor.body.{block}.conv{number}", 128, 128)
    windows = {"large": 400, "medium": 100, "small": 25}
    for way, size, width in (
        ("down", "large", 64), ("down", "medium", 128), ("up", "small", 256), ("up", "medium", 128),
        ("up", "large", 64),
    ):  # fmt: skip
        start = "dyn_agg_restore."
        keys |= conv_keys(f"{start}{way}_{size}_offset_conv1", 128 + 2 * width, width)
        keys |= conv_keys(f"{start}{way}_{size}_offset_conv2", width, width)
        keys |= conv_keys(f"{start}{way}_{size}_dyn_agg", width, width)
        keys |= conv_keys(f"{start}{way}_{size}_dyn_agg.conv_offset_mask", width, 216)
        keys |= conv_keys(f"{start}{way}_head_{size}.0", 128 + width, 128)
        body = f"{start}{way}_body_{size}"
        for norm in ("patch_embed.norm", "norm"):
            keys |= {f"{body}.{norm}.weight": (128,), f"{body}.{norm}.bias": (128,)}
        for layer in range(2):
            keys |= conv_keys(f"{body}.layers.{layer}.conv", 128, 128)
            for number in range(4):
                block_name = f"{body}.layers.{layer}.residual_group.blocks.{number}"
                keys |= {
                    f"{block_name}.{norm}.{kind}": (128,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")
                }
                keys |= {
                    f"{block_name}.attn.relative_position_bias_table": (225, 4),
                    f"{block_name}.attn.relative_position_index": (64, 64),
                    f"{block_name}.attn.qkv.weight": (384, 128),
                    f"{block_name}.attn.qkv.bias": (384,),
                    f"{block_name}.attn.proj.weight": (128, 128),
                    f"{block_name}.attn.proj.bias": (128,),
                    f"{block_name}.mlp.fc1.weight": (256, 128),
                    f"{block_name}.mlp.fc1.bias": (256,),
                    f"{block_name}.mlp.fc2.weight": (128, 256),
                    f"{block_name}.mlp.fc2.bias": (128,),
                }
                if number % 2:
                    keys[f"{block_name}.attn_mask"] = (windows[size], 64, 64)
    for name in ("down_tail_large", "down_tail_medium"):
        keys |= conv_keys(f"dyn_agg_restore.{name}", 128, 128)
    for name in ("up_tail_small.0", "up_tail_medium.0"):
        keys |= conv_keys(f"dyn_agg_restore.{name}", 128, 512)
    return (
        keys
        | conv_keys("dyn_agg_restore.up_tail_large.0", 128, 64)
        | conv_keys("dyn_agg_restore.up_tail_large.2", 64, 3)
    )


def relative_positions() -> Tensor:
    """Of every token of an 8x8 window to every other, as Swin's own code numbers them."""
    place = torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")).flatten(1)
    step = place[:, :, None] - place[:, None] + 7
    return step[0] * 15 + step[1]


def published(keys: dict[str, tuple[int, ...]], path: Path) -> Path:
    tensors = {key: torch.randn(shape) * 0.02 for key, shape in keys.items()}
    tensors |= {key: relative_positions() for key in keys if key.endswith("relative_position_index")}
    torch.save(tensors, path)
    return path


PUBLISHED: dict[str, tuple[Callable[[], dict[str, tuple[int, ...]]], int]] = {
    "c2": (c2_keys, 8_865_547),
    "datsr": (datsr_keys, 18_026_971),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_fit(tmp_path: Path, name: str) -> None:
    """Three files make one net; every tensor in them is where the paper has it, and none is left over."""
    keys, count = PUBLISHED[name]
    net = published(keys(), tmp_path / "restoration.pth")
    matcher = published(matcher_keys(), tmp_path / "feature_extraction.pth")
    vgg = published(vgg_keys(), tmp_path / "vgg19.pth")
    loaded = load_any(net, matcher, vgg)
    assert (loaded.name, loaded.model.scale, loaded.metadata["source"]) == (name, 4, name)
    assert loaded.model.config == build(name, 4).config
    restored = sum(parameter.numel() for parameter in loaded.model.restoration.parameters())
    assert restored == count
    assert sum(p.numel() for p in loaded.model.correspondence.parameters()) == 1_110_656
    mine = {key: value.double().abs().sum() for key, value in loaded.model.state_dict().items()}
    theirs = torch.load(net, weights_only=True)
    left_out = ("attn_mask", "relative_position_index")
    total = sum(value.double().abs().sum() for key, value in theirs.items() if not key.endswith(left_out))
    ours = sum(v for k, v in mine.items() if k.startswith("restoration.") and not k.endswith(left_out))
    torch.testing.assert_close(total, ours)
    stem = torch.load(vgg, weights_only=True)
    assert torch.equal(loaded.model.stem.conv3_1.weight, stem["features.10.weight"])
    lr = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        assert loaded.model.eval()(lr, loaded.model.look(lr, [torch.rand(1, 3, 50, 70)])).shape == (1, 3, 64, 64)


def test_published_files_that_do_not_fit(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    net = published(c2_keys(), tmp_path / "restoration.pth")
    matcher = published(matcher_keys(), tmp_path / "feature_extraction.pth")
    with pytest.raises(BadWeights, match=r"name the file that matches too: --weights feature_extraction\.pth"):
        load_any(net)
    with pytest.raises(BadWeights, match="slice-vgg"):
        load_any(net, matcher)
    with pytest.raises(BadWeights, match="without the net"):
        load_any(matcher)
    with pytest.raises(BadWeights, match="both hold content_extractor"):
        load_any(net, net)
    vgg = published(vgg_keys(), tmp_path / "vgg19.pth")
    with pytest.raises(BadWeights, match="VGG-19, a part of"):
        load_any(vgg)
    keys = c2_keys()
    del keys["dyn_agg_restore.head_medium.0.bias"]
    with pytest.raises(BadWeights, match=r"1 missing \(dyn_agg_restore\.head_medium\.0\.bias\)"):
        load_any(published(keys, tmp_path / "cut.pth"), matcher, vgg)
    with pytest.raises(BadWeights, match="MRefSR"):
        load_any(published({"dyn_agg_restore.head_small.conv_emb1.0.weight": (1,)}, tmp_path / "m.pth"))


def test_the_stem_of_vgg(tmp_path: Path) -> None:
    """What is sliced is read as the whole file is, and a file that is something else is refused."""
    vgg = published(vgg_keys(), tmp_path / "vgg19.pth")
    out = tmp_path / "stem.safetensors"
    *_, sliced = slice_vgg(SliceConfig(weights=vgg, output=out))
    assert sliced.bytes == out.stat().st_size < 2_300_000
    net = published(c2_keys(), tmp_path / "restoration.pth")
    matcher = published(matcher_keys(), tmp_path / "feature_extraction.pth")
    one, two = (load_any(net, matcher, path).model.stem.state_dict() for path in (vgg, out))
    assert all(torch.equal(one[key], two[key]) for key in one)
    with pytest.raises(BadSetting, match="--overwrite"):
        list(slice_vgg(SliceConfig(weights=vgg, output=out)))
    with pytest.raises(BadWeights, match="is not VGG-19"):
        list(slice_vgg(SliceConfig(weights=matcher, output=tmp_path / "b.safetensors")))
    thin = {key: (3, *shape[1:]) if key == "features.5.bias" else shape for key, shape in vgg_keys().items()}
    with pytest.raises(BadWeights, match=r"features\.5\.bias is 3, not 128"):
        list(slice_vgg(SliceConfig(weights=published(thin, tmp_path / "thin.pth"), output=tmp_path / "b.safetensors")))
    assert not (tmp_path / "b.safetensors").exists()


def test_the_stem_is_torchvisions_vgg() -> None:
    from torchvision.models import vgg19

    theirs = vgg19(weights=None).features[:12].eval()
    ours = VGGStem()
    numbers = {"conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7, "conv3_1": 10}
    ours.load_state_dict(
        {f"{name}.{kind}": getattr(theirs[n], kind) for name, n in numbers.items() for kind in ("weight", "bias")}
    )
    x = torch.rand(1, 3, 20, 16)
    normal = (x - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        1, 3, 1, 1
    )
    for found, end in zip(ours(x), (2, 7, 11), strict=True):
        torch.testing.assert_close(found, theirs[:end](normal))
