"""How the cost of enlarging grows with the picture and with the number of references."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import torch
from torch import Tensor

from refsr_cli.bench.contenders import Task, net_of
from refsr_cli.data.altered import rotated
from refsr_cli.images import Picture, read_rgb8
from refsr_cli.inference.results import finished
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.layers.resample import resize
from refsr_cli.models import MODELS
from refsr_cli.packaged import packaged
from refsr_cli.reference.bank import RefBank, open_reference

_SIDES = (128, 256, 512, 1024)
_MATCHED_SIDES = (24, 48, 96)
"""For nets that compare every place with every other."""
_GUIDED_SIDES = (64, 128, 256)
"""For the others, with a reference."""
_COUNTS = (1, 2, 4, 8)
_VIEW, _MATCHED_VIEW = 192, 64


@dataclass(frozen=True)
class Growth:
    """Time against one quantity, and the power of it that fits best: 1 is in proportion."""

    model: str
    against: str
    amounts: list[float]
    seconds: list[float]
    exponent: float
    kind: str = "growth"


def growths(task: Task) -> Iterator[Growth]:
    """All that apply to the net of the task."""
    net = MODELS[task.model].net
    yield growth_with_pixels(task)
    if not net.needs_ref:
        yield growth_with_guided_pixels(task)
    if net.most_references != 1:
        yield growth_with_references(task)


def growth_with_pixels(task: Task, sides: Sequence[int] | None = None) -> Growth:
    """Of one picture after the other, larger and larger, without references."""
    net = MODELS[task.model].net
    sides = sides or (_MATCHED_SIDES if net.needs_ref and net.most_references != 1 else _SIDES)
    upscaler = Upscaler(net_of(task), device=task.device, self_ensemble=False)
    seconds = [min(_timed(upscaler, _picture(_photo(side)), task.scale, None) for _ in range(2)) for side in sides]
    return _growth(task, "megapixels", [side * side / 1e6 for side in sides], seconds)


def growth_with_guided_pixels(task: Task, sides: Sequence[int] = _GUIDED_SIDES) -> Growth:
    """Of one picture after the other, larger and larger, each with one reference, another view of it that is as large
    as the result; what they take without is not counted. For nets that can do without."""
    upscaler = Upscaler(net_of(task), device=task.device, self_ensemble=False)
    seconds = []
    for side in sides:
        seen = _photo(task.scale * side)
        picture, view = _picture(_shrunk(seen, side)), rotated(seen, 5.0)
        alone = _timed(upscaler, picture, task.scale, None)
        seconds.append(max(1e-9, _timed(upscaler, picture, task.scale, _bank([view])) - alone))
    return _growth(task, "megapixels with a reference", [side * side / 1e6 for side in sides], seconds)


def growth_with_references(task: Task, counts: Sequence[int] = _COUNTS, side: int | None = None) -> Growth:
    """Of one picture, `side` pixels wide and high, with more and more references, each another view of it and of what
    is around; what it takes without is not counted, where it can do without."""
    side = side or (_MATCHED_VIEW if MODELS[task.model].net.needs_ref else _VIEW)
    upscaler = Upscaler(net_of(task), device=task.device, self_ensemble=False)
    picture, seen = _picture(_photo(side)), _photo(2 * side)
    views = [rotated(seen, 5.0 * number) for number in range(max(counts))]
    alone = 0.0 if upscaler.model.needs_ref else _timed(upscaler, picture, task.scale, None)
    seconds = [max(1e-9, _timed(upscaler, picture, task.scale, _bank(views[:count])) - alone) for count in counts]
    return _growth(task, "references", [float(count) for count in counts], seconds)


def _photo(side: int) -> Tensor:
    """(3, side, side) uint8: copies of a photo, side by side."""
    photo = read_rgb8(packaged("examples/images") / "kodak" / "kodim08.png")
    return photo.repeat(1, *(-(-side // length) for length in photo.shape[1:]))[:, :side, :side]


def _shrunk(photo: Tensor, side: int) -> Tensor:
    return resize(photo[None].float(), side, side)[0].clamp(0, 255).round().byte()


def _picture(photo: Tensor) -> Picture:
    return Picture(photo.permute(1, 2, 0).contiguous().numpy(), None, "png", None, None, None)


def _bank(views: Sequence[Tensor]) -> RefBank:
    return RefBank([open_reference(str(number), partial(Tensor.contiguous, view)) for number, view in enumerate(views)])


def _growth(task: Task, against: str, amounts: list[float], seconds: list[float]) -> Growth:
    return Growth(task.model, against, amounts, seconds, power(amounts, seconds))


def power(amounts: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of the line through the logarithms that fits them best (least squares)."""
    x, y = ([math.log(value) for value in values] for values in (amounts, seconds))
    middle = fmean(x)
    return sum((a - middle) * b for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)


@torch.inference_mode()
def _timed(upscaler: Upscaler, picture: Picture, scale: int, refs: RefBank | None) -> float:
    begin = time.perf_counter()
    finished(upscaler.enlarge(picture, picture.height * scale, picture.width * scale, refs))
    return time.perf_counter() - begin
