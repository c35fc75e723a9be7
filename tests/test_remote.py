"""`--download`: a set fetched from a public repository, here from a server of our own."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from refsr_cli.config import EvaluateConfig
from refsr_cli.data.benchmarks import BENCHMARKS, download_benchmark, open_benchmark
from refsr_cli.data.remote import Remote, fetch_set
from refsr_cli.errors import BadData, BadSetting
from refsr_cli.tasks.evaluate import evaluate

REMOTE = Remote("owner/name", "c" * 40, "some/set", ("000_0.png", "000_1.png", "001_0.png"), "free")


class Server:
    """Answers with the path that was asked for; `broken` files end early, `missing` ones are not there."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.broken: set[str] = set()
        self.missing: set[str] = set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                name = self.path.rsplit("/", 1)[-1]
                if name in server.missing:
                    self.send_error(404)
                    return
                content = self.path.encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content) + (name in server.broken)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.http.serve_forever)
    thread.start()
    yield running
    running.http.shutdown()
    thread.join()
    running.http.server_close()


def test_every_file_is_fetched_at_its_commit(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "CUFED5"
    records = list(fetch_set("CUFED5", REMOTE, folder, server.address))
    assert [(record.done, record.count) for record in records] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        name: f"/owner/name/{'c' * 40}/some/set/{name}" for name in REMOTE.files
    }
    assert [record.done for record in fetch_set("CUFED5", REMOTE, folder, server.address)] == [3]
    assert len(server.asked) == 3, "what is there is not fetched again"


@pytest.mark.parametrize("fault", ["broken", "missing"])
def test_a_download_that_fails_can_go_on(server: Server, tmp_path: Path, fault: str) -> None:
    getattr(server, fault).add("000_1.png")
    with pytest.raises(BadData, match=r"cannot be fetched from github\.com/owner/name.* --download goes on") as error:
        list(fetch_set("CUFED5", REMOTE, tmp_path, server.address))
    assert str(tmp_path) in str(error.value)
    assert not (tmp_path / "000_1.png").exists() and not list(tmp_path.glob(".*"))
    getattr(server, fault).clear()
    *_, last = fetch_set("CUFED5", REMOTE, tmp_path, server.address)
    assert last.done == 3 and len(list(tmp_path.iterdir())) == 3


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="cannot be fetched"):
        list(fetch_set("CUFED5", REMOTE, tmp_path, "http://127.0.0.1:9"))


def test_cufed5_is_pinned_and_whole() -> None:
    remote = BENCHMARKS["CUFED5"].remote
    assert remote is not None and len(remote.commit) == 40
    assert len(remote.files) == len(set(remote.files)) == 126 * 6
    assert {"000_0.png", "125_5.png"} < set(remote.files)


def test_what_is_fetched_is_where_it_is_looked_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refsr_cli.data.remote.fetch_set.__defaults__", (server.address,))
    with pytest.raises(BadData, match=r"CUFED5 is not at .*give --download to fetch it"):
        open_benchmark("CUFED5", tmp_path)
    *_, last = download_benchmark("cufed5", tmp_path)
    assert last.done == last.count == 756
    assert len(open_benchmark("CUFED5", tmp_path).paths()) == 126


@pytest.mark.parametrize(("name", "words"), [("Set5", "get it from github"), ("nothing", "not nothing")])
def test_sets_that_are_not_fetched(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(BadSetting, match=rf"--download fetches CUFED5.*{words}"):
        list(evaluate(EvaluateConfig(dataset=name, data_root=tmp_path, download=True)))
