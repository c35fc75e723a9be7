"""PSNR, SSIM and luma against scikit-image, and protocols against the figures papers print."""

import math
from statistics import fmean

import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from refsr_cli.data.degrade import degrade_bicubic, modcrop
from refsr_cli.errors import UnknownName
from refsr_cli.metrics import PROTOCOLS, luma, protocol_named, psnr, score, ssim
from refsr_cli.models import build


def skimage_ssim(a: Tensor, b: Tensor) -> float:
    """Of two (1, C, H, W): scikit-image drops the border that its window does not fit in, as we do."""
    return float(
        structural_similarity(
            a[0].double().numpy(),
            b[0].double().numpy(),
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
        )
    )


@pytest.fixture(scope="module")
def pair(photo: Tensor) -> tuple[Tensor, Tensor]:
    """A photo in 0..255 and what bicubic makes of a third of its resolution, both (1, 3, H, W) float64."""
    hr = photo[None].double()
    sr = build("bicubic", 3)(degrade_bicubic(hr / 255, 3))
    return sr.clamp(0, 1).mul(255).round(), hr


def test_luma_is_scikit_images(photo: Tensor) -> None:
    expected = rgb2ycbcr(photo.permute(1, 2, 0).numpy())[..., 0]
    for image in (photo[None], photo[None].float(), photo[None].double()):
        np.testing.assert_allclose(luma(image)[0, 0], expected, rtol=0, atol=1e-9)


def test_luma_runs_from_16_to_235() -> None:
    black_and_white = torch.tensor([0.0, 255.0], dtype=torch.float64).expand(1, 3, 1, 2)
    assert luma(black_and_white).flatten().tolist() == pytest.approx([16, 235], abs=1e-9)


def test_psnr_is_scikit_images(pair: tuple[Tensor, Tensor]) -> None:
    sr, hr = pair
    assert psnr(sr, hr) == pytest.approx(peak_signal_noise_ratio(hr.numpy(), sr.numpy(), data_range=255), abs=1e-9)


def test_psnr_of_equal_images_is_infinite(photo: Tensor) -> None:
    assert psnr(photo[None], photo[None]) == math.inf


def test_metrics_of_bytes_do_not_wrap_around() -> None:
    black, white = torch.zeros(1, 1, 11, 11, dtype=torch.uint8), torch.full((1, 1, 11, 11), 255, dtype=torch.uint8)
    assert psnr(black, white) == psnr(white, black) == 0
    assert ssim(white, white) == pytest.approx(1)


def test_ssim_is_scikit_images(pair: tuple[Tensor, Tensor]) -> None:
    sr, hr = pair
    assert ssim(sr, hr) == pytest.approx(skimage_ssim(sr, hr), abs=1e-9)
    assert ssim(luma(sr), luma(hr)) == pytest.approx(skimage_ssim(luma(sr), luma(hr)), abs=1e-9)


@pytest.mark.parametrize("size", [(11, 11), (11, 14), (30, 12)])
def test_ssim_of_an_image_hardly_larger_than_the_window(pair: tuple[Tensor, Tensor], size: tuple[int, int]) -> None:
    sr, hr = (image[..., : size[0], : size[1]] for image in pair)
    assert ssim(sr, hr) == pytest.approx(skimage_ssim(sr, hr), abs=1e-9)


def test_ssim_of_an_image_smaller_than_the_window_is_not_a_number() -> None:
    assert math.isnan(ssim(torch.zeros(1, 1, 10, 40), torch.zeros(1, 1, 10, 40)))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_score_is_the_metric_of_the_shaved_eight_bit_images(pair: tuple[Tensor, Tensor], name: str) -> None:
    sr, hr = pair
    border = {"y": 4, "rgb": 4, "ntire": 10, "srgan": 4, "c2": 4, "ttsr": 0, "masa": 0}[name]
    unrounded = (sr + 0.3 * torch.rand_like(sr)) / 255  # rounds back to `sr`
    a, b = (image[..., border : image.shape[-2] - border, border : image.shape[-1] - border] for image in (sr, hr))
    if name not in ("rgb", "ntire"):
        a, b = (luma(image, PROTOCOLS[name].weights) for image in (a, b))
    scores = score(unrounded, hr / 255, 4, PROTOCOLS[name])
    assert scores.psnr == pytest.approx(psnr(a, b), abs=1e-9)
    assert scores.ssim == pytest.approx(skimage_ssim(a, b), abs=1e-9)


