"""Weights are found in the order promised, checked, and fetched from a hub that may fail in every way."""

import hashlib
import multiprocessing
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from refsr_cli.errors import BadSetting, BadWeights, UnknownName
from refsr_cli.models import build
from refsr_cli.weights.files import save_weights
from refsr_cli.weights.hub import _endpoint, forget
from refsr_cli.weights.manifest import read_manifest
from refsr_cli.weights.store import Found, available, default_model, find_weights, load_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SMALL = {"features": 4, "blocks": 1}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def small_weights(path: Path, model: str = "edsr-baseline", scale: int = 2) -> Path:
    save_weights(path, build(model, scale, SMALL), model, {})
    return path


def row(**fields: object) -> str:
    """A row of a manifest."""
    given = {"model": "edsr-baseline", "scale": 2, "license": "Apache-2.0", **fields}
    values = {key: f'"{value}"' if isinstance(value, str) else value for key, value in given.items()}
    return "\n[[weights]]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())


@dataclass
class Packaged:
    """A folder of packaged weights."""

    folder: Path
    rows: list[str] = field(default_factory=list)

    def add(self, id: str, model: str = "edsr-baseline", scale: int = 2, **fields: object) -> Path:
        path = small_weights(self.folder / f"{id}.safetensors", model, scale)
        self.list(id=id, model=model, scale=scale, file=path.name, **{"sha256": sha256(path.read_bytes()), **fields})
        return path

    def list(self, **fields: object) -> None:
        self.rows.append(row(**fields))
        (self.folder / "manifest.toml").write_text("".join(self.rows))


@pytest.fixture
def packaged(tmp_path: Path) -> Packaged:
    folder = tmp_path / "packaged"
    folder.mkdir()
    (folder / "manifest.toml").touch()
    return Packaged(folder)


# The manifest


def test_our_own_manifest_is_in_order():
    records = read_manifest()
    assert {(record.model, record.scale) for record in records} >= {("edsr", 2), ("edsr", 3), ("edsr", 4)}
    for record in records:
        assert record.repo is None or len(str(record.revision)) == 40


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "lacks file"),
        ({"file": "a", "colour": "red"}, "has the unknown colour"),
        ({"file": "a", "model": "vdsr"}, "names the unknown model 'vdsr'"),
        ({"file": "a"}, "is packaged but has no sha256"),
        ({"file": "a", "sha256": "12"}, "not 64 hexadecimal digits"),
        ({"file": "a", "repo": "a/b"}, "is on the hub but names no revision"),
        ({"file": "a", "repo": "a/b", "revision": "main"}, "is not pinned: revision 'main' can change"),
    ],
)
def test_faulty_rows(packaged, fields, words):
    packaged.list(id="net-x2", **fields)
    with pytest.raises(BadWeights, match=r"manifest\.toml: row net-x2 ") as error:
        read_manifest(packaged.folder)
    assert words in str(error.value)


def test_faulty_manifests(packaged):
    packaged.add("a")
    packaged.add("a")
    with pytest.raises(BadWeights, match="lists a more than once"):
        read_manifest(packaged.folder)
    (packaged.folder / "manifest.toml").write_text("[[")
    with pytest.raises(BadWeights, match="install refsr again"):
        read_manifest(packaged.folder)
    (packaged.folder / "manifest.toml").unlink()
    with pytest.raises(BadWeights, match="install refsr again"):
        read_manifest(packaged.folder)


# What is there


def test_what_is_available(packaged):
    packaged.add("first", scale=4)
    packaged.add("second", scale=4)
    packaged.add("third", "edsr", 2)
    packaged.add("gone", scale=3).unlink()
    packaged.list(id="away", file="a.pt", scale=8, repo="a/b", revision=COMMIT)
    assert available(folder=packaged.folder) == [("edsr-baseline", 4), ("edsr", 2)]
    assert available("edsr", packaged.folder) == [("edsr", 2)]
    assert available("bicubic", packaged.folder) == []


def test_default_model(packaged):
    assert default_model(2, packaged.folder) is None
    packaged.add("better", "edsr", 4)
    packaged.add("worse", "edsr-baseline", 4)
    packaged.add("two", "edsr-baseline", 2)
    expected = {2: ("edsr-baseline", 2), 3: ("edsr", 4), 4: ("edsr", 4), 8: ("edsr", 4)}
    assert {scale: default_model(scale, packaged.folder) for scale in expected} == expected


