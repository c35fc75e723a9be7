"""Runners: tiles, self-ensemble, passes, memory."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from refsr_cli.errors import BadSetting, OutOfMemory, RefsrError
from refsr_cli.images import Picture, read_image, to_tensor
from refsr_cli.inference.device import pick_device, pick_precision
from refsr_cli.inference.memory import bytes_per_pixel, is_out_of_memory, tile_side
from refsr_cli.inference.passes import plan_passes
from refsr_cli.inference.results import finished
from refsr_cli.inference.runner import ensembled, orient, restore, runner_for
from refsr_cli.inference.tiling import Tile, everywhere, resized, run_tiles
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.layers.resample import upscale as upscale_bicubic
from refsr_cli.models import MODELS, SRModel, build
from refsr_cli.packaged import packaged
from refsr_cli.weights.store import load_model

CPU = torch.device("cpu")
SMALL = {"features": 8, "blocks": 2}


def small_edsr(scale: int) -> SRModel:
    torch.manual_seed(scale)
    return build("edsr-baseline", scale, SMALL).eval()


def tiled(run, pixels, scale, **settings):
    """The picture that `run_tiles` gives of a runner to which the place makes no difference."""
    ((picture, trust),) = finished(run_tiles(everywhere(run), [pixels], scale, **settings))
    assert trust is None
    return picture


def kodak(height: int, width: int, dtype=np.uint8) -> np.ndarray:
    """The top-left part of a real photo."""
    pixels = read_image(packaged("examples/images") / "kodak/kodim08.png").pixels[:height, :width]
    return pixels if dtype == np.uint8 else pixels.astype(np.uint16) * 257


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("tile", [16, 23, 40, 1000])
def test_tiles_give_the_result_of_the_whole(scale, tile):
    model = small_edsr(scale)
    run, pixels = runner_for(model), kodak(61, 47, np.uint16)
    whole = tiled(run, pixels, scale, tile=None, halo=0, device=CPU)
    parts = tiled(run, pixels, scale, tile=tile, halo=model.receptive_field, device=CPU)
    assert whole.shape == (61 * scale, 47 * scale, 3)
    assert np.abs(parts.astype(int) - whole).max() <= 1  # of 65535: rounding noise


def test_a_smaller_halo_shows_seams():
    model = small_edsr(4)
    run, pixels = runner_for(model), kodak(61, 47, np.uint16)
    whole = tiled(run, pixels, 4, tile=None, halo=0, device=CPU)
    parts = tiled(run, pixels, 4, tile=23, halo=0, device=CPU)
    assert np.abs(parts.astype(int) - whole).max() > 100


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    side=st.integers(1, 100),
    halo=st.sampled_from([0, 0, 1, 7, 30]),
)
def test_split_covers_each_pixel_once_and_all_parts_see_as_much(height, width, side, halo):
    count, sizes = np.zeros((height, width), int), []
    for tile in Tile(0, 0, height, width).split(side, halo):
        sizes.append(tile.window(halo, height, width).size)
        assert max(sizes[-1]) <= side + 2 * halo
        count[tile.top : tile.bottom, tile.left : tile.right] += 1
    assert (count == 1).all()
    assert np.ptp(sizes, axis=0).max() <= 1


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), scale=st.sampled_from([2, 3, 4]), tile=st.integers(16, 40))
def test_any_size_and_tile_of_bicubic_equals_the_whole(height, width, scale, tile):
    pixels = kodak(height, width)
    model = build("bicubic", scale)
    parts = tiled(runner_for(model), pixels, scale, tile=tile, halo=model.receptive_field, device=CPU)
    whole = upscale_bicubic(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].double(), scale)
    assert np.abs(parts - whole[0].permute(1, 2, 0).clamp(0, 255).numpy()).max() <= 0.5 + 1e-3


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    tile=st.sampled_from([None, 16, 23]),
    step=st.sampled_from([1, 4]),
    batch=st.integers(1, 9),
    count=st.integers(1, 3),
)
def test_tiles_computed_at_once_give_what_each_gives_alone(height, width, tile, step, batch, count):
    """Of several pictures; at most `batch` at once; in a picture that is large enough all windows have one size."""
    model, photo = small_edsr(2), kodak(height + count, width)
    pictures, plain, shapes = [photo[number : number + height] for number in range(count)], runner_for(model), []

    def run(lr: Tensor) -> Tensor:
        shapes.append(tuple(lr.shape))
        return plain(lr)

    how = {"tile": tile, "halo": model.receptive_field, "device": CPU, "step": step}
    together = finished(run_tiles(everywhere(run), pictures, 2, batch=batch, **how))
    assert len(together) == count and all(trust is None for _, trust in together)
    for pixels, (large, _) in zip(pictures, together, strict=True):
        alone = tiled(plain, pixels, 2, **{**how, "tile": None})
        assert np.abs(large.astype(int) - alone).max() <= 1 and (large != alone).mean() < 1e-2
    assert max(shape[0] for shape in shapes) <= batch
    if step == 1:
        assert len({shape[1:] for shape in shapes}) == 1
        tiles = len(list(Tile(0, 0, height, width).split(tile or 1000, model.receptive_field)))
        assert len(shapes) == -(-count * tiles // batch)


def test_of_several_at_once_fewer_are_taken_where_memory_runs_out():
    """First the pictures one by one, then smaller parts of them."""
    model, sizes = small_edsr(2), []
    plain = runner_for(model)

    def run(lr: Tensor) -> Tensor:
        sizes.append((len(lr), max(lr.shape[-2:])))
        if lr.shape[0] * lr.shape[-2] * lr.shape[-1] > 1600:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return plain(lr)

    pictures = [kodak(40 + number, 60)[number:] for number in range(5)]
    halo = model.receptive_field
    together = finished(run_tiles(everywhere(run), pictures, 2, tile=None, halo=halo, device=CPU, batch=5))
    for pixels, (large, _) in zip(pictures, together, strict=True):
        alone = tiled(plain, pixels, 2, tile=None, halo=halo, device=CPU)
        assert np.abs(large.astype(int) - alone).max() <= 1
    assert [number for number, side in sizes if side == 60][:3] == [5, 2, 1]


def test_running_out_of_memory_splits_the_tile_and_loses_nothing():
    model, pixels = small_edsr(2), kodak(70, 50)
    plain = runner_for(model)
    sizes: list[int] = []

    def run(lr: Tensor) -> Tensor:
        sizes.append(max(lr.shape[-2:]))
        if sizes[-1] > 48:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried"
            )
        return plain(lr)

    halo = model.receptive_field
    parts = tiled(run, pixels, 2, tile=None, halo=halo, device=CPU)
    whole = tiled(plain, pixels, 2, tile=None, halo=halo, device=CPU)
    assert np.abs(parts.astype(int) - whole).max() <= 1  # a half may be rounded to either side
    assert (parts != whole).mean() < 1e-3
    assert sum(size > 48 for size in sizes) <= 3, "a size that failed is not tried again"


def test_never_enough_memory_is_one_sentence():
    def run(lr: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(OutOfMemory, match="not enough memory even for a tile of"):
        tiled(run, kodak(64, 64), 2, tile=None, halo=4, device=CPU)


def test_other_errors_of_a_net_are_not_taken_for_memory():
    def run(lr: Tensor) -> Tensor:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        tiled(run, kodak(8, 8), 2, tile=None, halo=0, device=CPU)


def test_an_answer_that_is_not_a_number_is_refused():
    def run(lr: Tensor) -> Tensor:
        return torch.full((1, 3, 2 * lr.shape[2], 2 * lr.shape[3]), torch.nan)

    with pytest.raises(RefsrError, match="not a number"):
        tiled(run, kodak(8, 8), 2, tile=None, halo=0, device=CPU)


@pytest.mark.parametrize("orientation", range(8))
def test_orientations_are_undone(orientation):
    x = torch.rand(2, 3, 5, 7)
    assert torch.equal(restore(orient(x, orientation), orientation), x)


def test_the_eight_orientations_differ():
    x = torch.rand(1, 1, 4, 4)
    views = {tuple(orient(x, number).flatten().tolist()) for number in range(8)}
    assert len(views) == 8


def test_self_ensemble_of_an_equivariant_net_is_the_net():
    run = runner_for(build("bicubic", 3))
    lr = torch.rand(1, 3, 9, 14)
    assert torch.allclose(ensembled(run)(lr), run(lr), atol=1e-6)


def mean_of_views(net: Callable[[Tensor], Tensor], lr: Tensor) -> Tensor:
    """Over the eight orientations, written with rot90, not with the orientations of the code; float64."""
    views = []
    for turns in range(4):
        for mirrored in (False, True):
            view = torch.rot90(lr.flip(-1) if mirrored else lr, turns, (-2, -1))
            back = torch.rot90(net(view), -turns, (-2, -1)).double()
            views.append(back.flip(-1) if mirrored else back)
    return torch.stack(views).mean(0)


def test_self_ensemble_is_the_mean_over_turned_inputs():
    run = runner_for(small_edsr(2))
    lr = torch.rand(1, 3, 10, 13)
    assert torch.allclose(ensembled(run)(lr).double(), mean_of_views(run, lr), atol=1e-5)


def text() -> np.ndarray:
    """(20, 28, 3) black strokes on white: nets overshoot beside them, beyond what a picture can hold."""
    pixels = np.full((20, 28, 3), 255, np.uint8)
    pixels[4:16, 5:7] = pixels[4:6, 3:24:3] = pixels[9:11, 5:20] = 0
    pixels[12:17, 18:20] = 0
    return pixels


def by_hand(net: Callable[[Tensor], Tensor], lr: Tensor) -> np.ndarray:
    """The mean of the views, clamped and rounded once; (H, W, 3) uint8."""
    return mean_of_views(net, lr).clamp(0, 1).mul(255).round().byte()[0].permute(1, 2, 0).numpy()


@torch.no_grad()
def test_self_ensemble_is_clamped_after_the_mean():
    net = load_model("edsr-baseline", 2).model.eval()
    pixels = text()
    upscaler = Upscaler(net, device="cpu", precision="fp32", self_ensemble=True, as_published=True)
    found = upscaler(Picture(pixels, None, "png", None, None, None)).pixels
    lr = to_tensor(pixels)
    assert np.array_equal(found, by_hand(net, lr))
    assert not np.array_equal(found, by_hand(lambda view: net(view).clamp(0, 1), lr)), "the picture shows no difference"


@torch.no_grad()
def test_self_ensemble_with_references_is_clamped_after_the_mean():
    """A net that overshoots by a third."""
    net = build("ssen", 4, {"features": 8, "blocks": 1, "extractor_blocks": 1}).eval()
    pixels = text()
    large = net.forward
    net.forward = lambda lr, guide: large(lr, guide) * 0 + 5 / 3 * (upscale_bicubic(lr, 4) - 0.2)
    upscaler = Upscaler(net, device="cpu", precision="fp32", self_ensemble=True)
    found = upscaler(Picture(pixels, None, "png", None, None, None)).pixels
    lr = to_tensor(pixels)
    expected = by_hand(lambda view: 5 / 3 * (upscale_bicubic(view, 4) - 0.2), lr)
    assert np.abs(found.astype(int) - expected).max() <= 1 and (found != expected).mean() < 0.01


class _Multiple(SRModel):
    """Refuses inputs that are not multiples of 8."""

    scales = (2,)
    multiple_of = 8

    @property
    def receptive_field(self) -> int:
        return 0

    def forward(self, lr: Tensor) -> Tensor:
        assert lr.shape[-1] % 8 == lr.shape[-2] % 8 == 0
        return lr.repeat_interleave(2, -1).repeat_interleave(2, -2)


@given(height=st.integers(1, 20), width=st.integers(1, 20))
def test_runner_pads_to_the_multiple_and_crops_back(height, width):
    lr = torch.rand(1, 3, height, width)
    sr = runner_for(_Multiple(2))(lr)
    assert torch.equal(sr, lr.repeat_interleave(2, -1).repeat_interleave(2, -2))


@pytest.mark.parametrize(
    ("factor", "model_scale", "passes"),
    [
        (4, 4, [4]),
        (2, 4, [2]),
        (8, 4, [4, 2]),
        (8, 8, [8]),
        (3, 2, [2, 2]),
        (1, 4, []),
        (0.5, 4, []),
        (20, 4, [4, 4, 2]),
        (16, 4, [4, 4]),
        (2.5, 4, [4]),
    ],
)
def test_passes(factor, model_scale, passes):
    assert plan_passes(factor, model_scale) == passes


@given(factor=st.floats(1.001, 60), model_scale=st.sampled_from([2, 3, 4, 8]))
def test_passes_reach_the_factor(factor, model_scale):
    passes = plan_passes(factor, model_scale)
    assert np.prod(passes) >= factor * (1 - 1e-6)
    assert max(passes) <= model_scale


def picture(height: int, width: int, channels: int = 3, alpha: bool = False) -> Picture:
    pixels = kodak(height, width)[..., :channels]
    return Picture(pixels, kodak(height, width)[..., 0] if alpha else None, "png", None, None, None)


@pytest.mark.parametrize("size", [(97, 131), (24, 24), (23, 50), (200, 7), (10, 9)])
def test_any_size_is_reached(size):
    upscaler = Upscaler(small_edsr(4), device="cpu")
    height, width = size
    done = []
    steps = upscaler.enlarge(picture(24, 24, alpha=True), height, width)
    while True:
        try:
            done.append(next(steps))
        except StopIteration as end:
            enlarged = end.value.picture
            break
    assert enlarged.pixels.shape == (height, width, 3)
    assert enlarged.alpha.shape == (height, width)
    assert sum(done) == upscaler.work(picture(24, 24, alpha=True), height, width)


def test_a_lower_scale_is_the_nets_result_made_smaller():
    model = small_edsr(4)
    half = Upscaler(model, device="cpu", tile=16, as_published=True)(picture(40, 30), 2)
    lr = torch.from_numpy(kodak(40, 30).copy()).permute(2, 0, 1)[None] / 255
    direct = resized(everywhere(runner_for(model)), 2)(lr, Tile(0, 0, 40, 30))
    expected = direct.mul(255).round()[0].permute(1, 2, 0).numpy()
    assert np.abs(half.pixels - expected).max() <= 1


def test_grey_stays_grey():
    assert Upscaler(small_edsr(2), device="cpu")(picture(20, 20, channels=1)).pixels.shape == (40, 40, 1)


@pytest.mark.parametrize("height,width", [(1, 1), (1, 9), (9, 1)])
def test_the_smallest_images(height, width):
    for scale in (2, 3, 4, 8):
        enlarged = Upscaler(small_edsr(scale), device="cpu", self_ensemble=True)(picture(height, width))
        assert enlarged.pixels.shape == (height * scale, width * scale, 3)


def test_memory_of_the_published_measurement():
    """EDSR baseline x4 with its tail folded takes 413 MB more at 512x512 and 1138 MB at 1024x1024: 1.1 to 1.6 kB a
    pixel. SRResNet x4, whose tail is not linear, is like the unfolded EDSR: 2.1 to 3.0 GB at 512x512."""
    assert 1_000 < bytes_per_pixel(build("edsr-baseline", 4)) < 1_600
    assert 8_000 < bytes_per_pixel(build("srresnet", 4)) < 12_000


def test_more_memory_gives_larger_tiles():
    sides = [tile_side(8_000, 8, memory, CPU) for memory in (1, 2**24, 2**26, 2**30)]
    assert sides == sorted(sides) and sides[0] == 16 and sides[-1] > 4 * sides[1]


@pytest.mark.parametrize("name", [name for name in MODELS if name != "bicubic"])
def test_tiles_chosen_unasked_do_not_compute_everything_again_and_again(name):
    model = build(name, max(its for its in MODELS[name].net.scales if its <= 4))
    side = tile_side(bytes_per_pixel(model), model.receptive_field, None, CPU)
    assert ((side + 2 * model.receptive_field) / side) ** 2 <= 4


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, expected):
    assert is_out_of_memory(error) is expected


def test_bf16_does_not_band_a_picture_of_16_bit():
    """The last convolution is computed in full, else its 8 bits of mantissa would leave a few dozen values."""
    ramp = np.linspace(20_000, 24_000, 64 * 64).reshape(64, 64, 1).astype(np.uint16).repeat(3, 2)
    upscaler = Upscaler(load_model("edsr-baseline", 4).model, device="cpu", precision="bf16")
    enlarged = upscaler(Picture(ramp, None, "png", None, None, None))
    assert len(np.unique(enlarged.pixels[..., 1])) > 1000


def test_devices_and_precisions():
    assert pick_device("cpu") == CPU
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    native = "avx512_bf16" in flags
    assert pick_precision("auto", CPU) == (torch.bfloat16 if native else torch.float32)
    assert pick_precision("bf16", CPU) == torch.bfloat16
    with pytest.raises(BadSetting, match="--device cpu"):
        pick_device("nonsense")
    if not torch.cuda.is_available():
        with pytest.raises(BadSetting, match="--device cpu"):
            pick_device("cuda")
    with pytest.raises(BadSetting, match="precision"):
        pick_precision("fp8", CPU)


def test_bf16_is_close_to_fp32():
    model = small_edsr(4)
    exact, rough = (Upscaler(model, device="cpu", precision=name)(picture(40, 40)).pixels for name in ("fp32", "bf16"))
    assert np.abs(exact.astype(int) - rough).mean() < 2


def test_an_untileable_net_refuses_tiles(monkeypatch):
    model = small_edsr(2)
    monkeypatch.setattr(type(model), "tileable", False)
    with pytest.raises(BadSetting, match="--tile off"):
        Upscaler(model, device="cpu", tile=64)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_equals_cpu():
    model = small_edsr(4)
    on_cpu = Upscaler(model, device="cpu", self_ensemble=False)(picture(50, 40)).pixels
    on_gpu = Upscaler(model, device="cuda", precision="fp32", self_ensemble=False, tile=32)(picture(50, 40)).pixels
    assert np.abs(on_cpu.astype(int) - on_gpu).max() <= 1
