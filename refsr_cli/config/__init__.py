"""Settings of each task and their defaults: frozen, and torch-free."""

from refsr_cli.config.nets import ConvertConfig, InspectConfig, ShowConfig, SliceConfig
from refsr_cli.config.preparing import PrepareConfig
from refsr_cli.config.running import (
    DEFAULT_SCALE,
    LARGEST_RESULT,
    VIDEOS,
    BenchConfig,
    EvaluateConfig,
    NetConfig,
    Precision,
    UpscaleConfig,
)
from refsr_cli.config.training import CONFIG, Contrast, Optimizer, Schedule, Stage, TrainConfig, resumed

__all__ = [
    "CONFIG",
    "DEFAULT_SCALE",
    "LARGEST_RESULT",
    "VIDEOS",
    "BenchConfig",
    "Contrast",
    "ConvertConfig",
    "EvaluateConfig",
    "InspectConfig",
    "NetConfig",
    "Optimizer",
    "Precision",
    "PrepareConfig",
    "Schedule",
    "ShowConfig",
    "SliceConfig",
    "Stage",
    "TrainConfig",
    "UpscaleConfig",
    "resumed",
]
