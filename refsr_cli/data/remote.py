"""Test sets that lie in a public repository, fetched file by file at a pinned commit."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from refsr_cli import __version__
from refsr_cli.errors import BadData
from refsr_cli.files import make_folder, write_atomically

ENDPOINT = "https://raw.githubusercontent.com"
_AT_ONCE, _PATIENCE = 8, 60
"""Files fetched at the same time, and seconds of silence after which one is given up."""


@dataclass(frozen=True)
class Remote:
    """A folder of a repository on GitHub, at a commit, and the files in it."""

    repository: str
    commit: str
    folder: str
    files: Sequence[str]
    terms: str
    """What may be done with them."""

    def __str__(self) -> str:
        return f"github.com/{self.repository}, {self.folder} at {self.commit[:8]}"


@dataclass(frozen=True)
class Fetching:
    """Progress of a download, in files."""

    dataset: str
    source: str
    terms: str
    done: int
    count: int
    folder: Path
    kind: str = "fetching"


def fetch_set(name: str, remote: Remote, folder: Path, endpoint: str = ENDPOINT) -> Iterator[Fetching]:
    """Downloads the files of the set `name` that `folder` does not hold yet; one that stops half-way is not kept.

    Raises BadData when one cannot be had: what has arrived stays, and a second try goes on from there.
    """
    make_folder(folder)
    missing = [file for file in remote.files if not (folder / file).is_file()]
    done = len(remote.files) - len(missing)
    yield Fetching(name, str(remote), remote.terms, done, len(remote.files), folder)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        waiting = [
            pool.submit(_fetch, f"{endpoint}/{remote.repository}/{remote.commit}/{remote.folder}/{file}", folder / file)
            for file in missing
        ]
        try:
            for arrived in as_completed(waiting):
                arrived.result()
                done += 1
                yield Fetching(name, str(remote), remote.terms, done, len(remote.files), folder)
        except (OSError, HTTPException) as error:
            raise BadData(
                f"{name} cannot be fetched from {remote}: {error}; "
                f"{done} of {len(remote.files)} files are in {folder}, and --download goes on from there"
            ) from None
        finally:
            for item in waiting:
                item.cancel()


def _fetch(url: str, target: Path) -> None:
    try:
        with urlopen(Request(url, headers={"User-Agent": f"refsr/{__version__}"}), timeout=_PATIENCE) as answer:
            write_atomically(target, answer.read())  # a connection that breaks off is an IncompleteRead
    except HTTPError as error:
        error.close()
        raise
