"""Checks of results: every net in every number format, tiles, batches, references, and a device that is too small."""

import copy
from collections.abc import Iterator
from functools import cache, partial
from time import perf_counter

import numpy as np
import torch

from refsr_cli.bench.contenders import Task, net_of
from refsr_cli.checks.results import Effort, Seen, seconds_of, similarity
from refsr_cli.images import Picture, Pixels, read_rgb8, to_tensor
from refsr_cli.inference.results import finished
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.metrics import PROTOCOLS, score
from refsr_cli.models import MODELS, SRModel
from refsr_cli.packaged import packaged
from refsr_cli.reference.bank import RefBank, open_reference
from refsr_cli.tasks.bench import filled

_FLOWERPOT = packaged("examples/images") / "flowerpot"
_SMALL = 48
_EXACT, _LESS = 50.0, 3.0
"""PSNR in dB between a device and a CPU, both in fp32, from which on a net computes the same; and how far a device may
be below what a CPU reaches in bf16."""
_GAINED = 3.0
"""dB that the packaged refnet gains of the flower pot at least; 7 on a CPU."""


def nets(device: torch.device, effort: Effort) -> Iterator[Seen]:
    """Every net against itself on a CPU in fp32."""
    picture = _picture(_photo())
    for name in effort.nets or tuple(MODELS):
        scales = MODELS[name].net.scales
        task = Task(name, 4 if 4 in scales else scales[0], str(device))
        net = net_of(task)
        refs = _bank(1) if net.needs_ref else None
        cpu = torch.device("cpu")
        expected, rounded = (_upscaler(net, cpu, its)(picture, task.scale, refs).pixels for its in ("fp32", "bf16"))
        least = similarity(rounded, expected) - _LESS
        for precision, enough in (("fp32", _EXACT), ("fp16", least), ("bf16", least)):
            if precision == "fp16" and device.type == "cpu":
                continue
            found = _upscaler(net, device, precision)(picture, task.scale, refs).pixels
            alike = similarity(found, expected)
            yield Seen(f"{name} in {precision}", f"{alike:.1f} dB of the CPU's result", alike >= enough)


def tiles(device: torch.device, effort: Effort) -> Iterator[Seen]:
    """Tiles of several sizes: as fast as can be, and the same picture."""
    net, picture = _net("edsr-baseline"), _picture(_photo(effort.side))
    whole: Pixels | None = None
    for tile in (0, effort.side // 2, effort.side // 4, None):
        upscaler = Upscaler(copy.deepcopy(net), device=str(device), self_ensemble=False, tile=tile)
        found = upscaler(picture, 4).pixels
        whole = found if whole is None else whole
        taken = seconds_of(partial(upscaler, picture, 4), device, effort.rounds)
        difference = int(np.abs(found.astype(int) - whole).max())
        name = {0: "the whole at once", None: "tiles as they are chosen"}.get(tile, f"tiles of {tile}")
        yield Seen(f"{effort.side}x{effort.side}, {name}", f"{1000 * taken:.0f} ms", difference <= 1)


def batches(device: torch.device, effort: Effort) -> Iterator[Seen]:
    """Small pictures one by one, and together."""
    net, photo = _net("edsr-baseline"), _photo(2 * effort.side)
    side = 96
    offsets = np.random.default_rng(0).integers(0, min(photo.shape[:2]) - side, (effort.count, 2))
    pictures = [_picture(photo[y : y + side, x : x + side]) for y, x in offsets]
    upscaler = Upscaler(net, device=str(device), self_ensemble=False)
    alone = [upscaler(its, 4).pixels for its in pictures]

    def together() -> list[Pixels]:
        return [its.picture.pixels for its in finished(upscaler.enlarge_alike(pictures, 4 * side, 4 * side))]

    difference = max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(alone, together(), strict=True))
    for name, work in (("one by one", lambda: [upscaler(its, 4) for its in pictures]), ("together", together)):
        taken = seconds_of(work, device, effort.rounds)
        yield Seen(
            f"{effort.count} pictures of {side}x{side} {name}", f"{effort.count / taken:.1f} a second", difference <= 1
        )


