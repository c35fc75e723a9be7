from pathlib import Path
import torch
from PIL import Image
from torch import Tensor
import numpy as np
def read_rgb8(path: Path) -> Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
