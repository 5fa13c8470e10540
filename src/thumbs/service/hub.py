"""The part of the Hugging Face hub's API that tokenizers are loaded through.

SDK clients ask a hub for the tokenizer by the base model's name. With HF_ENDPOINT set to this server they get that of
a model which exists here alone. Weights are not served, and no key is asked for: the hub's clients send none of ours.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from thumbs.service.state import Routes, route

FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
_LLAMA3 = "meta-llama/Llama-3"
_LLAMA3_TOKENIZER = "thinkingmachineslabinc/meta-llama-3-instruct-tokenizer"
"""What the SDKs ask for instead where a base model's name begins with the above."""


class HubRoutes(Routes):
    """Small files of the served models."""

    @route("GET", "/{repo:path}/resolve/{revision}/{file:path}", keyed=False)
    async def file(self, request: Request) -> Response:
        """One file of a model."""
        files = await self._files(request.path_params["repo"])
        file = files.get(request.path_params["file"])
        if file is None:
            raise _missing("EntryNotFound", f"the model has no file {request.path_params['file']!r}")
        digest = await self._work(_digest, file)
        return FileResponse(file, headers={"X-Repo-Commit": _commit(files), "ETag": f'"{digest}"'})

    @route("GET", "/api/models/{repo:path}/tree/{revision}", keyed=False)
    async def tree(self, request: Request) -> Response:
        """The files of a model."""
        files = await self._files(request.path_params["repo"])
        sizes = {name: file.stat().st_size for name, file in files.items()}
        listing = [{"type": "file", "path": name, "size": size, "oid": _commit(files)} for name, size in sizes.items()]
        return JSONResponse(listing)

    @route("GET", "/api/models/{repo:path}/tree/{revision}/{folder:path}", keyed=False)
    async def no_folder(self, request: Request) -> Response:
        """Models here have no folders."""
        raise _missing("EntryNotFound", f"the model has no folder {request.path_params['folder']!r}")

    @route("GET", "/api/models/{repo:path}/revision/{revision}", "/api/models/{repo:path}", keyed=False)
    async def model(self, request: Request) -> Response:
        """What the hub says about a model."""
        files = await self._files(request.path_params["repo"])
        siblings = [{"rfilename": name} for name in files]
        name = request.path_params["repo"]
        return JSONResponse({"id": name, "modelId": name, "sha": _commit(files), "tags": [], "siblings": siblings})

    async def _files(self, repo: str) -> dict[str, Path]:
        """The files of the model that a client calls `repo`, by name; raises HTTPException 404 if none is served."""
        found = next((name for name in self._backend.bases.names if repo in _asked_for(name)), None)
        if found is None:
            raise _missing("RepoNotFound", f"no model {repo!r} is served here")
        folder = await self._work(lambda: self._backend.bases[found].tokenizer_folder)
        return {name: folder / name for name in FILES if (folder / name).is_file()}


def _asked_for(model: str) -> set[str]:
    """The names under which the SDKs may ask for the tokenizer of a base model."""
    plain = model.partition(":")[0]
    parts = plain.split("/")
    names = {model, plain, "/".join(parts[:2]) if len(parts) == 3 else plain}
    return names | {_LLAMA3_TOKENIZER} if plain.startswith(_LLAMA3) else names


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _commit(files: dict[str, Path]) -> str:
    """Forty hexadecimal digits that change with the files."""
    stats = [(name, file.stat().st_size, file.stat().st_mtime_ns) for name, file in files.items()]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:40]


def _missing(code: str, text: str) -> HTTPException:
    return HTTPException(404, text, {"X-Error-Code": code, "X-Error-Message": ascii(text)})
