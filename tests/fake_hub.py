"""The part of the Hugging Face hub that pushing and pulling use, on this machine."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

TOKEN = "hf_good"  # noqa: S105


class FakeHub:
    """repositories: {"models/me/name": {"private": …, "files": {path: bytes}, "commits": n}}; fail: a path whose
    requests are refused with 403.
    """

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.fail = ""

    def files(self, name: str) -> dict[str, bytes]:
        return self.repositories[name]["files"]


@contextlib.contextmanager
def fake_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that huggingface_hub uses, with a token, and with its cache in the folder. It reads HF_ENDPOINT and its kin
    when it is imported, so the constants are set that it made of them.
    """
    from huggingface_hub import constants

    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"world": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        there = {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(folder / "cache"),
            "HF_TOKEN_PATH": str(folder / "token"),
        }
        for name, value in there.items():
            monkeypatch.setattr(constants, name, value)
        yield hub
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    world: FakeHub

    def _answer(self, body: Any = None, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _any(self) -> None:
        world, path = self.world, self.path.partition("?")[0]
        world.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path.startswith("/objects/"):
            world.objects[path.rpartition("/")[2]] = body
            return self._answer({})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer({"error": "Invalid username or password."}, 401)
        if world.fail and world.fail in path:
            return self._answer({"error": "You need write access"}, 403)
        parts = path.strip("/").split("/")
        if parts[0] == "api" and parts[1] == "whoami-v2":
            return self._answer({"type": "user", "name": "me", "orgs": [{"name": "team"}]})
        if parts == ["api", "validate-yaml"]:
            return self._answer({"errors": [], "warnings": []})
        if parts[:3] == ["api", "repos", "create"]:
            return self._create(json.loads(body))
        if parts[0] == "api" and len(parts) >= 4:
            return self._repository("/".join(parts[1:4]), parts[4:], body)
        if parts[-3:] == ["lfs", "objects", "batch"] or path.endswith("/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        return self._resolve(parts)

    do_GET = do_POST = do_PUT = do_HEAD = _any  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass

    def _create(self, wanted: dict[str, Any]) -> None:
        owner = wanted.get("organization") or "me"
        key = f"{wanted.get('type') or 'model'}s/{owner}/{wanted['name']}"
        private = wanted.get("private", wanted.get("visibility") == "private")
        self.world.repositories[key] = {"private": bool(private), "files": {}, "commits": 0}
        self._answer({"url": f"{self.world.url}/{owner}/{wanted['name']}"})

    def _repository(self, key: str, rest: list[str], body: bytes) -> None:
        found = self.world.repositories.get(key)
        if found is None:
            return self._answer({"error": "not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        if rest[:1] == ["preupload"]:
            files = [
                {"path": each["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular"}
                for each in json.loads(body)["files"]
            ]  # fmt: skip
            return self._answer({"files": files})
        if rest[:1] == ["commit"]:
            for line in map(json.loads, body.decode().splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    found["files"][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    found["files"][value["path"]] = self.world.objects[value["oid"]]
            found["commits"] += 1
            return self._answer({"commitUrl": f"{self.world.url}/{key}/commit/{_sha(found)}", "commitOid": _sha(found)})
        siblings = [{"rfilename": name} for name in found["files"]]
        private = found["private"]
        return self._answer({"id": key.partition("/")[2], "sha": _sha(found), "private": private, "siblings": siblings})

    def _batch(self, wanted: dict[str, Any]) -> None:
        objects = [
            each | {"actions": {"upload": {"href": f"{self.world.url}/objects/{each['oid']}", "header": {}}}}
            for each in wanted["objects"]
        ]
        self._answer({"transfer": "basic", "objects": objects})

    def _resolve(self, parts: list[str]) -> None:
        """/datasets/OWNER/NAME/resolve/REVISION/FILE"""
        at = parts.index("resolve")
        found = self.world.repositories["/".join(parts[:at])]
        content = found["files"][parts[at + 2]]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self._answer(content, headers={"ETag": etag, "X-Repo-Commit": _sha(found)})


def _sha(repository: dict[str, Any]) -> str:
    return f"{repository['commits']:040x}"
