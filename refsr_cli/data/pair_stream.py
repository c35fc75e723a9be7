"""Windows with a reference each, made when they are needed, by several processes."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from refsr_cli.data.numbered import TRIES, Numbered
from refsr_cli.data.pairs import AGAIN, PairWindows
from refsr_cli.data.photos import dihedral, random_turns
from refsr_cli.errors import RefsrError


class _Pairs(Dataset[tuple[Tensor, Tensor, int]]):
    """The window numbered so and its first reference, of one size each, and how many were unfit before it."""

    def __init__(self, windows: PairWindows, side: int) -> None:
        self.windows, self.side = windows, side

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, int]:
        for failed in range(TRIES):
            try:
                window = self.windows[number + failed * AGAIN]
            except RefsrError:
                continue
            return window.pixels.contiguous(), _fitted(window.references[0], self.side, window.centre), failed
        empty = torch.zeros(3, self.windows.side, self.windows.side, dtype=torch.uint8)
        return empty, _fitted(empty, self.side, (0.5, 0.5)), TRIES


def _fitted(image: Tensor, side: int, centre: tuple[float, float]) -> Tensor:
    """What is around `centre` of an image (3, H, W), which is continued where it is smaller: (3, side, side)."""
    for dim, part in ((1, centre[0]), (2, centre[1])):
        first = max(0, min(round(part * image.shape[dim] - side / 2), image.shape[dim] - side))
        image = image.narrow(dim, first, min(side, image.shape[dim]))
    around = (0, side - image.shape[2], 0, side - image.shape[1])
    return (
        F.pad(image[None].float(), around, mode="replicate")[0].to(torch.uint8) if any(around) else image.contiguous()
    )


class PairStream(Numbered):
    """Batches without end; the same ones for the same windows, however many processes make them."""

    def __init__(
        self,
        windows: PairWindows,
        side: int,
        device: torch.device,
        *,
        batch: int,
        part: slice,
        workers: int,
        augment: bool = True,
    ) -> None:
        """`side` of the references. Only `part` of each batch is given, where several processes share it."""
        unfit = "windows in a row are unfit: no picture can be read, or none is as large as one"
        super().__init__(_Pairs(windows, side), unfit, device, batch=batch, part=part, workers=workers)
        self.augment = augment

    def draw(self, generator: torch.Generator, *, apart: bool = False) -> tuple[Tensor, Tensor]:
        """The next windows (N, 3, side, side) and references, float in [0, 1]; where that was not switched off turned,
        mirrored and with their colours exchanged alike by the CPU `generator`. `apart` turns references otherwise.
        Raises BadData where too many in a row are unfit."""
        windows, references = self.next_batch()
        turns = random_turns(2 * self.size, generator, augment=self.augment).view(2, -1)[:, self.part]
        colours = (torch.randperm(3, generator=generator) if self.augment else torch.arange(3)).to(self.device)
        hr, ref = (x.to(self.device, non_blocking=True)[:, colours].float() / 255 for x in (windows, references))
        return dihedral(hr, turns[0]), dihedral(ref, turns[1 if apart else 0])
