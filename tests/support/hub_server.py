"""A server on this machine that speaks what huggingface_hub asks the hub for a download."""

import contextlib
import hashlib
import http.server
import json
import threading

COMMIT = "c0ffee" + 34 * "0"
REVISIONS = ("main", "v1", COMMIT)


@contextlib.contextmanager
def serving(repositories):
    """Serves folders by "org/name", and lists the paths that are asked for; gives both.

    None in place of a folder is a gated repository.
    """
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0].strip("/")
            asked.append(path)
            status, headers, body = _answer(repositories, path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": len(body)}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(repositories, path):
    """Status, headers and body."""
    parts = path.removeprefix("api/models/").split("/")
    name, (what, revision, *rest) = "/".join(parts[:2]), [*parts[2:], "", ""]
    if name not in repositories:
        return _error(404, "RepoNotFound")
    folder = repositories[name]
    if folder is None:
        return _error(403, "GatedRepo")
    if revision not in REVISIONS:
        return _error(404, "RevisionNotFound")
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    if what == "resolve":
        body = (folder / rest[0]).read_bytes()
        return 200, {"ETag": f'"{_oid(body)}"', "X-Repo-Commit": COMMIT}, body
    if what == "tree":
        return _json([{"type": "file", "path": f.name, **_described(f)} for f in files])
    siblings = [{"rfilename": file.name} for file in files]
    return _json({"id": name, "sha": COMMIT, "siblings": siblings})


def _described(file):
    content = file.read_bytes()
    return {"size": len(content), "oid": _oid(content)}


def _oid(content):
    return hashlib.sha1(content).hexdigest()


def _json(value):
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _error(status, code):
    return status, {"X-Error-Code": code, "X-Error-Message": code}, b"{}"
