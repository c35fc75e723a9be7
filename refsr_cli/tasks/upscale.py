"""Image files in, larger image files out."""

import os
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from refsr_cli.comparison import compare
from refsr_cli.config import DEFAULT_SCALE, VIDEOS, UpscaleConfig
from refsr_cli.data.folders import is_image, is_result, match_files, without_results
from refsr_cli.data.references import find_references, open_reference_file
from refsr_cli.engine import Progress, Skipped, open_upscaler
from refsr_cli.errors import BadData, BadFile, BadImage, BadSetting, Failed, RefsrError, UnknownName
from refsr_cli.files import make_folder
from refsr_cli.images import FORMATS, Picture, check_size, read_image, write_image
from refsr_cli.inference.guided import RefUse
from refsr_cli.inference.upscaler import Enlarged, Upscaler, Using, finished
from refsr_cli.reference.bank import RefBank, Reference

LARGEST_RESULT = 2_000_000_000
"""Pixels above which a result is made only when asked to: a slip of the finger may fill the memory."""


@dataclass(frozen=True)
class Upscaled:
    """One file written."""

    source: str
    target: str
    width: int
    height: int
    seconds: float
    refs: tuple[RefUse, ...] = ()
    references: int = 0
    """How many there were to choose from."""
    kind: str = "upscaled"


@dataclass(frozen=True)
class RefSkipped:
    """A reference that cannot be used; the others are."""

    path: str
    message: str
    named: bool
    """Whether it was named itself, not by a folder or a pattern: then something named could not be done."""
    kind: str = "ref_skipped"


@dataclass(frozen=True)
class Total:
    """The end of a run over several files."""

    upscaled: int
    skipped: int
    failed: int
    seconds: float
    kind: str = "total"


@dataclass(frozen=True)
class _Job:
    source: Path
    target: Path


def upscale(
    config: UpscaleConfig, on_download: Callable[[int, int | None], None] | None = None
) -> Iterator[Using | Progress | Upscaled | Skipped | RefSkipped | Failed | Total]:
    """Enlarges every input. What is wrong with the request is raised before anything is read; what is wrong with one
    file is yielded as Failed, and the rest are done."""
    begin = time.perf_counter()
    try:
        found, missing = _find_inputs(config)
        planned = _plan(found, config)
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself
        raise BadFile(f"the inputs and outputs cannot be looked at: {error}") from None
    yield from missing
    jobs = [job for job in planned if not (config.skip_existing and _is_there(job.target))]
    yield from (Skipped(str(job.source), str(job.target)) for job in planned if job not in jobs)
    failed = len(missing)
    if jobs:
        opened = yield from _open_references(config, planned)
        scale = None if config.weights else config.scale or DEFAULT_SCALE
        upscaler, using = open_upscaler(config, scale, on_download, with_refs=bool(opened))
        yield using
        for option, extra in (("--trust-map", config.trust_map), ("--compare", config.compare)):
            if extra and upscaler.model.needs_ref:
                raise BadSetting(f"{option} shows how far references are believed, which {using.model} does not tell")
        for record in _upscale_all(jobs, upscaler, opened, config):
            failed += isinstance(record, Failed)
            yield record
    if len(planned) + len(missing) > 1:
        done = len(jobs) - failed + len(missing)
        yield Total(done, len(planned) - len(jobs), failed, time.perf_counter() - begin)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, say: writing will tell
        return False


@dataclass(frozen=True)
class _Opened:
    reference: Reference
    file: Path
    """Resolved."""
    named: bool


def _open_references(config: UpscaleConfig, jobs: list[_Job]) -> Generator[RefSkipped, None, list[_Opened]]:
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
        opened = open_reference_file(path)
        if isinstance(opened, Failed):
            yield RefSkipped(opened.path, opened.message, named)
        else:
            references.append(_Opened(opened, file, named))
    if not references:
        raise BadData(
            f"no reference is left of --ref {' --ref '.join(config.refs)}; name at least one that can be read"
        )
    return references


