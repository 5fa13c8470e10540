"""`thumbs serve`: train and sample for clients over HTTP."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thumbs.cli.shell import printable
from thumbs.errors import ConfigError, needs
from thumbs.web.listening import is_loopback, listen, server_of, url_of

if TYPE_CHECKING:
    import socket

    from thumbs.clients.backend import Backend
    from thumbs.clients.store import Store
    from thumbs.config.model import ModelConfig
    from thumbs.config.safety import SafetyConfig
    from thumbs.config.serving import ServingConfig
    from thumbs.service.screening import Screen
    from thumbs.service.state import ServiceSettings

Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="A base model: catalog name, folder, .gguf file, hub name. May be repeated.",
        show_default="smollm2-135m, unless there is a --run",
    ),
]
Run = Annotated[
    Path | None, typer.Option("--run", metavar="RUN", help="Serve a policy of this run, by the name of its stage.")
]
Stage = Annotated[
    str | None, typer.Option(help="Which policy of the run: base, sft, ppo, …", show_default="the last method's")
]
Aliases = Annotated[
    list[str] | None,
    typer.Option("--alias", metavar="NAME=MODEL", help="Serve MODEL under the NAME that client code asks for."),
]
DType = Annotated[
    str,
    typer.Option(help="What models compute in: auto, bfloat16 or float32 (slower; sampler and trainer then agree)."),
]
Template = Annotated[
    list[str] | None,
    typer.Option(
        "--template",
        metavar="KEY=VALUE",
        help="A setting of the models' chat templates, as in a run's model.template: variables.enable_thinking=false.",
    ),
]
Host = Annotated[str, typer.Option(help="Address to listen on. Others than this machine can reach 0.0.0.0.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
Folder = Annotated[Path, typer.Option(help="Where checkpoints and records are kept.")]
Database = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Keep the records elsewhere: postgresql+psycopg://user@host/name."),
]
AddToken = Annotated[
    str | None, typer.Option("--add-token", metavar="OWNER", help="Print a new key of OWNER, and end.")
]
Tokens = Annotated[bool, typer.Option("--tokens", help="List the keys' ids and owners, and end.")]
Revoke = Annotated[str | None, typer.Option("--revoke", metavar="ID", help="Make a key invalid, and end.")]
Names = Annotated[
    list[str] | None,
    typer.Option("--name", metavar="HOST", help="A name under which a proxy passes requests on. May be repeated."),
]
Origins = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-origin",
        metavar="ORIGIN",
        help="A site whose pages may use the server, such as https://chat.example.org; '*' for all. May be repeated.",
    ),
]
RootPath = Annotated[
    str, typer.Option(metavar="PATH", help="What a proxy puts before the server's paths, such as /thumbs.")
]
SessionTimeout = Annotated[
    float, typer.Option(min=30.0, help="A client that is silent for so long loses its models in memory, seconds.")
]
Engine = Annotated[str, typer.Option(help="What computes: local, or cluster for many ranks (docs/guides/cluster.md).")]
Workers = Annotated[int, typer.Option(min=1, help="Ranks of a cluster.")]
Launcher = Annotated[str, typer.Option(help="What starts the ranks of a cluster: ray, or pipes for subprocesses.")]
Shard = Annotated[str, typer.Option(help="Of a cluster: none, every rank has the whole base; full, each has a part.")]
GpusPerWorker = Annotated[int, typer.Option(min=0, max=1, help="GPUs of each rank of a cluster.")]
Rollout = Annotated[str, typer.Option(help="What draws samples: native, or vllm for workers with vLLM.")]
SamplerWorkers = Annotated[
    int, typer.Option("--samplers", min=0, help="Processes that sample; 0: this one, or one process of vLLM.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any other setting of a run's sections engine, rollout and safety: rollout.python=/env/bin/python.",
    ),
]
Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="NAME",
        help="Refuse prompts and withhold replies that it finds: secrets, cards, emails, guard, or a function "
        "(docs/guides/safety.md). May be repeated.",
    ),
]
MaxModels = Annotated[int, typer.Option(min=1, help="Models in training that are kept in memory; others wait on disk.")]
MaxQueued = Annotated[int, typer.Option(min=1, help="Requests for samples that may wait; further ones get a 429.")]

_OWN_PATHS = ("v1", "oai", "api", "download", "metrics", "health", "healthz")
_KEY_FILE = "server.key"
"""Signs links and credentials; it is in the folder, because the SDKs keep the credential they exchanged."""


@needs("serve", "`thumbs serve`")
def serve(
    models: Models = None,
    run: Run = None,
    stage: Stage = None,
    alias: Aliases = None,
    *,
    dtype: DType = "auto",
    template: Template = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    folder: Folder = Path("thumbs-serve"),
    database: Database = None,
    add_token: AddToken = None,
    tokens: Tokens = False,
    revoke: Revoke = None,
    name: Names = None,
    allow_origin: Origins = None,
    root_path: RootPath = "",
    engine: Engine = "local",
    workers: Workers = 1,
    launcher: Launcher = "ray",
    shard: Shard = "none",
    gpus_per_worker: GpusPerWorker = 0,
    rollout: Rollout = "native",
    samplers: SamplerWorkers = 0,
    filter_: Filters = None,
    set_: Settings = None,
    session_timeout: SessionTimeout = 600.0,
    max_models: MaxModels = 64,
    max_queued: MaxQueued = 4096,
) -> None:
    """Serve the Tinker / MinT protocol and an OpenAI-compatible API.

    Without keys every program on this machine may use the server, as one user. Once a key was made, callers need one,
    each sees what is theirs, and the server may listen beyond this machine.

    \b
    Example:
      thumbs serve --model smollm2-135m --filter secrets
      thumbs serve --model smollm2-135m --alias Qwen/Qwen3-0.6B=smollm2-135m
      thumbs serve --add-token alice
      thumbs serve --run runs/mine --stage ppo --host 0.0.0.0
      thumbs serve --name models.example.org            behind a proxy on this machine
      thumbs serve --engine cluster --workers 8 --shard full --gpus-per-worker 1 --rollout vllm --samplers 2
    """
    from thumbs.clients.store import Store

    with contextlib.closing(Store(folder, database)) as store:
        if tokens or (add_token, revoke) != (None, None):
            return _manage(store, add_token, revoke)
        needs_token = _claim(store, host, folder)
        settings = _settings(host, session_timeout, name or [], allow_origin or [], root_path)
        ranks = {"workers": workers, "launcher": launcher, "shard": shard, "gpus_per_worker": gpus_per_worker}
        sections = {"rollout": {"kind": rollout, "workers": samplers}, "safety": {"filters": filter_ or []}}
        with listen(host, port) as listener:
            policy = _policy(run, stage, folder)
            configs = _configs(models, alias or [], dtype, template or [], policy)
            serving = _serving(sections | {"engine": {"kind": engine} | ranks}, set_ or [], folder)
            backend = _backend(store, configs, serving, folder, max_models, max_queued)
            _run(backend, listener, host, folder, settings, needs_token, _screen(serving.safety, folder))


def _manage(store: Store, owner: str | None, revoked: str | None) -> None:
    if owner is not None:
        typer.echo(
            f"{store.add_token(owner)}\nThis key of {printable(owner)} cannot be shown again. From now on callers need "
            "one, of a server that runs already too."
        )
    if revoked is not None:
        store.revoke(revoked)
    for token in store.tokens():
        typer.echo(f"{token.id}  {token.created:%Y-%m-%d}  {printable(token.owner)}", err=owner is not None)


def _claim(store: Store, host: str, folder: Path) -> bool:
    """Takes the folder for this server; returns whether callers need a key. Raises ConfigError where they should."""
    store.claim.take()
    needs_token = store.has_tokens()
    if not needs_token and not is_loopback(host):
        raise ConfigError(
            f"--host {host} lets other machines in, and there is no key yet; make one with "
            f"`thumbs serve --add-token NAME --folder {folder}`, or listen on 127.0.0.1"
        )
    return needs_token


def _policy(run: Path | None, stage: str | None, folder: Path) -> dict[str, str]:
    """A policy of a run as a whole model in the server's folder: where it is, by the name of its stage."""
    if run is None:
        if stage is not None:
            raise ConfigError("--stage says which policy of a --run is served; name the run")
        return {}
    from thumbs.pipeline.artifacts import last_policy, open_run
    from thumbs.pipeline.gate import digest_of
    from thumbs.tracking.digests import text_digest
    from thumbs.tracking.files import new_folder

    opened, name = open_run(run), stage or last_policy(run)
    opened.require_policy(name)
    made_of = [opened.config.model.model_dump(mode="json"), opened.config.seed, digest_of(run, name)]
    out = folder / "policies" / f"{name.replace('/', '-')}-{text_digest(made_of)[:12]}"
    if not out.exists():
        with new_folder(out) as part:
            opened.write_policy(name, part)
    return {name: str(out)}