def test_with_references_a_net_that_merges_them_comes_first(packaged):
    packaged.add("alone", "edsr-baseline", 4)
    packaged.add("two", "edsr-baseline", 2)
    packaged.add("merging", "refnet", 4)
    for scale, alone, helped in ((4, "edsr-baseline", "refnet"), (8, "edsr-baseline", "refnet")):
        assert default_model(scale, packaged.folder) == (alone, 4)
        assert default_model(scale, packaged.folder, with_refs=True) == (helped, 4)
    assert default_model(2, packaged.folder, with_refs=True) == ("edsr-baseline", 2), "its own scale comes first"
    assert load_model(None, 4, with_refs=True, folder=packaged.folder).name == "refnet"


# Files and packaged weights


def test_a_path_comes_before_an_id(packaged, tmp_path, monkeypatch):
    packaged.add("net-x2")
    monkeypatch.chdir(tmp_path)
    assert find_weights("edsr-baseline", 2, "net-x2", folder=packaged.folder).source == "packaged"
    small_weights(tmp_path / "net-x2")
    assert find_weights("edsr-baseline", 2, "net-x2", folder=packaged.folder) == Found(Path("net-x2"), "file")


def test_packaged_comes_before_the_hub(packaged):
    packaged.list(id="away", file="a.pt", repo="a/b", revision=COMMIT)
    path = packaged.add("here")
    found = find_weights("edsr-baseline", 2, folder=packaged.folder)
    assert (found.path, found.source, found.record.id) == (path, "packaged", "here")


def test_damaged_packaged_weights(packaged):
    path = packaged.add("net-x2")
    expected = sha256(path.read_bytes())
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(BadWeights) as error:
        load_model("edsr-baseline", 2, folder=packaged.folder)
    message = str(error.value)
    assert all(
        part in message for part in (str(path), expected[:12], sha256(path.read_bytes())[:12], "install refsr again")
    )


def test_packaged_weights_that_are_gone(packaged):
    path = packaged.add("net-x2")
    path.unlink()
    with pytest.raises(BadWeights, match="there is no weight file"):
        load_model("edsr-baseline", 2, folder=packaged.folder)


@pytest.mark.parametrize(
    "name",
    [
        "missing.pt",
        "runs/missing.safetensors",
        "~/no/such/file",
        "nonsense",
        "https://a.b/c",
        "~nobody-here/a",
        "a" * 5000,
        "a\0.pt",
    ],
)
def test_names_that_mean_nothing_say_what_is_ready(packaged, name):
    packaged.add("small-x2")
    with pytest.raises(BadWeights, match="Ready to use instead: model 'bicubic', weights 'small-x2'"):
        load_model(None, 2, name, folder=packaged.folder)


@pytest.mark.parametrize("name", ["../weights", "a/..b", "a--b/c", "-a/b", "a/b:../c"])
def test_names_that_no_hub_takes(packaged, name):
    with pytest.raises(BadWeights, match="is no weight file, no id that refsr knows, and no owner/name"):
        load_model(None, 2, name, folder=packaged.folder)


# The one entry


def test_load_model_by_name(packaged):
    packaged.add("net-x2")
    loaded = load_model("edsr-baseline", 2, folder=packaged.folder)
    assert loaded.name == "edsr-baseline" and loaded.model.scale == 2 and not loaded.model.training
    assert "note" not in loaded.metadata


def test_load_model_without_a_name(packaged):
    packaged.add("net-x4", scale=4)
    loaded = load_model(None, 3, folder=packaged.folder)
    assert (loaded.name, loaded.model.scale) == ("edsr-baseline", 4)


def test_load_model_where_nothing_is_packaged(packaged):
    with pytest.raises(BadWeights, match=r"no weights are packaged.*model 'bicubic'"):
        load_model(None, 2, folder=packaged.folder)