def test_score_clamps_what_a_file_could_not_hold(pair: tuple[Tensor, Tensor]) -> None:
    white = torch.ones(1, 3, 20, 20)
    assert score(white + 0.5, white, 2, PROTOCOLS["rgb"]).psnr == math.inf


def test_score_of_an_image_smaller_than_its_border_leaves_a_pixel() -> None:
    sr, hr = torch.full((1, 3, 5, 6), 0.4), torch.full((1, 3, 5, 6), 0.6)
    assert score(sr, hr, 8, PROTOCOLS["rgb"]).psnr == pytest.approx(20 * math.log10(255 / 51))


def test_grey_ground_truth_is_compared_as_it_is_with_the_mean_of_the_channels(pair: tuple[Tensor, Tensor]) -> None:
    sr, hr = (image[:, :1].clamp(20, 235) for image in pair)
    coloured = torch.cat([sr - 20, sr + 5, sr + 15], 1)
    scores = score(coloured / 255, hr / 255, 2, PROTOCOLS["y"])
    a, b = (image[..., 2:-2, 2:-2] for image in (sr, hr))
    assert scores.psnr == pytest.approx(psnr(a, b), abs=1e-9)
    assert scores.ssim == pytest.approx(skimage_ssim(a, b), abs=1e-9)


def test_the_protocols_of_reference_based_papers(pair: tuple[Tensor, Tensor]) -> None:
    """Each written out from its definition, on the same pair of images."""
    sr, hr = pair

    def weighed(image: Tensor, weights: list[float], whole: float) -> np.ndarray:
        return 16 + (image[0].permute(1, 2, 0).numpy() * np.array(weights) / whole).sum(-1)

    def expected(weights: list[float], whole: float, shave: int) -> float:
        a, b = (weighed(image, weights, whole) for image in (sr, hr))
        inside = (slice(shave, a.shape[0] - shave), slice(shave, a.shape[1] - shave))
        return float(peak_signal_noise_ratio(b[inside], a[inside], data_range=255))

    matlab = ([65.481, 128.553, 24.966], 255.0)
    found = {name: score(sr / 255, hr / 255, 4, PROTOCOLS[name]).psnr for name in ("c2", "ttsr", "masa", "y")}
    assert found["c2"] == pytest.approx(expected(*matlab, 4), abs=1e-9) == found["y"]
    assert found["masa"] == pytest.approx(expected(*matlab, 0), abs=1e-9)
    assert found["ttsr"] == pytest.approx(expected([65.738, 129.057, 25.064], 256.0, 0), abs=1e-9)


def test_unknown_protocol_suggests_the_nearest() -> None:
    assert protocol_named("ntire") is PROTOCOLS["ntire"]
    with pytest.raises(UnknownName, match="did you mean 'ntire'"):
        protocol_named("ntir")


PUBLISHED_BICUBIC = [
    ("Set5", 2, 33.66, 0.9299),
    ("Set5", 3, 30.39, 0.8682),
    ("Set5", 4, 28.42, 0.8104),
    ("Set14", 4, 26.00, 0.7027),
]
"""Mean PSNR and SSIM on luma, from the table of the EDSR paper (Lim et al. 2017)."""


@pytest.mark.parametrize(("dataset", "scale", "published_psnr", "published_ssim"), PUBLISHED_BICUBIC)
def test_bicubic_scores_what_papers_print(
    shared_data, read_exact, dataset: str, scale: int, published_psnr: float, published_ssim: float
) -> None:
    bicubic, scores = build("bicubic", scale), []
    for path in sorted((shared_data / "eval" / dataset).glob("*.png")):
        hr = modcrop(read_exact(path), scale)
        sr = bicubic(degrade_bicubic(hr, scale).expand(-1, 3, -1, -1))
        scores.append(score(sr, hr, scale, PROTOCOLS["y"]))
    assert len(scores) == {"Set5": 5, "Set14": 14}[dataset]
    assert fmean(each.psnr for each in scores) == pytest.approx(published_psnr, abs=0.03)
    assert fmean(each.ssim for each in scores) == pytest.approx(published_ssim, abs=0.002)