def _without(opened: list[_Opened], source: Path) -> list[Reference]:
    """The references for the picture in `source`: itself only where it was named."""
    return [item.reference for item in opened if item.named or item.file != source.resolve()]


def _upscale_all(
    jobs: list[_Job], upscaler: Upscaler, opened: list[_Opened], config: UpscaleConfig
) -> Iterator[Progress | Upscaled | Failed]:
    """One after the other; while one is computed the next is read, and the last one written."""
    with ThreadPoolExecutor(1) as beside:
        writer = _Writer(beside)
        for job, picture_of in _ahead(jobs, config):
            begin = time.perf_counter()
            try:
                refs = RefBank(_without(opened, job.source)) if opened else None
                made = yield from writer.between(_enlarge(job, picture_of(), upscaler, refs, config))
            except _EXPECTED as error:
                yield from writer.news(wait=True)
                yield _failed(job, error)
                continue
            yield from writer.news(wait=True)
            large = made.enlarged.picture.width * made.enlarged.picture.height > _LARGE
            writer.begin(job, partial(_write, job, made, config, begin))
            del made
            if large:
                yield from writer.news(wait=True)
        yield from writer.news(wait=True)


_LARGE = 50_000_000
"""Pixels of a result that is written before the next one is begun, so that two of them need not be held."""
_LARGE_FILE = 30_000_000
"""Bytes of a picture that is not read before its turn."""
_EXPECTED = (RefsrError, OSError, MemoryError)
"""What may happen to one file while the others are fine."""


@dataclass(frozen=True)
class _Made:
    enlarged: Enlarged
    compared: Picture | None
    references: int
    """How many there were."""


class _Writer:
    """Writes one result while the next one is made."""

    def __init__(self, beside: ThreadPoolExecutor) -> None:
        self._beside = beside
        self._pending: tuple[_Job, Future[Upscaled]] | None = None

    def begin(self, job: _Job, write: Callable[[], Upscaled]) -> None:
        self._pending = job, self._beside.submit(write)

    def news(self, *, wait: bool = False) -> Iterator[Upscaled | Failed]:
        """What became of the last one, once it is told."""
        if self._pending and (wait or self._pending[1].done()):
            (job, writing), self._pending = self._pending, None
            try:
                yield writing.result()
            except _EXPECTED as error:
                yield _failed(job, error)

    def between(self, steps: Generator[Progress, None, _Made]) -> Generator[Progress | Upscaled | Failed, None, _Made]:
        """`steps`, and the news as they come."""
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                made: _Made = end.value
                return made
            yield from self.news()
            yield step


def _ahead(jobs: list[_Job], config: UpscaleConfig) -> Iterator[tuple[_Job, Callable[[], Picture]]]:
    """Each job, and what gives its picture or raises what is wrong with it. The picture after it is read meanwhile, but
    for a large one and one that an earlier job may write."""
    written = {job.target.resolve() for job in jobs}

    def early(job: _Job) -> bool:
        return job.source.resolve() not in written and job.source.stat().st_size < _LARGE_FILE

    with ThreadPoolExecutor(1) as beside:
        following: list[Future[Picture]] = []
        for number, job in enumerate(jobs):
            reading = following.pop() if following else None
            following += [beside.submit(_read, its, config) for its in jobs[number + 1 : number + 2] if early(its)]
            yield job, reading.result if reading else partial(_read, job, config)
            del reading


def _failed(job: _Job, error: Exception) -> Failed:
    if isinstance(error, MemoryError):
        return Failed(str(job.source), f"not enough memory for the result of {job.source}; ask for a smaller size")
    return Failed(str(job.source), str(error))


def _read(job: _Job, config: UpscaleConfig) -> Picture:
    """The picture, if its result may be written. Raises what is wrong with it."""
    if job.target.exists() and not config.overwrite:
        raise BadImage(f"{job.target} exists already; give --overwrite, --skip-existing or another --output")
    picture = read_image(job.source, allow_large=config.allow_large)
    width, height = config.size_for(picture.width, picture.height)
    if width * height > LARGEST_RESULT and not config.allow_large:
        raise BadImage(f"{job.source} would become {width}x{height} pixels; if that is right, add --allow-large")
    check_size(job.target, width, height)
    for path in (job.target, config.trust_map, config.compare):
        if path:
            make_folder(path.parent)
            if not os.access(path.parent, os.W_OK):
                raise BadFile(f"the folder {path.parent} cannot be written to; give another name than {path}")
    return picture


