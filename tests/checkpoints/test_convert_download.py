"""Downloads, from a server on this machine: resumed, checked, cached."""

import hashlib
import http.server
import threading

import pytest

from nonlocal_jax.checkpoints.pytorch import convert, download
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.torch_keys import TorchKeys

KEYS = TorchKeys((), lambda keys: "none")
CONTENT = bytes(range(256)) * 4000
NAME = f"net-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT under any name; `server.behaviour` breaks it in one way."""

    def do_GET(self):
        behaviour, start = self.server.behaviour, 0
        self.server.requests.append(self.headers.get("Range"))
        if behaviour == "missing":
            return self.send_error(404)
        if self.headers.get("Range") and behaviour != "no ranges":
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if start >= len(CONTENT):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        stop = start + 300_000 if behaviour == "breaks off" else len(CONTENT)
        self.wfile.write(CONTENT[start:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.behaviour, server.requests = "", []
        server.url = f"http://127.0.0.1:{server.server_port}/a/{NAME}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)


def test_downloads_once(server, tmp_path, capsys):
    path = download.fetch(server.url, tmp_path / "cache")
    assert path == tmp_path / "cache" / NAME and path.read_bytes() == CONTENT
    assert "100% of 1.0 MB" in capsys.readouterr().err
    assert download.fetch(server.url, tmp_path / "cache") == path
    assert server.requests == [None]
    assert [p.name for p in path.parent.iterdir()] == [NAME]


def test_the_cache_follows_xdg(server, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert download.fetch(server.url) == tmp_path / "nonlocal_jax" / NAME


def test_goes_on_where_it_stopped(server, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:500_000])
    assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.requests == ["bytes=500000-"]


def test_goes_on_after_broken_connections(server, tmp_path):
    server.behaviour = "breaks off"
    assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_starts_anew_where_the_server_cannot_resume(server, tmp_path):
    server.behaviour = "no ranges"
    (tmp_path / f"{NAME}.part").write_bytes(b"x" * 500_000)
    assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"x", b"x" * 500_000])
def test_a_part_that_is_whole_or_wrong(server, tmp_path, part):
    (tmp_path / f"{NAME}.part").write_bytes(part)
    if part == CONTENT:
        assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT
        return
    with pytest.raises(UserError, match="SHA-256 begins with"):
        download.fetch(server.url, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_deleted(server, tmp_path):
    with pytest.raises(UserError, match="not with the 0badc0de of its name"):
        download.fetch(server.url.replace(NAME, "net-0badc0de.pth"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_cache_is_replaced(server, tmp_path):
    (tmp_path / NAME).write_bytes(CONTENT[:-1])
    assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT


def test_says_what_to_do_without_a_network(server, tmp_path):
    server.behaviour = "missing"
    with pytest.raises(UserError, match=r"cannot be downloaded.*Not Found.*--input=FILE\.pth"):
        download.fetch(server.url, tmp_path)
    with pytest.raises(UserError, match=r"cannot be downloaded.*--input=FILE\.pth"):
        download.fetch(f"http://127.0.0.1:1/{NAME}", tmp_path)
    with pytest.raises(UserError, match=r"cannot be downloaded"):
        download.fetch(f"http://no-such-host.invalid/{NAME}", tmp_path)
    with pytest.raises(UserError, match="must begin with https"):
        download.fetch("file:///etc/passwd", tmp_path)


def test_what_in_a_name_is_a_hash(tmp_path):
    (tmp_path / "x-20200605.pth").write_bytes(b"a date")
    download.check_hash(tmp_path / "x-20200605.pth")
    (tmp_path / "x-32700183.pth").write_bytes(b"not that file")
    with pytest.raises(UserError, match="32700183"):
        download.check_hash(tmp_path / "x-32700183.pth")


def test_an_import_without_input_fetches_the_published_file(server, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    target = convert.Target("row", "segmentor", KEYS, {}, server.url)
    with pytest.raises(UserError, match="cannot be read as a PyTorch checkpoint"):
        convert.import_(target, "", tmp_path / "out")
    assert (tmp_path / "nonlocal_jax" / NAME).exists()
    with pytest.raises(UserError, match="no published file"):
        convert.import_(convert.Target("row", "segmentor", KEYS, {}), "", tmp_path / "out")
