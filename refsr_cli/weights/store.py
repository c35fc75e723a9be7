"""Where weights come from: a named file, refsr's own package, the local cache, the hub, in that order."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from refsr_cli.errors import BadSetting, BadWeights, UnknownName
from refsr_cli.files import digest
from refsr_cli.models import MODELS, build
from refsr_cli.packaged import packaged
from refsr_cli.weights.files import Loaded, require_file
from refsr_cli.weights.formats import load_any
from refsr_cli.weights.hub import Fetched, HubFile, NotThere, Progress, fetch, forget
from refsr_cli.weights.manifest import WeightRecord, read_manifest

UNTRAINED = "bicubic"
"""The model that needs no weights."""

RESTORER = "restorer"
"""The model that restores pictures before another enlarges them."""

_HUB_NAME = re.compile(r"(?!.*(--|\.\.))(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?(:(?P<file>[\w./-]+))?")
_SUFFIXES = {".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar", ".pkl"}


@dataclass(frozen=True)
class Found:
    """A weight file on this machine, whole and checked, and how it came to be known."""

    path: Path
    source: Literal["file", "packaged", "cache", "hub"]
    record: WeightRecord | None = None
    """Its row in the manifest; None for a file or a repository that the user named."""
    note: str | None = None
    """What the user should be told about it."""


def available(model: str | None = None, folder: Path | None = None) -> list[tuple[str, int]]:
    """(model, scale) of the packaged weights that are there, best first; those of `model` only, when given."""
    folder = folder or packaged("weights")
    here = [record for record in read_manifest(folder) if record.repo is None and (folder / record.file).is_file()]
    return list(dict.fromkeys((record.model, record.scale) for record in here if model in (None, record.model)))


def default_model(scale: int, folder: Path | None = None, *, with_refs: bool = False) -> tuple[str, int] | None:
    """(model, scale) of the best packaged weights for `scale`; else those of the nearest larger scale; else those of
    the largest one. Among those of one scale, `with_refs` prefers a net that has learned to merge references, and
    without it one that has not. None when nothing is packaged."""
    here = [(name, found) for name, found in available(folder=folder) if found > 1]
    choices = [(name, found) for name, found in here if not MODELS[name].net.needs_ref]

    def remoteness(choice: tuple[str, int]) -> tuple[bool, int, bool]:
        name, its = choice
        return its < scale, abs(its - scale), MODELS[name].net.merges_refs != with_refs

    return min(choices, key=remoteness, default=None)


def find_weights(
    model: str | None,
    scale: int | None,
    weights: str | None = None,
    *,
    offline: bool = False,
    on_progress: Progress | None = None,
    folder: Path | None = None,
) -> Found:
    """The file that `weights` names, else the best one for `model` and `scale`; downloaded where needed.

    `weights` is a path, an id of the manifest, or `owner/name[@revision][:file]` on the hub. `folder` holds manifest
    and packaged weights (refsr's own when None). A checksum that is known is compared at every use.
    Raises UnknownName for an unknown model, and BadWeights, with what can be used instead, for everything else.
    """
    folder = folder or packaged("weights")
    try:
        if weights is None:
            return _from_record(_listed(model, scale, folder), folder, offline, on_progress)
        if _is_path(weights):
            path = Path(weights).expanduser()
            require_file(path)
            return Found(path, "file")
        record = next((record for record in read_manifest(folder) if record.id == weights), None)
        if record:
            return _from_record(record, folder, offline, on_progress)
        return _from_repository(weights, scale, offline, on_progress)
    except BadWeights as error:
        raise BadWeights(f"{error}. {_instead(scale, folder)}") from None


def load_model(
    model: str | None,
    scale: int | None,
    weights: str | Sequence[str] | None = None,
    *,
    with_refs: bool = False,
    offline: bool = False,
    on_progress: Progress | None = None,
    flavour: str | None = None,
    res_scale: float | None = None,
    rgb_mean: tuple[float, float, float] | None = None,
    folder: Path | None = None,
) -> Loaded:
    """The net with its weights, on the CPU and in eval mode: the one entry for tasks.

    Without `weights` the net may be for another scale, if there are no weights for `scale`: read `loaded.model.scale`.
    Without `model` too it is `default_model(scale, with_refs=with_refs)`. With `weights` the file decides, and `model`
    and `scale` are only compared with it; several are the parts of one net. `flavour`, `res_scale` and
    `rgb_mean` say how to read a published file.
    `loaded.metadata["note"]`, where it is there, is a line for the user.

    Raises BadSetting where `model` or `scale` contradict the file, UnknownName for an unknown model or flavour, and
    BadWeights for weights that are not there, with what can be used instead, or not usable.
    """
    if model is not None and model not in MODELS:
        raise UnknownName("model", model, MODELS)
    if weights is None:
        model, scale = _chosen(model, scale, folder, with_refs)
    if model == UNTRAINED:
        return _untrained(scale, weights)
    names = [weights] if weights is None or isinstance(weights, str) else list(weights)
    found, *more = (
        find_weights(model, scale, name, offline=offline, on_progress=on_progress, folder=folder) for name in names
    )
    if found.record:
        flavour = flavour or found.record.flavour
        res_scale = found.record.res_scale if res_scale is None else res_scale
    parts = (part.path for part in more)
    loaded = load_any(found.path, *parts, flavour=flavour, res_scale=res_scale, rgb_mean=rgb_mean)
    if loaded.model.multi_scale and scale in loaded.model.scales:
        loaded.model.scale = scale
    if model not in (None, loaded.name) or scale not in (None, loaded.model.scale):
        asked = " ".join(filter(None, (model, f"x{scale}" if scale else None)))
        holds = f"{names[0] or found.path} holds {loaded.name} x{loaded.model.scale}"
        raise BadSetting(f"{holds}, not {asked}; leave out the one or the other")
    loaded.model.eval()
    notes = [note for note in (found.note, loaded.metadata.get("note")) if note]
    return replace(loaded, metadata={**loaded.metadata, "note": "; ".join(notes)} if notes else loaded.metadata)


def _chosen(model: str | None, scale: int | None, folder: Path | None, with_refs: bool) -> tuple[str, int]:
    """What is meant where no weights are named."""
    if scale is None:
        raise BadSetting("name a scale, or a weight file, which says its own")
    if model is not None:
        return model, _nearest_scale(model, scale, folder)
    default = default_model(scale, folder, with_refs=with_refs)
    if default is None:
        raise BadWeights(f"no weights are packaged with this refsr. {_instead(scale, folder or packaged('weights'))}")
    return default


def _nearest_scale(model: str, scale: int, folder: Path | None) -> int:
    """`scale` where `model` has weights for it, else the nearest larger one that has some, else the largest; those of
    the hub only for a model that has none in the package."""
    packaged_ones = {scale for _, scale in available(model, folder)}
    scales = packaged_ones or {record.scale for record in read_manifest(folder) if record.model == model}
    if not scales:
        return scale
    return min(scales, key=lambda its: (its < scale, abs(its - scale)))


def _untrained(scale: int | None, weights: str | Sequence[str] | None) -> Loaded:
    if weights is not None or scale is None:
        raise BadSetting(f"model '{UNTRAINED}' has no weights to load; name a scale, or another model")
    return Loaded(build(UNTRAINED, scale).eval(), UNTRAINED, {})


def _listed(model: str | None, scale: int | None, folder: Path) -> WeightRecord:
    """The row for `model` and `scale`; packaged ones first."""
    if model is None or model not in MODELS:
        raise UnknownName("model", str(model), MODELS)
    rows = [record for record in read_manifest(folder) if record.model == model]
    fitting = [record for record in rows if record.scale == scale]
    if fitting:
        return min(fitting, key=lambda record: record.repo is not None)
    scales = ", ".join(f"x{its}" for its in sorted({record.scale for record in rows}))
    there = f"there are some for {scales}" if scales else "train it, or name a weight file"
    raise BadWeights(f"there are no weights of model '{model}' for x{scale}; {there}")


def _is_path(weights: str) -> bool:
    """Whether a file is meant: one that is there, or a name that ends as those of weight files do."""
    try:
        path = Path(weights).expanduser()
        return path.exists() or (path.suffix in _SUFFIXES and ":" not in weights[2:])
    except (OSError, RuntimeError, ValueError):  # too long a name, an unknown user's home, a zero byte
        return False


def _from_record(record: WeightRecord, folder: Path, offline: bool, on_progress: Progress | None) -> Found:
    if record.repo is None:
        path = folder / record.file
        require_file(path)
        _check(path, record.sha256, "install refsr again")
        return Found(path, "packaged", record)
    wanted = HubFile(repo=record.repo, file=record.file, revision=record.revision or "main")
    fetched = fetch(wanted, offline=offline, on_progress=on_progress)
    note = _check_fetched(fetched, record.sha256)
    return Found(fetched.path, fetched.source, record, None if record.sha256 else f"{wanted} has {note}")


def _from_repository(name: str, scale: int | None, offline: bool, on_progress: Progress | None) -> Found:
    """The file that `owner/name[@revision][:file]` means; without a file, one of the usual names."""
    match = _HUB_NAME.fullmatch(name)
    if not match:
        raise BadWeights(f"'{name}' is no weight file, no id that refsr knows, and no owner/name on the hub")
    usual = ["model.safetensors", f"pytorch_model_{scale or 4}x.pt"]
    names = [match["file"]] if match["file"] else usual
    for file in names:
        wanted = HubFile(repo=match["repo"], file=file, revision=match["revision"] or "main")
        try:
            fetched = fetch(wanted, offline=offline, on_progress=on_progress)
        except NotThere:
            if match["file"]:
                raise
            continue
        note = f"{wanted} is commit {fetched.commit[:8]} with {_check_fetched(fetched, None)}"
        return Found(fetched.path, fetched.source, note=note)
    raise BadWeights(f"{match['repo']} has no file {' or '.join(usual)}; name one: {match['repo']}:file")


def _check_fetched(fetched: Fetched, expected: str | None) -> str:
    """Compares a file of the cache with the checksum that is expected, else with the one that the hub announced.

    Returns its checksum, for a note. Raises BadWeights, after the file was removed, where they differ.
    """
    try:
        return f"sha256 {_check(fetched.path, expected or fetched.announced, 'it was removed: download it again')}"
    except BadWeights:
        forget(fetched.path)
        raise


def _check(path: Path, expected: str | None, remedy: str) -> str:
    found = digest(path)
    if expected not in (None, found):
        raise BadWeights(
            f"{path} is damaged or not the expected file: sha256 {found[:12]}…, not {expected:.12}…; {remedy}"
        )
    return found


def _instead(scale: int | None, folder: Path) -> str:
    """What can be used without the hub."""
    ids = [r.id for r in read_manifest(folder) if r.repo is None and (folder / r.file).is_file()]
    fitting = [r.id for r in read_manifest(folder) if r.id in ids and r.scale == scale] or ids
    names = ", ".join([f"model '{UNTRAINED}'", *(f"weights '{name}'" for name in fitting)])
    return f"Ready to use instead: {names}"