def _enlarge(
    job: _Job, picture: Picture, upscaler: Upscaler, refs: RefBank | None, config: UpscaleConfig
) -> Generator[Progress, None, _Made]:
    if refs is not None and not len(refs):
        raise BadData(f"of the references nothing is left for {job.source} but itself")
    width, height = config.size_for(picture.width, picture.height)
    total, done = upscaler.work(picture, height, width, refs), 0
    steps = upscaler.enlarge(picture, height, width, refs)
    yield Progress(str(job.source), done, total)
    while True:
        try:
            done += next(steps)
        except StopIteration as end:
            enlarged: Enlarged = end.value
            break
        yield Progress(str(job.source), done, total)
    sheet = None
    if config.compare:
        plain = finished(upscaler.enlarge(picture, height, width)).picture
        sheet = compare(picture, plain, enlarged)
    return _Made(enlarged, sheet, len(refs or ()))


def _write(job: _Job, made: _Made, config: UpscaleConfig, begin: float) -> Upscaled:
    enlarged = made.enlarged
    write_image(job.target, enlarged.picture, quality=config.quality)
    if config.trust_map and enlarged.trust is not None:
        write_image(config.trust_map, Picture(enlarged.trust[..., None], None, "png", None, None, None))
    if config.compare and made.compared:
        write_image(config.compare, made.compared)
    width, height, seconds = enlarged.picture.width, enlarged.picture.height, time.perf_counter() - begin
    return Upscaled(str(job.source), str(job.target), width, height, seconds, enlarged.uses, made.references)


@dataclass(frozen=True)
class _Input:
    file: Path
    below: Path
    """Its path below the folder that was named, or its name."""
    folder: Path | None
    """The folder that was named."""


def _find_inputs(config: UpscaleConfig) -> tuple[list[_Input], list[Failed]]:
    """The image files that the inputs name, and the inputs that name none."""
    found: dict[Path, _Input] = {}
    missing: list[Failed] = []
    for name in config.inputs:
        path = Path(name)
        if path.is_dir():
            files = sorted(path.rglob("*") if config.recursive else path.glob("*"))
            images = [_Input(file, file.relative_to(path), path) for file in files if is_image(file)]
            if config.output and config.output.is_dir() and config.output.resolve() != path.resolve():
                own = config.output.resolve()  # results of an earlier run
                images = [image for image in images if own not in image.file.resolve().parents]
            hint = "" if config.recursive else "; --recursive looks into the folders in it too"
            if video := next((file for file in files if file.suffix.lower() in VIDEOS), None):
                hint = f"; its videos are meant by '{path / '*'}{video.suffix}'"
            problem = f"{name} is a folder without images{hint}"
        elif path.exists() or path.is_symlink():
            images, problem = [_Input(path, Path(path.name), None)], ""
        else:
            images = [_Input(file, Path(file.name), None) for file in without_results(match_files(name, is_image))]
            problem = f"{name} is not there"
        if not images:
            missing.append(Failed(name, problem))
        for image in images:
            found.setdefault(image.file.resolve(), image)
    return list(found.values()), missing


def _plan(found: list[_Input], config: UpscaleConfig) -> list[_Job]:
    """What is to be written where. Raises BadSetting when two outputs are one, or an output is an input."""
    names_file = config.output is not None and bool(config.output.suffix) and not config.output.is_dir()
    if names_file and (len(found) > 1 or any(item.folder for item in found)):
        if config.output and config.output.suffix.lower() in FORMATS:
            raise BadSetting(f"--output {config.output} names one file for {len(found)} images; name a folder instead")
        names_file = False
    jobs = [_Job(item.file, _target(item, config, names_file)) for item in found]
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


def _target(item: _Input, config: UpscaleConfig, names_file: bool) -> Path:
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