def _configs(
    models: list[str] | None,
    aliases: list[str],
    dtype: str,
    template: Sequence[str] = (),
    policy: Mapping[str, str] | None = None,
) -> dict[str, ModelConfig]:
    from thumbs.clients.bases import parse_aliases
    from thumbs.config.base import apply_overrides, build_config
    from thumbs.config.model import ModelConfig

    settings = apply_overrides({"dtype": dtype}, [f"template.{setting}" for setting in template])
    policy = policy or {}
    chosen = models or ([] if policy else ["smollm2-135m"])
    names = {name: name for name in chosen} | dict(policy) | parse_aliases(",".join(aliases))
    return {
        name: build_config(ModelConfig, {**settings, "name": model}, source="serve") for name, model in names.items()
    }


def _serving(sections: dict[str, Any], others: Sequence[str], folder: Path) -> ServingConfig:
    from thumbs.config.base import Frozen, apply_overrides, build_config
    from thumbs.config.serving import ServingConfig

    config = build_config(ServingConfig, apply_overrides(sections, others), source="serve")
    changes: dict[str, Frozen] = {
        "engine": config.engine.model_copy(update={"logs": config.engine.logs or str(folder / "logs")})
    }
    if config.rollout.kind == "vllm":
        changes["rollout"] = config.rollout.model_copy(update={"adapters": config.rollout.adapters or 8})
    return config.model_copy(update=changes)


