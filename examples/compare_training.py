"""Steps of `refsr train` and of the usual loop, by turns: python examples/compare_training.py PHOTOS"""

import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, RandomSampler
from torchvision.transforms.v2 import PILToTensor, RandomCrop, Resize

from refsr_cli.config import TrainConfig
from refsr_cli.data.folders import find_photos
from refsr_cli.models import build
from refsr_cli.tasks.train import train

PHOTOS, ROUNDS = (Path(sys.argv[1]), 12) if sys.argv[1:] else (Path(__file__).parent / "images" / "kodak", 1)


def decoded(paths):
    return torch.stack([RandomCrop(192)(PILToTensor()(Image.open(path).convert("RGB"))) for path in paths]) / 255


if __name__ == "__main__":
    paths, net, shrink = find_photos(PHOTOS), build("edsr-baseline", 4), Resize(48, antialias=True)
    optimizer, endless = torch.optim.Adam(net.parameters(), 1e-4), RandomSampler(paths, True, 10**6)
    batches = iter(DataLoader(paths, 16, sampler=endless, num_workers=2, collate_fn=decoded))
    out, times = Path(tempfile.mkdtemp(), "run"), []
    records = train(TrainConfig(model="edsr-baseline", data=PHOTOS, out=out, steps=10**6, log_every=1, fold_tail=True))
    for begin in (time.perf_counter() for _ in range(ROUNDS + 1)):
        optimizer.zero_grad()
        torch.nn.functional.l1_loss(net(shrink(hr := next(batches))), hr).backward()
        optimizer.step()
        between = time.perf_counter()
        next(record for record in records if record.kind == "step")
        times.append((between - begin, time.perf_counter() - between))
    records.close()
    one, other = torch.tensor(times[1:]).median(0).values.tolist()
    print(f"the usual loop {one:.2f} s a step, refsr train {other:.2f} s: {one / other:.2f}x")
