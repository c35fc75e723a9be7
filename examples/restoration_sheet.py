"""A JPEG, a noisy photo and a JPEG with references: bicubic, as they are, restored by half, automatically, and truth.

python examples/restoration_sheet.py [SHEET.jpg]
"""

import sys
from functools import partial

import numpy as np
from PIL import Image

from refsr_cli.data.degradations import parse_degradation
from refsr_cli.images import decode_image, read_image, read_rgb8, to_pixels, to_tensor
from refsr_cli.images.jpeg import encode_jpeg
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.packaged import packaged
from refsr_cli.reference.bank import RefBank, open_reference
from refsr_cli.weights.store import load_model

IMAGES = packaged("examples/images")
ALONE = (("kodak/kodim08", "jpeg:75", 90, 250), ("kodak/kodim23", "noise:8+jpeg:92", 60, 150))
ROWS = (*ALONE, ("flowerpot/HR/flowerpot", "jpeg:75", 380, 300))
paths = sorted((IMAGES / "flowerpot" / "ref").iterdir())
views = RefBank([open_reference(path.name, partial(read_rgb8, path)) for path in paths])
restorer, rows = Upscaler(load_model("restorer", 1).model, self_ensemble=False), []
for name, cell, top, left in ROWS:
    truth, degradation = read_image(IMAGES / f"{name}.png").pixels, parse_degradation(cell)
    lr = to_pixels(degradation.shrink(to_tensor(truth), 4, name), truth).astype(np.uint8)
    picture = decode_image(encode_jpeg(lr, degradation.jpeg or 100), name)
    refs = views if "flowerpot" in name else None
    shown = [Upscaler(load_model("bicubic", 4).model)(picture)]
    net = load_model("refnet" if refs else "edsr-baseline", 4).model
    for strength in (0.0, 0.5, None):
        shown.append(Upscaler(net, self_ensemble=False, restorer=restorer, restore=strength)(picture, 4, refs))
    parts = [pixels[top : top + 240, left : left + 240] for pixels in [*(result.pixels for result in shown), truth]]
    rows.append(np.hstack(parts))
target = sys.argv[1] if len(sys.argv) > 1 else "restoration.jpg"
Image.fromarray(np.vstack(rows)).save(target, quality=90, subsampling=0)
print(f"{target}: {', '.join(row[1] for row in ROWS)} with references")
