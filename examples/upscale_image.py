"""The library in a few lines.   python examples/upscale_image.py [IN OUT]"""

import sys
from pathlib import Path

from refsr_cli.images import read_image, write_image
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.weights.store import load_model

here = Path(__file__).parent
source, target = map(Path, sys.argv[1:3]) if len(sys.argv) > 2 else (here / "images/kodak/kodim23.png", "kodim23_x2.png")

upscaler = Upscaler(load_model(None, 2).model)
picture = read_image(Path(source))
write_image(Path(target), upscaler(picture, scale=2))
print(f"{source} -> {target}")
