"""A JPEG, a noisy photo and a JPEG with references: enlarged as they are, restored by half, and automatically.

python examples/restoration_sheet.py [SHEET.jpg]
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from refsr_cli.data.degradations import SyntheticDegradation
from refsr_cli.images import Picture, Pixels, decode_image, read_image, read_rgb8, to_pixels, to_tensor
from refsr_cli.images.jpeg import encode_jpeg
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.packaged import packaged
from refsr_cli.reference.bank import RefBank, open_reference
from refsr_cli.weights.store import load_model

IMAGES = packaged("examples/images")
SIDE, LABEL = 240, 22


@dataclass(frozen=True)
class Row:
    """A photo, what happens to it at a quarter of its size, and the square of it that is shown."""

    label: str
    photo: Path
    degradation: SyntheticDegradation
    top: int
    left: int
    references: Path | None = None


ROWS = (
    Row("JPEG of quality 75", IMAGES / "kodak" / "kodim08.png", SyntheticDegradation(jpeg=75), 90, 250),
    Row("noise and JPEG", IMAGES / "kodak" / "kodim23.png", SyntheticDegradation(noise=8, jpeg=92), 60, 150),
    Row(
        "JPEG of quality 75, references",
        IMAGES / "flowerpot" / "HR" / "flowerpot.png",
        SyntheticDegradation(jpeg=75),
        380,
        300,
        IMAGES / "flowerpot" / "ref",
    ),
)


def degraded(row: Row, truth: Pixels) -> Picture:
    """The photo at a quarter of its size."""
    lr = row.degradation.shrink(to_tensor(truth), 4, "sheet")
    return decode_image(encode_jpeg(to_pixels(lr, truth).astype(np.uint8), row.degradation.jpeg or 100), "sheet")


def shown(row: Row) -> list[tuple[str, Pixels]]:
    """What is beside each other, with labels."""
    truth = read_image(row.photo).pixels
    picture = degraded(row, truth)
    paths = sorted(row.references.iterdir()) if row.references else []
    views = [open_reference(path.name, partial(read_rgb8, path)) for path in paths]
    columns = [(f"{row.label}: bicubic", Upscaler(load_model("bicubic", 4).model)(picture))]
    restorer = Upscaler(load_model("restorer", 1).model, self_ensemble=False)
    net = load_model("refnet" if views else "edsr-baseline", 4).model
    for strength in (0.0, 0.5, None):
        upscaler = Upscaler(net, self_ensemble=False, restorer=restorer, restore=strength)
        chosen = f"auto, {upscaler.plan(picture).strength:g}" if strength is None else f"{strength:g}"
        columns.append((f"--restore {chosen}", upscaler(picture, 4, RefBank(views) if views else None)))
    view = slice(row.top, row.top + SIDE), slice(row.left, row.left + SIDE)
    return [*((label, result.pixels[view]) for label, result in columns), ("truth", truth[view])]


rows = [shown(row) for row in ROWS]
sheet = Image.new("RGB", (len(rows[0]) * (SIDE + 4), len(rows) * (SIDE + LABEL)), "white")
draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
for number, row in enumerate(rows):
    for column, (label, pixels) in enumerate(row):
        corner = column * (SIDE + 4), number * (SIDE + LABEL)
        draw.text((corner[0] + 2, corner[1] + 3), label, "black", font)
        sheet.paste(Image.fromarray(np.ascontiguousarray(pixels)), (corner[0], corner[1] + LABEL))
target = Path(sys.argv[1] if len(sys.argv) > 1 else "restoration.jpg")
sheet.save(target, quality=90, subsampling=0)
print(f"{target}: {sheet.width}x{sheet.height}")
