"""What commands that enlarge share: the net they ask for, found, loaded and made ready to run; and their records."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from refsr_cli.config import NetConfig
from refsr_cli.inference.upscaler import Upscaler, Using
from refsr_cli.weights.store import load_model


@dataclass(frozen=True)
class Progress:
    """Work done on one file: input pixels of all passes together, or frames of a video."""

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
    prefers a net that has learned to merge references.

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
    )
    upscaler = Upscaler(
        loaded.model,
        device=config.device,
        precision=config.precision,
        self_ensemble=config.self_ensemble,
        tile=config.tile,
        memory=config.memory,
        compile=config.compile,
    )
    return upscaler, upscaler.using(loaded.name, loaded.metadata.get("note"))
