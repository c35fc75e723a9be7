"""Blocks, folded tails and resampling."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from refsr_cli.errors import BadSetting
from refsr_cli.layers.blocks import ResBlock, Upsampler, conv, upsampler_radius
from refsr_cli.layers.folding import apply_folded, fold_tail
from refsr_cli.layers.products import products
from refsr_cli.layers.resample import (
    downscale,
    grid_sample,
    local_mean,
    resize,
    resize_bytes,
    scaled_bytes,
    upscale,
)

SCALES = (2, 3, 4, 8)
FEATURES = 5


def random_image(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# Blocks


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_conv_keeps_height_and_width(kernel: int) -> None:
    assert conv(3, 4, kernel)(torch.rand(1, 3, 6, 9)).shape == (1, 4, 6, 9)


@pytest.mark.parametrize("res_scale", [1.0, 0.1])
def test_res_block_is_its_formula(res_scale: float) -> None:
    block = ResBlock(4, kernel=5, res_scale=res_scale)
    x = torch.randn(1, 4, 7, 6)
    before = x.clone()
    hidden = F.conv2d(x, block.conv1.weight, block.conv1.bias, padding=2).relu()
    expected = x + res_scale * F.conv2d(hidden, block.conv2.weight, block.conv2.bias, padding=2)
    torch.testing.assert_close(block(x), expected)
    assert torch.equal(x, before), "the input was changed in place"


@pytest.mark.parametrize("scale", SCALES)
def test_upsampler_is_affine_and_enlarges(scale: int) -> None:
    upsampler = Upsampler(4, scale).double()
    a, b = (torch.randn(1, 4, 5, 3, dtype=torch.float64) for _ in range(2))
    assert upsampler(a).shape == (1, 4, 5 * scale, 3 * scale)
    constant = upsampler(torch.zeros_like(a))
    torch.testing.assert_close(upsampler(a + b) - constant, upsampler(a) + upsampler(b) - 2 * constant)


@pytest.mark.parametrize("scale", [-2, 0, 1, 5, 6])
def test_upsampler_refuses_other_scales(scale: int) -> None:
    with pytest.raises(BadSetting, match=f"not {scale}$"):
        Upsampler(4, scale)


@pytest.mark.parametrize("scale", SCALES)
def test_upsampler_radius_is_what_the_gradient_reaches(scale: int) -> None:
    tail = nn.Sequential(Upsampler(4, scale), conv(4, 3)).double()
    x = torch.randn(1, 4, 9, 9, dtype=torch.float64, requires_grad=True)
    middle = slice(4 * scale, 5 * scale)
    tail(x)[..., middle, middle].sum().backward()
    assert x.grad is not None
    reached = x.grad.abs().sum((0, 1)).nonzero() - 4
    assert int(reached.abs().max()) == math.ceil(upsampler_radius(scale))


# Folding


def fold(tail: nn.Module, scale: int) -> tuple[Tensor, Tensor]:
    return fold_tail(tail, FEATURES, scale, next(tail.parameters()))


def make_tail(scale: int) -> nn.Module:
    """An EDSR tail with random weights and biases, in float64."""
    return nn.Sequential(Upsampler(FEATURES, scale), conv(FEATURES, 3)).double()


@given(scale=st.sampled_from(SCALES), height=st.integers(1, 7), width=st.integers(1, 7), seed=st.integers(0, 99))
def test_folded_tail_equals_tail_but_for_the_outermost_scale_pixels(
    scale: int, height: int, width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    tail = make_tail(scale)
    x = torch.randn(2, FEATURES, height, width, dtype=torch.float64)
    true, folded = tail(x), apply_folded(*fold(tail, scale), x, scale)
    assert folded.shape == true.shape
    inside = (..., slice(scale, -scale), slice(scale, -scale))
    torch.testing.assert_close(folded[inside], true[inside], rtol=0, atol=1e-12)
    assert not torch.allclose(folded[..., 0, :], true[..., 0, :]), "the tail pads between its layers, the fold cannot"


@pytest.mark.parametrize("scale", SCALES)
def test_gradients_through_the_fold_are_those_through_the_tail(scale: int) -> None:
    tail = make_tail(scale)
    x = torch.randn(2, FEATURES, 5, 6, dtype=torch.float64, requires_grad=True)
    target = torch.randn(2, 3, 5 * scale, 6 * scale, dtype=torch.float64)
    inside = (..., slice(scale, -scale), slice(scale, -scale))

    def gradients(sr: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((sr - target)[inside].square().sum(), [x, *tail.parameters()])

    through_tail = gradients(tail(x))
    through_fold = gradients(apply_folded(*fold(tail, scale), x, scale))
    for folded, true in zip(through_fold, through_tail, strict=True):
        assert true.abs().max() > 0
        torch.testing.assert_close(folded, true)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_folded_tail_has_the_number_format_of_the_tail(dtype: torch.dtype) -> None:
    assert {tensor.dtype for tensor in fold(make_tail(2).to(dtype), 2)} == {dtype}


def test_autocast_does_not_make_the_fold_rough() -> None:
    tail = make_tail(2).float()
    with torch.autocast("cpu", torch.bfloat16):
        rough = fold(tail, 2)
    for found, exact in zip(rough, fold(tail.double(), 2), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, atol=1e-6, rtol=1e-5)


# Resampling


@given(scale=st.sampled_from(SCALES), height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 99))
def test_downscale_and_upscale_are_matlabs_imresize(
    matlab_imresize, scale: int, height: int, width: int, seed: int
) -> None:
    small, large = random_image(seed, 1, 2, height, width), random_image(seed, 1, 2, height * scale, width * scale)
    shrunk = matlab_imresize(large.numpy(), height, width)
    enlarged = matlab_imresize(small.numpy(), height * scale, width * scale)
    np.testing.assert_allclose(downscale(large, scale).numpy(), shrunk, rtol=0, atol=1e-9)
    np.testing.assert_allclose(upscale(small, scale).numpy(), enlarged, rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 29), (29, 1), (2, 3)])
def test_thin_images_are_mirrored_over_and_over(matlab_imresize, scale: int, shape: tuple[int, int]) -> None:
    height, width = shape
    large = random_image(scale, 1, 1, height * scale, width * scale)
    small = random_image(scale, 1, 1, height, width)
    np.testing.assert_allclose(downscale(large, scale), matlab_imresize(large.numpy(), height, width), atol=1e-9)
    enlarged = matlab_imresize(small.numpy(), height * scale, width * scale)
    np.testing.assert_allclose(upscale(small, scale), enlarged, atol=1e-9)


@pytest.mark.parametrize("scale", SCALES)
def test_resampling_a_published_image_is_matlabs(matlab_imresize, shared_data, read_exact, scale: int) -> None:
    image = read_exact(shared_data / "eval/Set5/butterfly.png")[..., :240, :192] * 255
    small = downscale(image, scale)
    np.testing.assert_allclose(small, matlab_imresize(image.numpy(), 240 // scale, 192 // scale), rtol=0, atol=1e-9)
    np.testing.assert_allclose(upscale(small, scale), matlab_imresize(small.numpy(), 240, 192), rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", SCALES)
def test_float32_is_accurate_to_a_hundredth_of_a_grey_level(photo: Tensor, scale: int) -> None:
    image = photo[None, :, :96, :120].float() / 255
    for resample in (downscale, upscale):
        exact = resample(image.double(), scale)
        torch.testing.assert_close(resample(image, scale).double(), exact, rtol=0, atol=0.01 / 255)


@pytest.mark.parametrize("size", [(5, 23), (17, 11), (40, 3)])
def test_resize_is_matlabs_away_from_the_border_at_any_size(matlab_imresize, size: tuple[int, int]) -> None:
    image = random_image(0, 1, 1, 30, 30)
    height, width = size
    result, expected = resize(image, height, width), matlab_imresize(image.numpy(), height, width)
    rows, columns = (math.ceil(2 * max(1, new / 30)) for new in size)
    inside = (..., slice(rows, height - rows), slice(columns, width - columns))
    assert result.shape == expected.shape
    np.testing.assert_allclose(result[inside], expected[inside], rtol=0, atol=1e-9)


def test_resize_to_the_same_size_changes_nothing() -> None:
    image = random_image(0, 1, 3, 6, 7)
    assert torch.equal(resize(image, 6, 7), image)


def test_bytes_are_resized_as_floats_are_and_rounded(photo: Tensor) -> None:
    expected = resize(photo[None].double(), 70, 91)[0].clamp(0, 255).round()
    found = resize_bytes(photo, 70, 91)
    assert found.dtype == torch.uint8 and found.shape == (3, 70, 91)
    assert (found.double() - expected).abs().max() <= 1 and (found != expected).float().mean() < 0.01
    assert resize_bytes(photo, *photo.shape[1:]) is photo
    assert scaled_bytes(photo, 0.5).shape == (3, 96, 120) and scaled_bytes(photo, 1e-6).shape == (3, 1, 1)


@given(
    channels=st.integers(1, 3),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    places=st.sampled_from([0, 1, 50, 4095, 4096, 5003]),
    mode=st.sampled_from(["bilinear", "bicubic"]),
    align_corners=st.booleans(),
)
def test_one_picture_shared_among_processors_is_read_as_it_is(channels, height, width, places, mode, align_corners):
    image = random_image(height, channels, height, width)
    where = 2.4 * random_image(width, 2, places) - 1.2
    how = {"mode": mode, "padding_mode": "border", "align_corners": align_corners}
    expected = F.grid_sample(image[None], where.flip(0).T.view(1, 1, -1, 2), **how)[0, :, 0]
    torch.testing.assert_close(grid_sample(image, where, mode, align_corners=align_corners), expected)


@given(height=st.integers(1, 20), width=st.integers(1, 20), side=st.sampled_from([1, 3, 5, 9]))
def test_a_local_mean_is_that_of_the_square_around(height, width, side):
    image = random_image(height * 21 + width, 2, 3, height, width)
    local = local_mean(image, side)
    for row, column in {(0, 0), (height - 1, width // 2), (height // 2, width - 1)}:
        rows = torch.arange(row - side // 2, row + side // 2 + 1).clamp(0, height - 1)
        columns = torch.arange(column - side // 2, column + side // 2 + 1).clamp(0, width - 1)
        torch.testing.assert_close(local[:, :, row, column], image[:, :, rows][..., columns].mean((2, 3)))
    assert local_mean(image.bfloat16(), side).dtype == torch.bfloat16


@given(rows=st.integers(1, 40), channels=st.integers(1, 70), features=st.integers(1, 40), biased=st.booleans())
def test_products_are_those_of_matrices(rows, channels, features, biased):
    left, right = random_image(rows, rows, channels), random_image(channels, features, channels)
    bias = random_image(features, features) if biased else None
    expected = left @ right.T + (0 if bias is None else bias)
    single = (None if its is None else its.float() for its in (left, right, bias))
    result = products(*single)
    assert result.is_contiguous()
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(products(left, right, bias), F.linear(left, right, bias))
