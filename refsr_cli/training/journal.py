"""What a training leaves to be looked at: tables, curves, pictures, and events where TensorBoard is installed."""

import csv
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refsr_cli.files import make_folder, replacing, write_table
from refsr_cli.images import Picture, write_image

STEPS, VALIDATION, CURVES, CROPS = "steps.csv", "validation.csv", "curves.png", "crops"
"""Names in a run directory."""
SHOWN, CROP = 4, 96
"""Validation images whose middle is kept at each validation, and its side in high-resolution pixels."""

Row = Mapping[str, float | int]


class Journal:
    """The tables of one run directory: `steps.csv` and `validation.csv`. A training that is resumed goes on with what
    they held at its step."""

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        self._columns: dict[str, list[str]] = {}
        for name in (STEPS, VALIDATION):
            rows = [row for row in _read(folder / name) if int(row["step"]) <= step]
            if rows:
                self._columns[name] = write_table(folder / name, rows)
            else:
                (folder / name).unlink(missing_ok=True)
        self._events: Any = None
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def has_validation(self, step: int) -> bool:
        """Whether the weights of `step` were scored."""
        return any(int(row["step"]) == step for row in _read(self.folder / VALIDATION))

    def note(self, table: str, row: Row) -> None:
        """Adds `row` with its `step` to `table`, one of the names above. Raises BadFile."""
        path = self.folder / table
        if self._columns.get(table) == list(row):
            with path.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, list(row)).writerow(row)
        else:  # the first row, or another loss than before
            self._columns[table] = write_table(path, [*_read(path), row])
        if self._events:
            for name, value in row.items():
                if name not in ("step", "scale"):
                    tag = f"{name}/x{row['scale']}" if "scale" in row else name
                    self._events.add_scalar(tag, value, row["step"])
            self._events.flush()

    def draw_curves(self) -> None:
        """`curves.png`: loss, learning rate and PSNR over the steps. Raises BadFile."""
        from matplotlib.figure import Figure

        steps, scores = _read(self.folder / STEPS), _read(self.folder / VALIDATION)
        figure = Figure(figsize=(9, 9), layout="constrained")
        loss, rate, quality = figure.subplots(3, 1, sharex=True)
        for name in (key for key in (steps[0] if steps else {}) if key.startswith("loss")):
            loss.plot(_column(steps, "step"), _column(steps, name), label=name)
        rate.plot(_column(steps, "step"), _column(steps, "learning_rate"))
        for scale in sorted({row["scale"] for row in scores}):
            its = [row for row in scores if row["scale"] == scale]
            quality.plot(_column(its, "step"), _column(its, "psnr"), marker=".", label=f"x{scale}")
        loss.set(ylabel="loss", yscale="symlog" if min(_column(steps, "loss"), default=1) <= 0 else "log")
        rate.set(ylabel="learning rate")
        quality.set(ylabel="PSNR (dB)", xlabel="step")
        for panel in (loss, quality):
            if panel.get_legend_handles_labels()[0]:
                panel.legend()
        for panel in (loss, rate, quality):
            panel.grid(alpha=0.3)
        with replacing(self.folder / CURVES) as unfinished:
            figure.savefig(unfinished, format="png", dpi=100)

    def keep_crops(self, step: int, scale: int, rows: Sequence[Sequence[Tensor]]) -> None:
        """`crops/000500_x4.png`: each row's (3, h, w) images in [0, 1] beside each other. Raises BadFile."""
        height, width = (max(image.shape[side] for row in rows for image in row) for side in (1, 2))
        sheet = torch.ones(3, (height + 4) * len(rows), (width + 4) * max(map(len, rows)))
        for down, row in enumerate(rows):
            for right, image in enumerate(row):
                top, left = down * (height + 4), right * (width + 4)
                sheet[:, top : top + image.shape[1], left : left + image.shape[2]] = image
        make_folder(self.folder / CROPS)
        pixels = sheet.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        path = self.folder / CROPS / f"{step:06d}_x{scale}.png"
        write_image(path, Picture(np.ascontiguousarray(pixels), None, "png", None, None, None))


def middle(image: Tensor) -> Tensor:
    """The middle of a picture of any size.   (1, C, H, W) -> (3, h, w), each side at most CROP"""
    height, width = image.shape[-2:]
    top, left = max(0, height - CROP) // 2, max(0, width - CROP) // 2
    return image[0, :, top : top + CROP, left : left + CROP].expand(3, -1, -1)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if row["step"].isdigit() and None not in row.values()]  # one may have been cut off


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [float(row[name] or "nan") for row in rows]