def test_bicubic_needs_no_weights(packaged):
    loaded = load_model("bicubic", 3, folder=packaged.folder)
    assert loaded.name == "bicubic" and loaded.model(torch.rand(1, 3, 4, 4)).shape == (1, 3, 12, 12)
    for arguments in (("bicubic", 2, "net.pt"), ("bicubic", None)):
        with pytest.raises(BadSetting, match=r"no weights to load|name a scale"):
            load_model(*arguments, folder=packaged.folder)


def test_a_file_decides(packaged, tmp_path):
    path = str(small_weights(tmp_path / "mine.safetensors", scale=3))
    for model, scale in [(None, None), ("edsr-baseline", None), (None, 3), ("edsr-baseline", 3)]:
        loaded = load_model(model, scale, path, folder=packaged.folder)
        assert (loaded.name, loaded.model.scale) == ("edsr-baseline", 3)
    for model, scale, asked in [("edsr", 3, "edsr x3"), (None, 2, "x2"), ("edsr", None, "edsr")]:
        with pytest.raises(BadSetting, match=f"mine.safetensors holds edsr-baseline x3, not {asked};"):
            load_model(model, scale, path, folder=packaged.folder)


def test_a_scale_that_has_no_weights(packaged):
    """The nearest larger one is used, else the largest; asked for by itself, it is refused."""
    packaged.add("net-x3", scale=3)
    packaged.add("net-x4", scale=4)
    for scale, found in [(2, 3), (3, 3), (8, 4)]:
        assert load_model("edsr-baseline", scale, folder=packaged.folder).model.scale == found
    with pytest.raises(
        BadWeights, match=r"no weights of model 'edsr-baseline' for x2; there are some for x3, x4\. Ready.*net-x3"
    ):
        find_weights("edsr-baseline", 2, folder=packaged.folder)
    with pytest.raises(BadWeights, match="no weights of model 'edsr' for x2; train it"):
        load_model("edsr", 2, folder=packaged.folder)


def test_what_is_packaged_goes_before_a_scale_that_only_the_hub_has(packaged):
    packaged.add("net-x4", scale=4)
    list_row(packaged, "someone", "net", scale=3)
    assert load_model("edsr-baseline", 3, offline=True, folder=packaged.folder).model.scale == 4
    with pytest.raises(BadWeights, match="offline"):
        find_weights("edsr-baseline", 3, "away", offline=True, folder=packaged.folder)


def test_requests_that_are_wrong(packaged):
    with pytest.raises(UnknownName, match="did you mean 'edsr'"):
        load_model("edrs", 2, folder=packaged.folder)
    with pytest.raises(UnknownName):
        find_weights("edrs", 2, folder=packaged.folder)
    with pytest.raises(BadSetting, match="name a scale"):
        load_model("edsr", None, folder=packaged.folder)


def test_the_row_says_how_to_read_a_file(packaged, tmp_path):
    published = {"tail.1.weight": torch.zeros(3, 4, 3, 3), "tail.1.bias": torch.zeros(3)}
    for name, n_in, n_out in [
        ("head.0", 3, 4),
        ("body.0.body.0", 4, 4),
        ("body.0.body.2", 4, 4),
        ("body.1", 4, 4),
        ("tail.0.0", 4, 16),
    ]:
        published |= {f"{name}.weight": torch.zeros(n_out, n_in, 3, 3), f"{name}.bias": torch.zeros(n_out)}
    torch.save(published, packaged.folder / "a.pt")
    checksum = sha256((packaged.folder / "a.pt").read_bytes())
    packaged.list(id="a", model="edsr", file="a.pt", sha256=checksum, flavour="super-image", res_scale=0.5)
    loaded = load_model("edsr", 2, folder=packaged.folder)
    assert loaded.metadata["source"] == "super-image" and loaded.model.config.res_scale == 0.5
    loaded = load_model("edsr", 2, folder=packaged.folder, flavour="edsr-pytorch", res_scale=1.0)
    assert loaded.metadata["source"] == "edsr-pytorch" and loaded.model.config.res_scale == 1
    assert "read as edsr-pytorch" in loaded.metadata["note"]


# A hub on this machine


REFUSALS = {
    "nothing": (404, "RepoNotFound"),
    "private": (401, "RepoNotFound"),
    "gated": (403, "GatedRepo"),
    "broken": (500, ""),
    "denied": (401, ""),
}
"""What the hub answers for repositories of these names: status and X-Error-Code."""


