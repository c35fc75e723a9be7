"""Which files are enlarged, with which references, and where the results go."""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from refsr_cli.config import VIDEOS, UpscaleConfig
from refsr_cli.data.folders import is_image, is_result, match_files, without_results
from refsr_cli.data.references import find_references, open_reference_file
from refsr_cli.errors import BadData, BadSetting, Failed, UnknownName
from refsr_cli.images import FORMATS, check_size
from refsr_cli.reference.bank import Reference


@dataclass(frozen=True)
class Job:
    """One file to be enlarged."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Input:
    """An image file that the inputs name."""

    file: Path
    below: Path
    """Its path below the folder that was named, or its name."""
    folder: Path | None
    """The folder that was named."""


def find_inputs(config: UpscaleConfig) -> tuple[list[Input], list[Failed]]:
    """The image files that the inputs name, and the inputs that name none."""
    found: dict[Path, Input] = {}
    missing: list[Failed] = []
    for name in config.inputs:
        path = Path(name)
        if path.is_dir():
            files = sorted(path.rglob("*") if config.recursive else path.glob("*"))
            images = [Input(file, file.relative_to(path), path) for file in files if is_image(file)]
            if config.output and config.output.is_dir() and config.output.resolve() != path.resolve():
                own = config.output.resolve()  # results of an earlier run
                images = [image for image in images if own not in image.file.resolve().parents]
            hint = "" if config.recursive else "; --recursive looks into the folders in it too"
            if video := next((file for file in files if file.suffix.lower() in VIDEOS), None):
                hint = f"; its videos are meant by '{path / '*'}{video.suffix}'"
            problem = f"{name} is a folder without images{hint}"
        elif path.exists() or path.is_symlink():
            images, problem = [Input(path, Path(path.name), None)], ""
        else:
            images = [Input(file, Path(file.name), None) for file in without_results(match_files(name, is_image))]
            problem = f"{name} is not there"
        if not images:
            missing.append(Failed(name, problem))
        for image in images:
            found.setdefault(image.file.resolve(), image)
    return list(found.values()), missing


def plan(found: list[Input], config: UpscaleConfig) -> list[Job]:
    """What is to be written where. Raises BadSetting when two outputs are one, or an output is an input."""
    names_file = config.output is not None and bool(config.output.suffix) and not config.output.is_dir()
    if names_file and (len(found) > 1 or any(item.folder for item in found)):
        if config.output and config.output.suffix.lower() in FORMATS:
            raise BadSetting(f"--output {config.output} names one file for {len(found)} images; name a folder instead")
        names_file = False
    jobs = [Job(item.file, _target(item, config, names_file)) for item in found]
    sources = {item.file.resolve() for item in found}
    taken: dict[Path, Path] = {}
    for job in jobs:
        target = job.target.resolve()
        if target in taken:
            raise BadSetting(
                f"{taken[target]} and {job.source} would both be written to {job.target}; do them one after the other, "
                "into folders of their own"
            )
        if target in sources and not config.overwrite and not config.skip_existing:
            whose = "its own result" if target == job.source.resolve() else f"the result of {job.source}"
            raise BadSetting(
                f"{job.target} is an input and would be overwritten by {whose}; "
                "give another --output, --skip-existing or --overwrite"
            )
        taken[target] = job.source
    _check_extras(config, len(found), {*sources, *taken})
    return jobs


def _check_extras(config: UpscaleConfig, count: int, used: set[Path]) -> None:
    """Raises BadSetting when a trust map or a sheet cannot be written, or would take the place of another file."""
    for option, extra in (("--trust-map", config.trust_map), ("--compare", config.compare)):
        if extra is None:
            continue
        if count > 1:
            raise BadSetting(f"{option} {extra} names one file for {count} images")
        if extra.resolve() in used:
            raise BadSetting(f"{option} {extra} is another file of this command; give another name")
        if extra.exists() and not config.overwrite:
            raise BadSetting(f"{extra} exists already; give --overwrite, or another {option}")
        if extra.suffix.lower() not in FORMATS:
            raise BadSetting(f"{option} {extra} cannot be written; let its name end in {', '.join(FORMATS)}")
        check_size(extra, 1, 1)
        used.add(extra.resolve())


def _target(item: Input, config: UpscaleConfig, names_file: bool) -> Path:
    if config.output and names_file:
        if config.output.suffix.lower() not in FORMATS:
            raise BadSetting(f"{config.output} cannot be written as {config.output.suffix}; use {', '.join(FORMATS)}")
        if config.format and FORMATS[_suffix(config.format)] != FORMATS[config.output.suffix.lower()]:
            raise BadSetting(f"--output {config.output} and --format {config.format} contradict each other")
        return config.output
    suffix = _suffix(config.format) if config.format else item.file.suffix
    if suffix.lower() not in FORMATS:
        suffix = ".png"  # what it is, is in the file; a named file may be called anything
    if config.output:
        return config.output / item.below.with_suffix(suffix)
    if item.folder:
        folder = item.folder.resolve()
        return folder.with_name(f"{folder.name}_{config.label}") / item.below.with_suffix(suffix)
    return item.file.with_name(f"{item.file.stem}_{config.label}{suffix}")


def _suffix(name: str) -> str:
    """The file name ending of a format: ".png" for "png"."""
    suffix = f".{name.lower().lstrip('.')}"
    if suffix not in FORMATS:
        raise UnknownName("format", name, {ending.lstrip(".") for ending in FORMATS})
    return suffix


@dataclass(frozen=True)
class RefSkipped:
    """A reference that cannot be used; the others are."""

    path: str
    message: str
    named: bool
    """Whether it was named itself, not by a folder or a pattern: then something named could not be done."""
    kind: str = "ref_skipped"


@dataclass(frozen=True)
class OpenedReference:
    """A reference that can be read."""

    reference: Reference
    file: Path
    """Resolved."""
    named: bool


def open_references(config: UpscaleConfig, jobs: list[Job]) -> Generator[RefSkipped, None, list[OpenedReference]]:
    """The references that can be used, of those named. Raises BadData when none is left, and BadSetting when one that
    was named would be overwritten."""
    if not config.refs:
        return []
    written = {path.resolve() for path in (*(job.target for job in jobs), config.trust_map, config.compare) if path}
    sources = {job.source.resolve(): job.source for job in jobs}
    references = []
    for path, named in find_references(config.refs, recursive=config.recursive).items():
        file = path.resolve()
        if named and file in written:
            raise BadSetting(f"the reference {path} would be overwritten; give its result another name")
        if not named and (file in written or any(is_result(path, source) for source in sources.values())):
            yield RefSkipped(str(path), f"{path} is named like a result of refsr", named)
            continue
        if not named and len(sources) == 1 and file in sources:
            yield RefSkipped(str(path), f"{path} is the input itself", named)
            continue
        opened = open_reference_file(path, allow_large=config.allow_large)
        if isinstance(opened, Failed):
            yield RefSkipped(opened.path, opened.message, named)
        else:
            references.append(OpenedReference(opened, file, named))
    if not references:
        raise BadData(
            f"no reference is left of --ref {' --ref '.join(config.refs)}; name at least one that can be read"
        )
    return references


def references_for(opened: list[OpenedReference], source: Path) -> list[Reference]:
    """The references for the picture in `source`: itself only where it was named."""
    return [item.reference for item in opened if item.named or item.file != source.resolve()]