def _screen(config: SafetyConfig, folder: Path) -> Screen | None:
    """The filters, if there are any; a guard's model that runs here has an engine of its own."""
    from thumbs.engine import open_engine
    from thumbs.safety.filters import open_filters
    from thumbs.safety.guard_model import ask_model
    from thumbs.service.screening import Screen

    guard = config.guard
    ask = None if guard is None or guard.endpoint is not None else ask_model(open_engine(), guard.model)
    filters = open_filters(config, ask)
    return None if filters is None else Screen(filters, folder)


def _backend(
    store: Store,
    configs: dict[str, ModelConfig],
    serving: ServingConfig,
    folder: Path,
    max_models: int,
    max_queued: int,
) -> Backend:
    from thumbs.clients.backend import Backend
    from thumbs.engine import open_engine

    if serving.rollout.kind == "vllm" and len({config.name for config in configs.values()}) > 1:
        raise ConfigError(
            f"--rollout vllm: a worker with vLLM holds one base model, got {', '.join(configs)}. Serve one, under as "
            "many names as you like (--alias), or sample with --rollout native"
        )
    engine = open_engine(serving.engine, None, serving.rollout)
    backend = Backend(
        store,
        configs,
        max_models=max_models,
        max_queued_samples=max_queued,
        engine=engine,
        elsewhere=None if serving.rollout.here else engine.open_sampler,
        scratch=None if serving.engine.kind == "local" else folder / "scratch",
    )
    for name in backend.bases.names:
        backend.bases[name].check()  # what is wrong with a model is found now
    for model in backend.bases.supported():
        typer.echo(f"{model.model_name}: context of {model.max_context_length} tokens")
    return backend