class Hub(ThreadingHTTPServer):
    """Answers as the hub does: `resolve` redirects to another host, which gives the content.

    What is wrong with a repository is in its name.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.content = content
        self.asked: list[tuple[str, str, str | None, str | None]] = []
        """Method, path, Authorization and Range of every request."""
        self.half_sent = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def answer(self) -> None:
        headers = self.headers.get("Authorization"), self.headers.get("Range")
        self.server.asked.append((self.command, self.path, *headers))
        parts = self.path.strip("/").split("/")
        if parts[0] == "content":
            self.give(parts[1])
        elif len(parts) == 5 and parts[2] == "resolve":
            self.resolve(*parts[:2], *parts[3:])
        else:
            self.refuse(404, "")

    def refuse(self, status: int, code: str) -> None:
        self.reply(status, {"X-Error-Code": code} if code else {})

    def resolve(self, owner: str, name: str, revision: str, file: str) -> None:
        if name in REFUSALS:
            self.refuse(*REFUSALS[name])
        elif revision not in (COMMIT, "main"):
            self.refuse(404, "RevisionNotFound")
        elif file != "net.safetensors":
            self.refuse(404, "EntryNotFound")
        else:
            checksum = sha256(b"something else" if name == "altered" else self.server.content)
            size = str(len(self.server.content))
            checksum = {"etag-outside": "../../../../outside", "etag-rooted": "/tmp/outside"}.get(name, checksum)
            commit = "../../../outside" if name == "commit-outside" else COMMIT
            announced = {"X-Repo-Commit": commit, "X-Linked-Etag": f'"{checksum}"', "X-Linked-Size": size}
            location = f"http://localhost:{self.server.server_port}/content/{name}"
            self.reply(302, {**announced, "Location": location, "ETag": '"of the pointer"'})

    def give(self, name: str) -> None:
        content = self.server.content
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start:
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.reply(206, {"Content-Range": span}, content[start:])
        elif name in ("interrupted", "stalled") and not self.server.half_sent.is_set():
            self.reply(200, {"Content-Length": str(len(content))}, content[: len(content) // 2])
            self.wfile.flush()
            self.server.half_sent.set()
            if name == "stalled":
                threading.Event().wait(5)
            self.close_connection = True
        else:
            self.reply(200, {}, content)

    def reply(self, status: int, headers: dict[str, str], content: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    content = small_weights(tmp_path_factory.mktemp("published") / "net.safetensors").read_bytes()
    with Hub(content) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def hub(server: Hub) -> Hub:
    server.asked.clear()
    server.half_sent.clear()
    return server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that all processes share; every test takes repositories of an owner of its own."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def owner(request: pytest.FixtureRequest) -> str:
    return "owner-" + sha256(request.node.nodeid.encode())[:12]


def set_environment(settings: dict[str, str]) -> None:
    os.environ.update(settings)


def worker(**settings: str) -> ProcessPoolExecutor:
    """A process with settings of its own: the hub's library reads its environment once."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, initializer=set_environment, initargs=(settings,))


@pytest.fixture(scope="module")
def online(server: Hub, home: Path) -> Iterator[ProcessPoolExecutor]:
    with worker(HF_ENDPOINT=server.url, HF_HOME=str(home), HF_TOKEN="hf_secret") as pool:
        yield pool


@pytest.fixture(scope="module")
def offline(server: Hub, home: Path) -> Iterator[ProcessPoolExecutor]:
    with worker(HF_ENDPOINT=server.url, HF_HOME=str(home), HF_HUB_OFFLINE="1") as pool:
        yield pool


