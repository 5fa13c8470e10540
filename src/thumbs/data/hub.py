"""Folders to and from the Hugging Face hub, as one commit each: what is there is whole.

HF_TOKEN or `hf auth login` says who pushes, HF_ENDPOINT where the hub is.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from thumbs.errors import HubError, ThumbsError

Kind = Literal["model", "dataset"]
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def require_access(repo: str, kind: Kind, *, public: bool) -> bool:
    """Whether the repository is there already; raises HubError unless this account can be expected to push to it.

    A repository that is there must be as public as was said, so that nothing private appears before others.
    """
    api = _api()
    if not _NAME.fullmatch(repo):
        raise HubError(f"{repo!r}: a name on the hub is OWNER/NAME, of letters, digits, `.`, `-` and `_`")
    with _told(f"{repo} cannot be pushed"):
        me = api.whoami()
    owner, own = repo.split("/")[0], [str(me["name"]), *(str(org["name"]) for org in me.get("orgs", []))]
    if owner not in own:
        raise HubError(f"{repo}: this account pushes as {' or '.join(own)}, not as {owner}")
    found = _visibility(api, repo, kind)
    if found == "public" and not public:
        raise HubError(f"{repo} is there and public; say --public to push where all can read it, or name another")
    if found == "private" and public:
        raise HubError(f"{repo} is there and private; make it public on its page, or leave --public out")
    return found is not None


def push(repo: str, kind: Kind, files: Mapping[str, Path | bytes], *, public: bool, message: str) -> str:
    """Commits the files, by their paths in the repository, and makes it if it is not there; returns the commit's URL.

    Other files of the repository stay. Raises HubError, which says what is on the hub by then.
    """
    from huggingface_hub import CommitOperationAdd

    api, there = _api(), require_access(repo, kind, public=public)
    if not there:
        with _told(f"{repo} cannot be made, and nothing was pushed"):
            api.create_repo(repo, repo_type=kind, private=not public)
    left = "keeps what it had" if there else "was made and is empty"
    operations = [
        CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in files.items()
    ]
    with _told(f"nothing was pushed: {repo} {left}"):
        return str(api.create_commit(repo, operations, commit_message=message, repo_type=kind).commit_url)


def listing(repo: str, kind: Kind, revision: str | None = None) -> tuple[str, list[str]]:
    """(commit, names of files) of a repository at a revision; None: as it is now."""
    with _told(f"{repo} cannot be read"):
        info = _api().repo_info(repo, repo_type=kind, revision=revision)
        return str(info.sha), [file.rfilename for file in info.siblings or ()]


def fetch(repo: str, kind: Kind, name: str, revision: str, folder: Path) -> Path:
    """Fetches a file of a commit into a folder; returns where it lies."""
    with _told(f"{name} of {repo} cannot be fetched"):
        cached = _api().hf_hub_download(repo, name, repo_type=kind, revision=revision)
    return Path(shutil.copyfile(cached, folder / name))


def _api() -> Any:
    from huggingface_hub import HfApi  # slow to import

    return HfApi(library_name="thumbs")


def _visibility(api: Any, repo: str, kind: Kind) -> Literal["public", "private"] | None:
    from huggingface_hub.errors import RepositoryNotFoundError

    with _told(f"{repo} cannot be pushed"):
        try:
            return "private" if api.repo_info(repo, repo_type=kind).private else "public"
        except RepositoryNotFoundError:
            return None


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Raises HubError, which says why in the user's words, for whatever the library raises."""
    try:
        yield
    except ThumbsError:
        raise
    except Exception as error:  # its errors are those of two HTTP libraries, of the system and of its own
        raise HubError(f"{what}: {_why(error)}") from error


def _why(error: Exception) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    if isinstance(error, LocalTokenNotFoundError):
        return "there is no token; set HF_TOKEN, or run `hf auth login`"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE keeps the hub away; unset it"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    if status == 401:
        return "the token is not valid, or the repository is not there; make one at the hub, or run `hf auth login`"
    if status == 403:
        return "the token may not do that; give it write access to the repository"
    if status == 404:
        return "there is no such repository, revision or file, or the token may not see it"
    said = str(error).strip().splitlines()
    text = f"{type(error).__name__}{': ' + said[0] if said else ''}"
    if status is None and not isinstance(error, ValueError):
        return f"no answer from {constants.ENDPOINT} ({text}); is there a network?"
    return text


def push_folder(repo: str, folder: Path, *, public: bool, message: str) -> str:
    """Pushes every file of a model's folder; raises HubError, which says how to push it later."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    try:
        return push(repo, "model", files, public=public, message=message)
    except HubError as error:
        later = f"hf upload {repo} {folder}{'' if public else ' --private'}"
        raise HubError(f"{error}\n{folder} is complete; push it later by `{later}`") from error
