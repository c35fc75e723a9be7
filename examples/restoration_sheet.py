"""A photo as a JPEG, with noise, and as a JPEG with a reference: enlarged as it is, and restored first.

python examples/restoration_sheet.py [SHEET.png]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from refsr_cli.data.degradations import SyntheticDegradation
from refsr_cli.images import Picture, decode_image, read_image, read_rgb8, to_pixels, to_tensor
from refsr_cli.images.jpeg import encode_jpeg
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.packaged import packaged
from refsr_cli.reference.bank import RefBank, open_reference
from refsr_cli.weights.store import load_model

PHOTO = packaged("examples/images") / "flowerpot"
VIEW = (slice(380, 620), slice(300, 560))

truth = read_image(PHOTO / "HR" / "flowerpot.png").pixels
views = [open_reference(path.name, lambda path=path: read_rgb8(path)) for path in sorted((PHOTO / "ref").iterdir())]
restorer = Upscaler(load_model("restorer", 1).model, self_ensemble=False)
rows = []
for noise, model, refs in ((8, "edsr-baseline", None), (0, "edsr-baseline", None), (0, "refnet", RefBank(views))):
    lr = SyntheticDegradation(noise=noise).shrink(to_tensor(truth), 4, "sheet")
    picture = Picture(to_pixels(lr, truth), None, "png", None, None, None)
    picture = picture if noise else decode_image(encode_jpeg(picture.pixels, 75), "sheet")
    shown = [Upscaler(load_model("bicubic", 4).model)(picture)]
    for strength in (0.0, None):
        upscaler = Upscaler(load_model(model, 4).model, self_ensemble=False, restorer=restorer, restore=strength)
        shown.append(upscaler(picture, 4, refs))
    rows.append(np.hstack([result.pixels[VIEW] for result in shown] + [truth[VIEW]]))
target = Path(sys.argv[1] if len(sys.argv) > 1 else "restoration.png")
Image.fromarray(np.vstack(rows)).save(target)
print(f"{target}: noise, JPEG, JPEG with references; bicubic, as it is, restored first, truth")
