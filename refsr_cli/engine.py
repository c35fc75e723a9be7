"""What commands that enlarge share: the net they ask for, found, loaded and made ready to run; and their records."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from refsr_cli.config import NetConfig
from refsr_cli.errors import BadSetting
from refsr_cli.inference.results import Using
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.models import SRModel
from refsr_cli.restoration.strength import Restoration
from refsr_cli.weights.store import RESTORER, available, load_model


@dataclass(frozen=True)
class Progress:
    """Work done on one file: input pixels of all passes together, frames of a video, pieces of a training step."""

    source: str
    done: int
    total: int
    kind: str = "progress"


@dataclass(frozen=True)
class Skipped:
    """One file whose target was there already."""

    source: str
    target: str
    kind: str = "skipped"


@dataclass(frozen=True)
class Restored:
    """What was known of how a picture was degraded, and what was done about it."""

    strength: float
    """0 (nothing) to 1."""
    jpeg_quality: int | None
    """About what libjpeg's quality was; None where there is no sign of JPEG."""
    from_file: bool
    """Whether the file says that quality; else it is estimated from the pixels."""
    noise: float
    """σ of 255, estimated."""
    blur: float
    """σ in pixels, estimated."""
    soft: bool
    """Whether that is more than clean pictures are estimated at."""
    note: str | None = None
    """What could not be found out."""


def restored_as(restoration: Restoration, format: str) -> Restored:
    """The record of a restoration of a picture from a file of that format."""
    known = restoration.degradation
    unread = "a JPEG whose quality cannot be read" if format == "jpg" and not known.jpeg_step else None
    noise, blur = round(known.noise, 2), round(known.blur, 2)
    return Restored(
        restoration.strength, known.jpeg_quality, known.jpeg is not None, noise, blur, known.softness > 0, unread
    )


def columns(record: Any) -> dict[str, Any]:
    """A record as a row of a table: all but its kind."""
    return {name: value for name, value in asdict(record).items() if name != "kind"}


def open_upscaler(
    config: NetConfig,
    scale: int | None,
    on_download: Callable[[int, int | None], None] | None = None,
    *,
    with_refs: bool = False,
) -> tuple[Upscaler, Using]:
    """An upscaler for `scale` (None: whatever the weights are for), and the record of what it uses. `with_refs`
    prefers a net that has learned to merge references. Pictures are restored first as the config says.

    Raises what `load_model` and `Upscaler` raise.
    """
    loaded = load_model(
        config.model,
        scale,
        config.weights,
        with_refs=with_refs,
        on_progress=on_download,
        flavour=config.flavour,
        res_scale=config.res_scale,
        rgb_mean=config.rgb_mean,
    )
    restores = not (loaded.model.interpolates or loaded.model.restores)
    if config.restore and not restores:
        raise BadSetting(f"--restore goes before a net that enlarges, not before {loaded.name}; leave it out")
    upscaler = _ready(loaded.model, config, _restorer(config) if restores else None, config.restore)
    return upscaler, upscaler.using(loaded.name, loaded.metadata.get("note"))


def _restorer(config: NetConfig) -> Upscaler | None:
    """What restores pictures; None where that is off, or automatic and no such net is packaged."""
    if config.restore == 0 or config.as_published or (config.restore is None and not available(RESTORER)):
        return None
    return _ready(load_model(RESTORER, 1).model, config)


def _ready(
    model: SRModel, config: NetConfig, restorer: Upscaler | None = None, restore: float | None = None
) -> Upscaler:
    return Upscaler(
        model,
        device=config.device,
        precision=config.precision,
        self_ensemble=config.self_ensemble,
        tile=config.tile,
        memory=config.memory,
        compile=config.compile,
        as_published=config.as_published,
        restorer=restorer,
        restore=restore,
    )