@pytest.fixture(scope="module")
def cut_off(home: Path) -> Iterator[ProcessPoolExecutor]:
    """A process whose hub does not answer."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with worker(HF_ENDPOINT=f"http://127.0.0.1:{port}", HF_HOME=str(home)) as pool:
        yield pool


def follow(name: str | None, folder: Path, offline: bool = False) -> tuple[Found, list[tuple[int, int | None]]]:
    """What is found for a small EDSR x2, and the progress on the way."""
    progress: list[tuple[int, int | None]] = []
    found = find_weights(
        "edsr-baseline",
        2,
        name,
        folder=folder,
        offline=offline,
        on_progress=lambda arrived, size: progress.append((arrived, size)),
    )
    return found, progress


def follow_with(settings: dict[str, str], folder: Path) -> None:
    set_environment(settings)
    follow(None, folder)


def find(pool: ProcessPoolExecutor, name: str | None, packaged: Packaged, **options: Any) -> Found:
    return pool.submit(follow, name, packaged.folder, **options).result()[0]


def refusal(pool: ProcessPoolExecutor, name: str | None, packaged: Packaged, **options: Any) -> str:
    """What is said where nothing can be had: one line that ends with what is ready."""
    with pytest.raises(BadWeights) as error:
        find(pool, name, packaged, **options)
    message = str(error.value)
    assert "\n" not in message and "Ready to use instead: model 'bicubic'" in message
    return message


def cached(home: Path, owner: str) -> list[Path]:
    """The files in the cache that somebody could take for weights."""
    return [path for path in home.rglob("*") if owner in str(path) and path.name == "net.safetensors"]


def list_row(packaged: Packaged, owner: str, name: str, **fields: object) -> None:
    packaged.list(id="away", file="net.safetensors", repo=f"{owner}/{name}", revision=COMMIT, **fields)


def test_download_then_cache(hub, online, owner, packaged):
    list_row(packaged, owner, "good", sha256=sha256(hub.content))
    found, progress = online.submit(follow, None, packaged.folder).result()
    assert found.path.read_bytes() == hub.content
    assert (found.source, found.record.id, found.note) == ("hub", "away", None)
    assert progress[-1] == (len(hub.content), len(hub.content))
    assert {token for _, path, token, _ in hub.asked if "/resolve/" in path} == {"Bearer hf_secret"}
    assert {token for _, path, token, _ in hub.asked if "/content/" in path} == {None}

    hub.asked.clear()
    again, progress = online.submit(follow, None, packaged.folder).result()
    assert (again.source, again.path) == ("cache", found.path)
    assert not progress and not hub.asked
    assert load_model("edsr-baseline", 2, str(found.path)).model.scale == 2


def test_without_a_checksum_the_announced_one_counts(hub, online, owner, packaged):
    list_row(packaged, owner, "good")
    note = find(online, None, packaged).note
    assert f"{owner}/good@{COMMIT[:8]}:net.safetensors" in note and sha256(hub.content) in note


def test_a_repository_by_name(hub, online, owner, packaged):
    found = find(online, f"{owner}/good:net.safetensors", packaged)
    assert found.source == "hub" and found.record is None and found.path.read_bytes() == hub.content
    assert f"commit {COMMIT[:8]}" in found.note and sha256(hub.content) in found.note
    assert find(online, f"{owner}/good:net.safetensors", packaged).source == "cache"
    assert find(online, f"{owner}/good@{COMMIT}:net.safetensors", packaged).source == "cache"


def test_an_interrupted_download_goes_on(hub, online, owner, packaged):
    list_row(packaged, owner, "interrupted", sha256=sha256(hub.content))
    found, progress = online.submit(follow, None, packaged.folder).result()
    assert found.path.read_bytes() == hub.content and progress[-1][0] == len(hub.content)
    assert len([path for _, path, _, _ in hub.asked if "/content/" in path]) == 2


def test_a_killed_download_leaves_nothing_to_use(hub, online, home, owner, packaged):
    list_row(packaged, owner, "stalled", sha256=sha256(hub.content))
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home)}
    process = multiprocessing.get_context("spawn").Process(target=follow_with, args=(settings, packaged.folder))
    process.start()
    assert hub.half_sent.wait(60)
    process.kill()
    process.join()
    process.close()
    assert not cached(home, owner)
    assert find(online, None, packaged).path.read_bytes() == hub.content


@pytest.mark.parametrize("name", ["good", "altered"])
def test_a_wrong_checksum_is_refused_and_removed(hub, online, home, owner, packaged, name):
    expected = sha256(b"something else")
    list_row(packaged, owner, name, **({"sha256": expected} if name == "good" else {}))
    message = refusal(online, None, packaged)
    assert expected[:12] in message and sha256(hub.content)[:12] in message and "download it again" in message
    assert not cached(home, owner)
    assert not [path for path in home.rglob("blobs/*") if owner in str(path)]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "has no repository OWNER/nothing, or it is private: check the name, or set HF_TOKEN"),
        ("private", "has no repository OWNER/private, or it is private: check the name, or set HF_TOKEN"),
        ("gated", "OWNER/gated is gated: accept its terms at URL/OWNER/gated and set HF_TOKEN"),
        ("broken", "URL answered 500 for OWNER/broken@main:net.safetensors; try again later"),
        ("denied", "URL answered 401 for OWNER/denied@main:net.safetensors; check HF_TOKEN"),
    ],
)
def test_repositories_that_refuse(hub, online, home, owner, packaged, name, words):
    packaged.add("small-x2")
    message = refusal(online, f"{owner}/{name}:net.safetensors", packaged)
    assert words.replace("OWNER", owner).replace("URL", hub.url) in message
    assert "weights 'small-x2'" in message and not cached(home, owner)


@pytest.mark.parametrize("name", ["etag-outside", "etag-rooted", "commit-outside"])
def test_answers_are_no_paths(hub, online, home, owner, packaged, name):
    """What a hub calls a checksum or a commit would be a path in the cache, or out of it."""
    before = {path for path in home.parent.rglob("*") if owner not in str(path)}
    message = refusal(online, f"{owner}/{name}:net.safetensors", packaged)
    assert "127.0.0.1 does not answer as the hub does" in message and "check HF_ENDPOINT" in message
    assert not cached(home, owner) and not Path("/tmp/outside").exists()
    assert {path for path in home.parent.rglob("*") if owner not in str(path)} == before


def test_no_password_is_shown(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://me:secret@hub.example:8443/path")
    assert _endpoint() == "https://hub.example:8443/path"


def test_nothing_outside_the_cache_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    inside, outside, link = tmp_path / "cache" / "blob", tmp_path / "mine", tmp_path / "cache" / "link"
    for target in (inside, outside):
        target.write_bytes(b"content")
        link.symlink_to(target)
        forget(link)
        assert not link.is_symlink()
    assert outside.exists() and not inside.exists()


def test_files_and_revisions_that_are_not_there(hub, online, owner, packaged):
    message = refusal(online, f"{owner}/good:other.safetensors", packaged)
    assert f"{owner}/good@main has no file other.safetensors" in message
    message = refusal(online, f"{owner}/good@v2:net.safetensors", packaged)
    assert f"{owner}/good has no revision v2" in message
    message = refusal(online, f"{owner}/good", packaged)
    assert f"has no file model.safetensors or pytorch_model_2x.pt; name one: {owner}/good:file" in message


@pytest.mark.parametrize("by_environment", [True, False])
def test_offline(hub, online, offline, owner, packaged, by_environment):
    pool, options = (offline, {}) if by_environment else (online, {"offline": True})
    list_row(packaged, owner, "good", sha256=sha256(hub.content))
    message = refusal(pool, None, packaged, **options)
    assert f"{owner}/good@{COMMIT[:8]}:net.safetensors is not in the cache" in message and "works offline" in message
    assert not hub.asked

    find(online, f"{owner}/good:net.safetensors", packaged)
    hub.asked.clear()
    for name in (None, f"{owner}/good:net.safetensors"):
        assert find(pool, name, packaged, **options).source == "cache"
    assert not hub.asked


def test_a_damaged_file_in_the_cache_is_removed(hub, online, offline, home, owner, packaged):
    list_row(packaged, owner, "good", sha256=sha256(hub.content))
    find(online, None, packaged).path.resolve().write_bytes(hub.content[:-1])
    assert "download it again" in refusal(offline, None, packaged)
    assert not cached(home, owner)
    assert find(online, None, packaged).source == "hub"


def test_a_hub_that_does_not_answer(hub, online, cut_off, owner, packaged):
    list_row(packaged, owner, "good", sha256=sha256(hub.content))
    message = refusal(cut_off, None, packaged)
    assert "cannot reach http://127.0.0.1:" in message and "check the connection" in message
    find(online, None, packaged)
    assert find(cut_off, None, packaged).source == "cache"
