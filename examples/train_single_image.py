"""Single-image nets trained on the same photos for the same steps, and the table of their scores. A try of two steps;
in earnest   python examples/train_single_image.py --data PHOTOS --dataset Set5 --dataset Set14 --steps 1500"""

from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from refsr_cli.config import EvaluateConfig, TrainConfig, resumed
from refsr_cli.tasks.evaluate import Summary, evaluate
from refsr_cli.tasks.train import train

LOSSES = {"edsr-baseline": "L1", "mdsr-baseline": "L1", "srresnet": "MSE", "srdensenet": "MSE"}
SHIPPED = [str(Path(__file__).parent / "images" / "flowerpot" / "LR")]
NETS = list(LOSSES)
Names = Annotated[list[str], typer.Option()]


def main(data: Path | None = None, dataset: Names = SHIPPED, model: Names = NETS, scale: int = 4, steps: int = 2):
    runs = {name: Path("runs") / f"{name}-x{scale}" for name in model}
    rest = {"patch": 24, "candidates": 4, "batch": 8, "learning_rate": 5e-4, "schedule": "cosine", "precision": "bf16"}
    for name, run in runs.items():
        job = {"model": name, "scale": scale, "data": data, "val": dataset[0], "out": run, "loss": LOSSES[name]}
        fresh = TrainConfig(**job, **rest, steps=steps)
        for record in train(resumed(run, {}) if (run / "state.pt").exists() else fresh):
            print(record, flush=True)
    for name, test in product(["bicubic", *model], dataset):
        for ensemble in (False, True) if "dsr" in name else (False,):
            file = str(runs[name] / "model.safetensors") if name in runs else None
            shared = {"model": name, "scale": scale, "weights": file, "as_published": True}
            config = EvaluateConfig(dataset=test, self_ensemble=ensemble, **shared)
            (summary,) = (record for record in evaluate(config) if isinstance(record, Summary))
            print(f"| {name}{'+' if ensemble else ''} | {test} | {summary.psnr:.2f} / {summary.ssim:.4f} |")


if __name__ == "__main__":
    typer.run(main)
