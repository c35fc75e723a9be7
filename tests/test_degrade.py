"""Low-resolution pictures made from high-resolution ones."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from refsr_cli.data.degrade import degrade_bicubic, modcrop

SCALES = (2, 3, 4, 8)


@given(scale=st.sampled_from(SCALES), height=st.integers(8, 30), width=st.integers(8, 30))
def test_modcrop_keeps_the_largest_top_left_part_that_the_scale_divides(scale: int, height: int, width: int) -> None:
    image = torch.arange(3 * height * width).view(3, height, width)
    cropped = modcrop(image, scale)
    assert all(size % scale == 0 for size in cropped.shape[1:])
    assert height - scale < cropped.shape[1] <= height
    assert width - scale < cropped.shape[2] <= width
    assert torch.equal(cropped, image[:, : cropped.shape[1], : cropped.shape[2]])


@pytest.mark.parametrize("scale", SCALES)
def test_degraded_photo_is_matlabs_rounded_to_eight_bit(matlab_imresize, photo: Tensor, scale: int) -> None:
    expected = matlab_imresize(photo.numpy(), 192 // scale, 240 // scale).clip(0, 255)
    lr = degrade_bicubic(photo[None].double() / 255, scale)[0] * 255
    unambiguous = np.abs(expected % 1 - 0.5) > 1e-6  # halves may be rounded either way
    assert unambiguous.mean() > 0.98
    np.testing.assert_allclose(lr[torch.from_numpy(unambiguous)], expected.round()[unambiguous], rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", SCALES)
def test_degraded_image_holds_eight_bit_values_only(scale: int) -> None:
    edges = (torch.rand(2, 3, 6 * scale, 5 * scale) > 0.5).float()  # bicubic overshoots at edges
    lr = degrade_bicubic(edges, scale)
    assert lr.shape == (2, 3, 6, 5)
    assert lr.min() >= 0 and lr.max() <= 1
    assert torch.equal(lr, lr.mul(255).round().div(255))


def test_degrading_takes_each_channel_and_image_by_itself(photo: Tensor) -> None:
    hr = photo[None].float() / 255
    batch = torch.cat([hr, hr.flip(-1)])
    lr = degrade_bicubic(batch, 4)
    assert torch.equal(lr[1:], degrade_bicubic(batch[1:], 4))
    assert torch.equal(lr[:, 1:2], degrade_bicubic(batch[:, 1:2], 4))