def _settings(
    host: str, session_timeout: float, names: list[str], origins: list[str], root_path: str
) -> ServiceSettings:
    """Raises ConfigError for a name, origin or prefix that could never fit a request."""
    from thumbs.service.state import ServiceSettings
    from thumbs.web.guards import LOOPBACK

    loopback = is_loopback(host)
    named = tuple(map(_name, names))
    return ServiceSettings(
        session_timeout_s=session_timeout,
        compress=not loopback,
        local_paths=loopback and not named,
        hosts=(*LOOPBACK, "0.0.0.0", host, *named) if loopback or named else ("*",),  # noqa: S104  # as some scripts call it
        origins=tuple(map(_origin, origins)),
        root_path=_root_path(root_path),
    )


def _name(name: str) -> str:
    if not re.fullmatch(r"[\w.-]+|\[[0-9a-fA-F:]+\]", name):
        raise ConfigError(
            f"--name {name!r}: give the name alone, without scheme, port and path, as in models.example.org"
        )
    return name.lower()


def _origin(origin: str) -> str:
    """As browsers write it: lower case, without the usual port."""
    if origin == "*":
        return origin
    match = re.fullmatch(r"(https?)://([\w.-]+|\[[0-9a-f:]+\])(:\d+)?", origin.lower())
    if match is None:
        raise ConfigError(
            f"--allow-origin {origin!r}: give scheme, name and port of a site without a path, as in "
            "https://chat.example.org or http://localhost:3000, or '*' for every site"
        )
    usual = {"http": ":80", "https": ":443"}[match[1]]
    return f"{match[1]}://{match[2]}{'' if match[3] in (None, usual) else match[3]}"


def _root_path(path: str) -> str:
    from thumbs.web.proxies import checked_prefix

    prefix = checked_prefix(path)
    if prefix.removeprefix("/").partition("/")[0] in _OWN_PATHS:
        raise ConfigError(f"--root-path {path!r}: take none of the server's own paths ({', '.join(_OWN_PATHS)})")
    return prefix


def _run(
    backend: Backend,
    listener: socket.socket,
    host: str,
    folder: Path,
    settings: ServiceSettings,
    needs_token: bool,
    screen: Screen | None,
) -> None:
    from thumbs.service.app import create_app
    from thumbs.web.signing import load_key

    try:
        key = load_key(folder / _KEY_FILE)
        app = create_app(backend, key, needs_token=needs_token, settings=settings, screen=screen)
        # The SDKs keep connections for long; one that closes under a request costs them a retry.
        server = server_of(app, timeout_keep_alive=120, timeout_graceful_shutdown=3)
        typer.echo(_advice(f"{url_of(listener, host)}{settings.root_path}", folder, needs_token))
        server.run(sockets=[listener])
    finally:
        backend.close()


def _advice(url: str, folder: Path, needs_token: bool) -> str:
    """What to set for clients, to be copied into a shell."""
    secret = "..." if needs_token else "local"
    keys = "a key of --add-token; MinT writes sk- for its tml-" if needs_token else "any key will do"
    return f"""
serving on {url}, records and checkpoints in {folder}

export TINKER_BASE_URL={url} TINKER_API_KEY=tml-{secret}   # {keys}
export MINT_BASE_URL={url} MINT_API_KEY=sk-{secret}
export HF_ENDPOINT={url}   # tokenizers of models that are only here

OpenAI-compatible: {url}/v1      status: {url}/      metrics: {url}/metrics
"""