def out_of_memory(device: torch.device, effort: Effort) -> Iterator[Seen]:
    """A device that has less memory than the whole picture takes: smaller parts are tried."""
    if device.type != "cuda":
        yield Seen("a picture too large for the device", "for a GPU alone")
        return
    net, picture = _net("edsr-baseline"), _picture(_photo(effort.side))
    expected = Upscaler(copy.deepcopy(net), device=str(device), self_ensemble=False)(picture, 4).pixels
    upscaler = Upscaler(net, device=str(device), self_ensemble=False, tile=0)
    torch.cuda.empty_cache()
    held, total = torch.cuda.memory_reserved(device), torch.cuda.get_device_properties(device).total_memory
    room = effort.side**2 * 200  # bytes: less than two layers of 64 features in bf16 take
    torch.cuda.set_per_process_memory_fraction(min(1.0, (held + room) / total), device)
    try:
        found = upscaler(picture, 4).pixels
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    alike = similarity(found, expected)
    yield Seen("a picture too large for the device", f"{alike:.1f} dB of the usual result", alike >= 50)


def references(device: torch.device, effort: Effort) -> Iterator[Seen]:
    """What references give, and in which time."""
    lr = _picture(read_rgb8(_FLOWERPOT / "LR" / "flowerpot.png").permute(1, 2, 0).numpy())
    hr = read_rgb8(_FLOWERPOT / "HR" / "flowerpot.png")[None].float() / 255
    for name in ("refnet", *(("ssen", "datsr") if effort.nets is None else ())):
        upscaler = Upscaler(_net(name), device=str(device), self_ensemble=False)
        alone = score(to_tensor(upscaler(lr, 4).pixels), hr, 4, PROTOCOLS["y"]).psnr
        begin = perf_counter()
        pixels = upscaler(lr, 4, _bank(2)).pixels
        taken = perf_counter() - begin
        helped = score(to_tensor(pixels), hr, 4, PROTOCOLS["y"]).psnr
        figure = f"{alone:.2f} dB without, {helped:.2f} with, {taken:.2f} s the first time"
        yield Seen(f"{name} with two references", figure, helped > alone + _GAINED if name == "refnet" else None)


def compiling(device: torch.device, effort: Effort) -> Iterator[Seen]:
    """`--compile` against the usual way."""
    if device.type != "cuda":
        yield Seen("--compile", "for a GPU alone")
        return
    picture, results = _picture(_photo(effort.side)), []
    for compile in (False, True):
        upscaler = Upscaler(_net("edsr-baseline"), device=str(device), self_ensemble=False, compile=compile)
        results.append(upscaler(picture, 4).pixels)
        taken = seconds_of(partial(upscaler, picture, 4), device, effort.rounds)
        name = "--compile" if compile else "without"
        yield Seen(f"edsr-baseline {name}", f"{1000 * taken:.0f} ms", similarity(results[-1], results[0]) > 45)


def _net(name: str) -> SRModel:
    return net_of(Task(name, 4, "cpu"))


def _upscaler(net: SRModel, device: torch.device, precision: str) -> Upscaler:
    model = copy.deepcopy(net)
    return Upscaler(model, device=str(device), precision=precision, self_ensemble=False, as_published=True)


def _picture(pixels: Pixels) -> Picture:
    return Picture(np.ascontiguousarray(pixels), None, "png", None, None, None)


@cache
def _bank(count: int) -> RefBank:
    paths = sorted((_FLOWERPOT / "ref").iterdir())[:count]
    return RefBank([open_reference(path.name, partial(read_rgb8, path)) for path in paths])


def _photo(side: int = _SMALL) -> Pixels:
    """(side, side, 3) of mirrored copies of a photo."""
    photo = read_rgb8(packaged("examples/images") / "kodak" / "kodim08.png").permute(1, 2, 0).numpy()
    return filled(photo, side, side)
