"""A stand-in of the hub: its HTTP API as far as the hub's own client needs it to upload a model, on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

LARGE = 10_000
"""Bytes from which a file goes through LFS, as the hub decides by size and kind."""
TOKEN = "hf_standin"


class Hub:
    """What the hub holds, and how it behaves.

    Attributes:
        repos: whether a repository is private, by its id.
        files: the bytes of each file, by repository, branch and name.
        messages: the commits' messages.
        asked: method and path of every request.
        refuse: a status for each path that matches a pattern.
    """

    def __init__(self) -> None:
        self.repos: dict[str, bool] = {}
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        self.messages: list[str] = []
        self.asked: list[str] = []
        self.refuse: dict[str, int] = {}
        self.hang_up: str | None = None
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        """Status and json for a POST."""
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            found = self._validate(json.loads(body)["content"])
            return (400 if found["errors"] else 200), found
        if branch := re.fullmatch(r"/api/models/(.+)/branch/(.+)", path):
            exists = branch.groups() in self.files
            self.files.setdefault((branch[1], branch[2]), {})
            return (409 if exists else 200), {}
        if re.fullmatch(r"/api/models/.+/preupload/.+", path):
            files = json.loads(body)["files"]
            return 200, {"files": [self._mode(file) for file in files]}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self._action(o) for o in json.loads(body)["objects"]]}
        if path == "/lfs/verify":
            said = json.loads(body)
            return (200 if len(self.large[said["oid"]]) == said["size"] else 400), {}
        if commit := re.fullmatch(r"/api/models/(.+)/commit/(.+)", path):
            return self._commit(commit[1], commit[2], body)
        return 404, {"error": f"no {path}"}

    def show(self, path: str) -> tuple[int, Any]:
        """Status and json for a GET: a repository and the names of its files."""
        about = re.fullmatch(r"/api/models/(.+?)(?:/(?:revision|tree)/([^/]+))?", path)
        if about is None or (about[1], about[2] or "main") not in self.files:
            return 404, {"error": f"no {path}"}
        names = sorted(self.files[about[1], about[2] or "main"])
        if "/tree/" in path:
            return 200, [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in names]
        private = self.repos[about[1]]
        return 200, {"id": about[1], "private": private, "siblings": [{"rfilename": name} for name in names]}

    def _create(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        exists = repo in self.repos
        self.repos.setdefault(repo, bool(wanted.get("private") or wanted.get("visibility") == "private"))
        self.files.setdefault((repo, "main"), {})
        return (409 if exists else 200), {"url": f"{self.url}/{repo}"}

    def _validate(self, card: str) -> dict[str, Any]:
        front = yaml.safe_load(card.split("---")[1])
        missing = [name for name in ("license", "library_name", "pipeline_tag") if not front.get(name)]
        return {"warnings": [], "errors": [{"message": f"{name} is missing"} for name in missing]}

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        mode = "lfs" if file["size"] >= LARGE else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}

    def _action(self, wanted: dict[str, Any]) -> dict[str, Any]:
        known = wanted["oid"] in self.large
        upload = {"upload": {"href": f"{self.url}/lfs/{wanted['oid']}"}, "verify": {"href": f"{self.url}/lfs/verify"}}
        return {"oid": wanted["oid"], "size": wanted["size"], **({} if known else {"actions": upload})}

    def _commit(self, repo: str, branch: str, body: bytes) -> tuple[int, Any]:
        if (repo, branch) not in self.files:
            return 404, {"error": "no such revision"}
        for line in body.decode().splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header":
                self.messages.append(value["summary"])
            elif key == "file":
                self.files[repo, branch][value["path"]] = base64.b64decode(value["content"])
            elif key == "deletedFile":
                del self.files[repo, branch][value["path"]]
            else:
                assert key == "lfsFile"
                self.files[repo, branch][value["path"]] = self.large[value["oid"]]
        return 200, {"commitUrl": f"{self.url}/{repo}/commit/{'0' * 40}", "commitOid": "0" * 40, "success": True}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        return type("HandlerOfOneHub", (Handler,), {"hub": self})


class Handler(BaseHTTPRequestHandler):
    """Takes requests for the hub that a subclass names, and refuses those that the hub is told to refuse."""

    hub: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def reply(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if isinstance(content, dict) and "error" in content:
            self.send_header("X-Error-Message", content["error"])
        self.end_headers()
        self.wfile.write(data)

    def take(self) -> bytes | None:
        """The request's body; None once it was refused."""
        body = self._body()
        self.hub.asked.append(f"{self.command} {self.path}")
        if self.hub.hang_up and re.search(self.hub.hang_up, self.path):
            self.close_connection = True
            self.connection.close()
            return None
        if self.command == "POST" and self.headers.get("authorization") != f"Bearer {TOKEN}":
            self.reply(401, {"error": "Invalid username or password."})
            return None
        for pattern, status in self.hub.refuse.items():
            if re.search(pattern, self.path):
                self.reply(status, {"error": "You don't have the rights to create a model under this namespace"})
                return None
        return body

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_POST(self) -> None:
        if (body := self.take()) is not None:
            self.reply(*self.hub.answer(self.path.partition("?")[0], body))

    def do_PUT(self) -> None:
        if (body := self.take()) is not None:
            oid = self.path.rpartition("/")[2]
            intact = hashlib.sha256(body).hexdigest() == oid
            if intact:
                self.hub.large[oid] = body
            self.reply(200 if intact else 400, {})

    def do_GET(self) -> None:
        if self.take() is not None:
            self.reply(*self.hub.show(self.path.partition("?")[0]))
