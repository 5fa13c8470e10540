"""Whatever waits for another process or thread has a deadline, or ends with something that has one."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import thumbs

WAITING = {"get", "join", "recv", "recv_bytes", "result", "exception", "wait", "acquire"}

WITHOUT_DEADLINE = {
    "workers/base.py": "wait exception exception result: each of the calls ends, see `Calls.overdue`",
    "workers/pipes.py": "recv_bytes join wait: `_watch` kills the process, and with it the pipe ends",
    "workers/ray_actors.py": "join exception result get: the watcher looks every second; the others are there already",
    "workers/serve.py": "get recv_bytes: a worker without work ends with its driver, when the pipe does",
    "engine/cluster.py": "result result: calls with a patience",
    "rollout/publish.py": "acquire: the lock of a folder that was just made under a name of its own",
    "rollout/pending.py": "result result: what has come; scores, each part of which has its time_limit_s",
    "rollout/sampler.py": "result: a sampler's workers have a patience",
    "rollout/remote.py": "result exception: of what is done",
    "rollout/native_worker.py": "exception result: of what is done",
    "rollout/vllm_worker.py": "result result wait wait: within a call of the driver, which has a patience",
}
"""By file, the calls of that kind and why they need none."""


def waiting_calls(source: str) -> Counter[str]:
    """The calls in a module that may wait for ever, by name."""
    found = Counter[str]()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any("timeout" in (word.arg or "") for word in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in WAITING and (not node.args or (isinstance(node.func, ast.Name) and name == "wait")):
            found[name] += 1
        elif ast.unparse(node.func).endswith("ray.get"):
            found["get"] += 1
    return found


def test_it_sees_what_may_wait_for_ever():
    source = "a.result(); b.result(timeout=1); c.get('x'); wait(f); thread.join(); ', '.join(x); self._ray.get(x)"
    assert waiting_calls(source) == {"result": 1, "wait": 1, "join": 1, "get": 1}


def test_whatever_waits_has_a_deadline():
    root, found = Path(str(thumbs.__file__)).parent, {}
    for unit in ("workers", "engine", "rollout", "stages"):
        for file in sorted((root / unit).rglob("*.py")):
            if calls := waiting_calls(file.read_text(encoding="utf-8")):
                found[str(file.relative_to(root))] = calls
    known = {file: Counter(why.partition(":")[0].split()) for file, why in WITHOUT_DEADLINE.items()}
    assert found == known, "give a new wait a timeout, or say here why it ends"
