"""Parts of a data set: found, fetched over a broken connection, checked, unpacked."""

import dataclasses
import hashlib
import http.server
import pathlib
import threading
import zipfile
from collections.abc import Iterator

import pytest
import synthetic_trees

from nonlocal_jax.checkpoints.pytorch import download
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.preparation import builders, parts
from nonlocal_jax.inputs.preparation.prepare import prepare

ADE20K = builders.load("ade20k")
(TREE,) = ADE20K.PARTS
LABELS = builders.load("cityscapes").PARTS[1]


class Server:
    """Serves one file, understands Range, and breaks off the first answer half way."""

    def __init__(self, content: bytes):
        self.content, self.ranges = content, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                outer.ranges.append(asked)
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
                body = outer.content[start:]
                self.send_response(206 if asked else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body if asked else body[: len(body) // 2])

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/ADEChallengeData2016.zip"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[Server]:
    synthetic_trees.ade20k(tmp_path / "tree")
    synthetic_trees.archives("ade20k", tmp_path / "tree", tmp_path / "published")
    served = Server((tmp_path / "published/ADEChallengeData2016.zip").read_bytes())
    yield served
    served.server.shutdown()


def published(server: Server, digest: str) -> tuple[parts.Part, ...]:
    return (dataclasses.replace(TREE, url=server.url, digest=digest),)


def test_download_goes_on_after_a_break_and_is_prepared(tmp_path, server, monkeypatch):
    digest = f"sha1:{hashlib.sha1(server.content).hexdigest()}"
    monkeypatch.setattr(ADE20K, "PARTS", published(server, digest))
    source, output = tmp_path / "ade", tmp_path / "out"
    options = {"fetch": download.fetch, "allow_incomplete": True}
    prepared = prepare("ade20k", source, output, **options).folder
    assert server.ranges == [None, f"bytes={len(server.content) // 2}-"]
    assert (source / "ADEChallengeData2016.zip").read_bytes() == server.content
    assert (prepared / "report.txt").is_file()
    prepare("ade20k", source, output, overwrite=True, **options)
    assert len(server.ranges) == 2  # nothing is fetched twice


def test_another_file_than_published_is_not_kept(tmp_path, server):
    (part,) = published(server, "md5:00000000000000000000000000000000")
    with pytest.raises(UserError, match="published is 0000"):
        part.download(tmp_path / "ade", download.fetch)
    assert not [path for path in (tmp_path / "ade").rglob("*") if path.is_file()]


def test_unpacking_stays_inside_its_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("top/../../outside.txt", "x")
        archive.writestr("other/file.txt", "x")
        archive.writestr("top/inside.txt", "x")
    parts.unpack(tmp_path / "a.zip", "top", tmp_path / "deep/er/top")
    assert [p.name for p in (tmp_path / "deep").rglob("*.txt")] == ["inside.txt"]
    assert not list(tmp_path.glob("*.txt"))


def test_an_archive_without_the_folder_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "gtFine_trainvaltest.zip", "w") as archive:
        archive.writestr("gtCoarse/train/a.png", "x")
    with pytest.raises(UserError, match="has no folder gtFine"):
        LABELS.locate(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["gtFine_trainvaltest.zip"]


def test_what_a_killed_unpacking_left_is_unpacked_anew(tmp_path):
    synthetic_trees.cityscapes(tmp_path / "tree")
    synthetic_trees.archives("cityscapes", tmp_path / "tree", tmp_path)
    (tmp_path / ".unpacking-gtFine/train").mkdir(parents=True)
    (tmp_path / ".unpacking-gtFine/train/stale.png").write_bytes(b"half")
    found = LABELS.locate(tmp_path)
    assert not list(found.rglob("stale.png")) and len(list(found.rglob("*_labelIds.png"))) == 6
