"""A picture to be looked at: the input, the result without and with references, where they were believed, and what they
showed there."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from refsr_cli.images import Picture, Pixels
from refsr_cli.images.eight_bits import rounded
from refsr_cli.inference.results import Enlarged

_COLUMN, _MARGIN, _LABEL = 360, 12, 26
_ZOOMS, _WINDOW = 3, 72
"""How many places are shown closely, and their side in pixels of the result."""
_FRAMES = ("#e6194b", "#3cb44b", "#4363d8")
_PAPER, _INK = "white", "black"


@dataclass(frozen=True)
class _Place:
    """A window of the result: `top` and `left` in pixels of the result."""

    top: int
    left: int


def compare(source: Picture, plain: Picture, enlarged: Enlarged) -> Picture:
    """One row of whole pictures and, below, rows of places where references changed most: input, without and with
    references, trust, and the reference itself there."""
    result, trust = _rgb(enlarged.picture.pixels), enlarged.trust
    shown = [
        ("input", _rgb(source.pixels).resize(result.size, Image.Resampling.NEAREST)),
        ("without references", _rgb(plain.pixels)),
        ("with references", result),
        ("trust", _rgb(np.zeros((*result.size[::-1], 1), np.uint8) if trust is None else trust[..., None])),
    ]
    places = _changed_most(plain.pixels, enlarged)
    height = max(1, round(_COLUMN * result.height / result.width))
    whole = [(label, _framed(image, places).resize((_COLUMN, height))) for label, image in shown]
    rows = [whole]
    for place in places:
        box = (place.left, place.top, place.left + _WINDOW, place.top + _WINDOW)
        close = [(label, image.crop(box)) for label, image in shown]
        close.append(("the reference there", _reference_at(enlarged, place)))
        rows.append([(label, image.resize((_COLUMN, _COLUMN), Image.Resampling.NEAREST)) for label, image in close])
    return Picture(np.asarray(_sheet(rows)), None, "png", None, None, None)


def _rgb(pixels: Pixels) -> Image.Image:
    eight = rounded(pixels)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(eight, (*eight.shape[:2], 3))))


def _changed_most(plain: Pixels, enlarged: Enlarged) -> list[_Place]:
    """Windows where the references changed the result most, apart from each other."""
    change = np.abs(enlarged.picture.pixels.astype(np.float32) - plain.astype(np.float32)).mean(2)
    height, width = change.shape
    if min(height, width) < _WINDOW:
        return []
    sums = torch.nn.functional.avg_pool2d(torch.from_numpy(change)[None, None], _WINDOW, stride=_WINDOW // 4)[0, 0]
    places: list[_Place] = []
    for index in sums.flatten().argsort(descending=True).tolist():
        place = _Place(*(part * (_WINDOW // 4) for part in divmod(index, sums.shape[1])))
        apart = all(max(abs(place.top - other.top), abs(place.left - other.left)) >= 2 * _WINDOW for other in places)
        if apart and float(sums.flatten()[index]) > 0:
            places.append(place)
        if len(places) == _ZOOMS:
            break
    return places


def _framed(image: Image.Image, places: list[_Place]) -> Image.Image:
    image = image.copy()
    draw = ImageDraw.Draw(image)
    for place, color in zip(places, _FRAMES, strict=False):
        box = (place.left, place.top, place.left + _WINDOW, place.top + _WINDOW)
        draw.rectangle(box, outline=color, width=max(2, image.width // 150))
    return image


def _reference_at(enlarged: Enlarged, place: _Place) -> Image.Image:
    """The reference that was matched in the middle of a window, as it is there, turned as it is."""
    match = enlarged.match
    if match is None:
        return Image.new("RGB", (_WINDOW, _WINDOW), _PAPER)
    height, width = match.score.shape
    cell = (
        min(height - 1, (place.top + _WINDOW // 2) * height // enlarged.picture.height),
        min(width - 1, (place.left + _WINDOW // 2) * width // enlarged.picture.width),
    )
    pixels = enlarged.references[int(match.ref_id[cell])].load()
    row, column = match.pos[:, cell[0], cell[1]].tolist()
    stretch = float(match.affine[:, :, cell[0], cell[1]].det().abs().sqrt())
    half = max(4.0, _WINDOW / 2 * stretch * (width * 4 / enlarged.picture.width))
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    return image.crop((round(column - half), round(row - half), round(column + half), round(row + half)))


def _sheet(rows: list[list[tuple[str, Image.Image]]]) -> Image.Image:
    heights = [_LABEL + max(image.height for _, image in row) + _MARGIN for row in rows]
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (_MARGIN + columns * (_COLUMN + _MARGIN), sum(heights) + _MARGIN), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    top = _MARGIN // 2
    for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
        for column, (label, image) in enumerate(row):
            left = _MARGIN + column * (_COLUMN + _MARGIN)
            draw.text((left, top + 4), label, _INK, font)
            sheet.paste(image, (left, top + _LABEL))
            if number:
                frame = (left - 2, top + _LABEL - 2, left + image.width + 1, top + _LABEL + image.height + 1)
                draw.rectangle(frame, outline=_FRAMES[number - 1], width=2)
        top += height
    return sheet
