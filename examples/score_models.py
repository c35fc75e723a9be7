"""A table of every packaged net on one photo.   python examples/score_models.py"""

from pathlib import Path

from refsr_cli.config import EvaluateConfig
from refsr_cli.tasks.evaluate import Summary, evaluate
from refsr_cli.weights.store import available

photos = Path(__file__).parent / "images" / "flowerpot"
for model, scale in [("bicubic", 4), *available()]:
    for record in evaluate(EvaluateConfig(dataset=str(photos), model=model, scale=scale, as_published=True)):
        if isinstance(record, Summary):
            print(
                f"{model} x{scale}: {record.psnr:.2f} dB, SSIM {record.ssim:.4f} (bicubic {record.bicubic_psnr:.2f} dB)"
            )
