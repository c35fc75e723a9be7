"""Files of the Hugging Face hub: fetched through its own library, into its own cache, and checked.

The library is imported where it is used: most runs need nothing from the hub.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from refsr_cli.errors import BadWeights
from refsr_cli.weights.manifest import is_commit

Progress = Callable[[int, int | None], None]
"""Called with the number of bytes that have arrived and the size of the whole in bytes, where known."""


class NotThere(BadWeights):
    """The repository has no such file."""


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file in a hub repository."""

    repo: str
    file: str
    revision: str = "main"

    def __str__(self) -> str:
        revision = self.revision[:8] if is_commit(self.revision) else self.revision
        return f"{self.repo}@{revision}:{self.file}"


@dataclass(frozen=True)
class Fetched:
    """A file of the hub in the local cache."""

    path: Path
    source: Literal["cache", "hub"]
    commit: str
    announced: str | None
    """The sha256 that the hub announced for it, where it did."""


def fetch(wanted: HubFile, *, offline: bool = False, on_progress: Progress | None = None) -> Fetched:
    """`wanted` in the cache, downloaded where it is not there yet; a download that stops half-way leaves nothing.

    A commit that is in the cache needs no network. HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE count. Raises
    NotThere where the repository has no such file, and BadWeights where the hub cannot or may not give it.
    """
    from huggingface_hub import constants

    cached = _cached(wanted)
    if cached and (offline or constants.HF_HUB_OFFLINE or is_commit(wanted.revision)):
        return _fetched(cached, "cache")
    if offline or constants.HF_HUB_OFFLINE:
        raise BadWeights(f"{wanted} is not in the cache {constants.HF_HUB_CACHE}, and refsr works offline")
    path = _download(wanted, on_progress or _ignore)
    return _fetched(path, "cache" if path == cached else "hub")


def forget(path: Path) -> None:
    """Removes a file from the cache, and not only the link to it; never what a link leads to elsewhere."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE).resolve()
    while path.is_symlink():
        target = path.parent / path.readlink()
        path.unlink()
        path = target
    if path.resolve().is_relative_to(cache):
        path.unlink(missing_ok=True)


def _cached(wanted: HubFile) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(wanted.repo, wanted.file, revision=wanted.revision)
    return Path(path) if isinstance(path, str) else None


def _fetched(path: Path, source: Literal["cache", "hub"]) -> Fetched:
    """Reads commit and announced checksum off the cache: `snapshots/<commit>/<file>` links to `blobs/<checksum>`."""
    parts = path.parts
    commit = parts[len(parts) - parts[::-1].index("snapshots")]
    name = path.readlink().name if path.is_symlink() else ""
    return Fetched(path, source, commit, name if len(name) == 64 else None)


def _download(wanted: HubFile, on_progress: Progress) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    _check_answers()
    try:
        # Asked first without retries: an answer, or none, within seconds.
        get_hf_file_metadata(hf_hub_url(wanted.repo, wanted.file, revision=wanted.revision))
        bar: Any = _bar(on_progress)
        return Path(hf_hub_download(wanted.repo, wanted.file, revision=wanted.revision, tqdm_class=bar))
    except BadWeights:  # of `_check`
        raise
    except GatedRepoError:
        raise BadWeights(
            f"{wanted.repo} is gated: accept its terms at {_endpoint()}/{wanted.repo} and set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise BadWeights(
            f"{_endpoint()} has no repository {wanted.repo}, or it is private: check the name, or set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise BadWeights(f"{wanted.repo} has no revision {wanted.revision}; check the name after @") from None
    except EntryNotFoundError:
        raise NotThere(f"{wanted.repo}@{wanted.revision} has no file {wanted.file}; check the name after ':'") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        remedy = "check HF_TOKEN" if status in (401, 403) else "try again later"
        raise BadWeights(f"{_endpoint()} answered {status} for {wanted}; {remedy}") from None
    except OSError as error:
        raise BadWeights(f"cannot download {wanted}: {_first_line(error)}; try again") from None
    except Exception as error:  # the library changed its HTTP client, and with it the errors, twice
        raise BadWeights(
            f"cannot reach {_endpoint()} for {wanted} ({_first_line(error)}); check the connection"
        ) from None


def _endpoint() -> str:
    """Where the hub is, as it may be shown: without a password."""
    from huggingface_hub import constants

    parts = urlsplit(constants.ENDPOINT)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _check_answers() -> None:
    """Has the library's session check every answer before the library uses what it says as a path."""
    from huggingface_hub import get_session

    session = get_session()
    hooks = session.event_hooks
    if _check not in hooks["response"]:
        session.event_hooks = {**hooks, "response": [*hooks["response"], _check]}


def _check(answer: Any) -> None:
    """Commit and checksum become names in the cache. Raises BadWeights where they are something else."""
    headers = answer.headers
    commit = headers.get("X-Repo-Commit")
    if commit is None:  # not an answer about a file of a repository; the library refuses it as one
        return
    checksum = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
    if not is_commit(commit) or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", checksum):
        host = answer.url.host
        raise BadWeights(f"{host} does not answer as the hub does: its commit or checksum is none; check HF_ENDPOINT")


def _bar(on_progress: Progress) -> type:
    """What the library takes for a progress bar: it draws nothing and tells `on_progress`."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            on_progress(int(self.n), self.total)

        def update_transfer(self, n: float) -> None:
            """Bytes on the wire, which differ from those of the file; its being there spares a second bar."""

        def set_transfer_postfix_str(self, *args: Any, **kwargs: Any) -> None:
            """Belongs to `update_transfer`."""

    return Bar


def _ignore(arrived: int, total: int | None) -> None:
    """A progress that nobody follows."""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
