"""The library in a few lines.   python examples/upscale_image.py [IN OUT]"""

import sys
from pathlib import Path

from refsr_cli.images import read_image, write_image
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.weights.store import load_model

shipped = Path(__file__).parent / "images" / "flowerpot" / "LR" / "flowerpot.png"
source, target = map(Path, sys.argv[1:3] or (shipped, "flowerpot_x2.png"))

upscaler = Upscaler(load_model(None, 2).model)
write_image(target, upscaler(read_image(source), scale=2))
print(f"{source} -> {target}")
