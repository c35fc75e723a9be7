"""Photos in one LMDB file: encoded images by key, read by any number of processes without a lock."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image
from torch import Tensor

from refsr_cli.errors import BadData, BadFile, BadSetting, RefsrError
from refsr_cli.images import decode_rgb8, read_rgb8

_ABOUT = b"refsr"
"""Key of what the file says of itself; all others are images, so that files of other tools can be read too."""
_ADDRESSES = 2**40
"""Bytes that a file may grow to; on most systems it takes only what it holds."""


def is_lmdb(path: Path) -> bool:
    """Whether `path` is such a file, or a folder of the kind that LMDB makes."""
    return path.suffix == ".lmdb" or (path / "data.mdb").is_file()


class LmdbPhotos:
    """The images of an LMDB file. Raises BadData where it is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._reading() as cursor:
            self._keys = [key for key in cursor.iternext(values=False) if key != _ABOUT]

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, number: int) -> Tensor:
        """(3, H, W) uint8. Raises BadImage for one that is damaged."""
        key = self._keys[number]
        with self._reading() as cursor:
            data = cursor.get(key)
        return decode_rgb8(bytes(data or b""), f"{self.path}: {key.decode(errors='replace')}")

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        """A cursor. The file is opened each time, which is quick: so it can be read in any process at any time."""
        lmdb = _library()
        if not self.path.exists():
            raise BadData(f"{self.path} does not exist; `refsr prepare` makes it")
        where = {"subdir": self.path.is_dir(), "readonly": True, "lock": False, "readahead": False}
        try:
            with lmdb.open(str(self.path), **where) as opened:
                self._require_whole(opened)
                with opened.begin() as transaction:
                    yield transaction.cursor()
        except lmdb.Error as error:
            raise BadData(f"{self.path} is no LMDB file that can be read ({error}); make it again") from None

    def _require_whole(self, opened: Any) -> None:
        """The file is mapped into memory: reading a page that is not there would end the process. Raises BadData."""
        file = self.path / "data.mdb" if self.path.is_dir() else self.path
        expected = (opened.info()["last_pgno"] + 1) * opened.stat()["psize"]
        if file.stat().st_size < expected:
            raise BadData(f"{self.path} is cut short: {file.stat().st_size:,} of {expected:,} bytes; copy it again")


def write_lmdb(path: Path, photos: Sequence[Path], side: int, step: int) -> Iterator[tuple[int, int, int]]:
    """Cuts photos into squares of `side` pixels, `step` apart, and one at each far border, and keeps them as PNG; a
    photo smaller than that is kept as it is. After each photo: photos done, squares kept, photos left out.

    `path` comes into being when all is written. Raises BadFile, and BadData when no photo can be read.
    """
    lmdb = _library()
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.unlink(missing_ok=True)  # of one that was killed
    kept = skipped = 0
    try:
        opened = lmdb.open(str(unfinished), subdir=False, map_size=_ADDRESSES, lock=False, sync=False)
        with opened:
            for done, photo in enumerate(photos, 1):
                try:
                    pixels = read_rgb8(photo)
                except RefsrError:
                    skipped += 1
                else:
                    with opened.begin(write=True) as transaction:
                        for square in _squares(pixels, side, step):
                            transaction.put(f"{kept:09d}".encode(), _png(square))
                            kept += 1
                yield done, kept, skipped
            if not kept:
                raise BadData("none of the photos can be read")
            with opened.begin(write=True) as transaction:
                transaction.put(_ABOUT, json.dumps({"side": side, "step": step, "count": kept}).encode())
            opened.sync(True)
        unfinished.replace(path)
    except (OSError, lmdb.Error) as error:
        raise BadFile(f"{path} cannot be written: {error}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def _squares(photo: Tensor, side: int, step: int) -> Iterator[Tensor]:
    for top in _starts(photo.shape[1], side, step):
        for left in _starts(photo.shape[2], side, step):
            yield photo[:, top : top + side, left : left + side]


def _starts(size: int, side: int, step: int) -> list[int]:
    last = max(0, size - side)
    return sorted({*range(0, last, step), last})


def _png(photo: Tensor) -> bytes:
    file = BytesIO()
    Image.fromarray(photo.permute(1, 2, 0).numpy()).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _library() -> ModuleType:
    try:
        import lmdb
    except ImportError:
        raise BadSetting("LMDB files need one more package: pip install 'refsr[lmdb]'") from None
    module: ModuleType = lmdb
    return module
