"""What SRResNet's parts are worth: one training with one thing changed at a time, and the scores. A try of two steps;
in earnest   python examples/srresnet_ablation.py --data PHOTOS --dataset Set5 --steps 1500"""

from pathlib import Path

import typer

from refsr_cli.config import EvaluateConfig, TrainConfig, resumed
from refsr_cli.errors import BadWeights
from refsr_cli.recipes import settings_of
from refsr_cli.tasks.evaluate import Summary, evaluate
from refsr_cli.tasks.train import train

SHIPPED = str(Path(__file__).parent / "images" / "flowerpot" / "LR")
ROWS = {"16 blocks": {}} | {f"{blocks} blocks": {"numbers": (f"blocks={blocks}",)} for blocks in (8, 12, 24)}
ROWS |= {  # as in the published ablation, with 12 blocks
    "12 blocks, no global skip": {"numbers": ("blocks=12", "global_skip=false")},
    "12 blocks, bicubic upsampling": {"numbers": ("blocks=12", "upsampler=bicubic")},
    "12 blocks, VGG54 alone": {"numbers": ("blocks=12",), "loss": "VGG54"},
}


def main(data: Path | None = None, dataset: str = SHIPPED, steps: int = 2, out: Path = Path("runs/ablation")) -> None:
    small = {"batch": 8, "patch": 24, "candidates": 4, "learning_rate": 5e-4, "schedule": "cosine", "precision": "bf16"}
    small["warmup"] = steps // 10  # else the deeper nets' batch normalisation does not settle
    for row, changes in list(ROWS.items())[: None if data else -1]:  # a try fetches no weights of VGG
        run = out / row.replace(",", "").replace(" ", "-")
        recipe = {**settings_of("srresnet-x2"), **small, "data": data, "val": dataset, "steps": steps, "out": run}
        try:
            list(train(resumed(run, {}) if (run / "state.pt").exists() else TrainConfig(**{**recipe, **changes})))
        except BadWeights as error:  # of VGG
            print(f"| {row} | {error} |")
            continue
        scored = EvaluateConfig(dataset=dataset, scale=2, weights=str(run / "model.safetensors"), as_published=True)
        (summary,) = (record for record in evaluate(scored) if isinstance(record, Summary))
        print(f"| {row} | {summary.psnr:.2f} / {summary.ssim:.4f} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
