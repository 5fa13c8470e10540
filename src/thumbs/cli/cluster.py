"""`thumbs cluster`: prints the file with which a run is started on a cluster, by Ray's own launchers."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from thumbs import api
from thumbs.cli.run import ConfigFile, Overrides
from thumbs.errors import ConfigError

if TYPE_CHECKING:
    from thumbs.config.pipeline import PipelineConfig

app = typer.Typer(
    no_args_is_help=True,
    help="""Print a file that starts a run on a cluster.

    For Slurm, for Kubernetes (KubeRay), or for SkyPilot; docs/guides/cluster.md goes through it.

    \b
    Example:
      thumbs cluster slurm config.yaml --nodes 2 --gpus 8 > job.sh
    """,
)
Nodes = Annotated[int, typer.Option(min=1, help="Machines.")]
Gpus = Annotated[int, typer.Option(min=0, help="GPUs of each machine.")]
Image = Annotated[str, typer.Option(help="Container image with thumbs, its extra `cluster` and the data.")]
Hours = Annotated[int, typer.Option(min=1, help="Hours after which Slurm ends the job.")]
Kind = Annotated[str, typer.Option("--gpu", help="Kind of GPU, as SkyPilot calls it.")]


@app.command()
def slurm(config: ConfigFile, overrides: Overrides = None, nodes: Nodes = 2, gpus: Gpus = 8, hours: Hours = 24) -> None:
    """Print an sbatch script. The folder of the call must be on a file system that all nodes share.

    \b
    Example:
      thumbs cluster slurm config.yaml --nodes 2 --gpus 8 > job.sh && sbatch job.sh
    """
    checked(config, overrides, nodes * gpus)
    typer.echo(slurm_script(config, overrides or [], nodes, gpus, hours), nl=False)


@app.command()
def kubernetes(config: ConfigFile, image: Image, overrides: Overrides = None, nodes: Nodes = 2, gpus: Gpus = 8) -> None:
    """Print a RayJob for the KubeRay operator (1.5.1 or later). The settings go into a ConfigMap next to it.

    \b
    Example:
      thumbs cluster kubernetes config.yaml --image registry.example/thumbs:1 > job.yaml && kubectl apply -f job.yaml
    """
    settings = checked(config, overrides, nodes * gpus)
    typer.echo(kubernetes_job(settings, image, nodes, gpus), nl=False)


@app.command()
def skypilot(
    config: ConfigFile, overrides: Overrides = None, nodes: Nodes = 2, gpus: Gpus = 8, gpu: Kind = "H100"
) -> None:
    """Print a SkyPilot task, which takes the folder of the call along.

    \b
    Example:
      thumbs cluster skypilot config.yaml --nodes 2 --gpus 8 > task.yaml
      RAY_AUTH_TOKEN=$(openssl rand -hex 32) sky launch task.yaml --secret RAY_AUTH_TOKEN
    """
    checked(config, overrides, nodes * gpus)
    typer.echo(skypilot_task(config, overrides or [], nodes, gpus, gpu), nl=False)


def checked(config: Path, overrides: list[str] | None, gpus: int) -> PipelineConfig:
    """The settings; raises ConfigError where they do not ask for a cluster, or for more GPUs than it has."""
    settings = api.load_config(config, overrides or [])
    engine = settings.engine
    if engine.kind != "cluster":
        raise ConfigError(
            f"{config} has engine.kind={engine.kind}, which computes in one process; set engine: {{kind: cluster, "
            "workers: N, gpus_per_worker: 1}, as `thumbs plan --nodes` advises"
        )
    rollout = settings.rollout
    each = rollout.tensor_parallel if rollout.gpus_per_worker is None else rollout.gpus_per_worker
    sampling = rollout.workers * each
    asked = engine.workers * engine.gpus_per_worker + (sampling if engine.gpus_per_worker else 0)
    if asked > gpus:
        raise ConfigError(
            f"{config} asks for {asked:g} GPUs (engine.workers and rollout.workers), the cluster has {gpus}; give "
            "--nodes and --gpus, or lower the workers"
        )
    return settings


def command(config: Path, overrides: list[str]) -> str:
    """The command of the run, quoted for a shell."""
    return shlex.join(["thumbs", "run", str(config), *overrides])


def slurm_script(config: Path, overrides: list[str], nodes: int, gpus: int, hours: int) -> str:
    """An sbatch script: `ray symmetric-run` starts Ray on every node, and the run on the first of them."""
    devices = [f"#SBATCH --gpus-per-node={gpus}"] if gpus else []
    lines = [
        "#!/bin/bash",
        "#SBATCH --job-name=thumbs",
        f"#SBATCH --nodes={nodes}",
        "#SBATCH --ntasks-per-node=1",
        *devices,
        "#SBATCH --exclusive",
        f"#SBATCH --time={hours}:00:00",
        "set -euo pipefail",
        "# All nodes need the same token; this one is the job's alone.",
        "export RAY_AUTH_MODE=token",
        'RAY_AUTH_TOKEN="$(od -An -N32 -tx1 /dev/urandom | tr -d " \\n")"',
        "export RAY_AUTH_TOKEN",
        "export RAY_raylet_start_wait_time_s=240  # a busy node takes longer than Ray's default",
        'head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)"',
        'address="$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk \'{print $1}\')"',
        'srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \\',
        '  ray symmetric-run --address "$address:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \\',
        f"  --num-gpus {gpus} --temp-dir /tmp/ray -- \\",
        f'  env RAY_ADDRESS="$address:6379" {command(config, overrides)}',
    ]
    return "\n".join(lines) + "\n"


def kubernetes_job(settings: PipelineConfig, image: str, nodes: int, gpus: int) -> str:
    """A ConfigMap with the settings, and a RayJob that runs them; runs are kept in a volume claim named `thumbs`."""
    container: dict[str, Any] = {
        "image": image,
        "volumeMounts": [{"name": "config", "mountPath": "/config"}, {"name": "work", "mountPath": "/work"}],
    }
    if gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": gpus}}
    volumes = [
        {"name": "config", "configMap": {"name": "thumbs-config"}},
        {"name": "work", "persistentVolumeClaim": {"claimName": "thumbs"}},
    ]

    def pod(name: str) -> dict[str, Any]:
        return {"spec": {"containers": [{"name": name, **container}], "volumes": volumes}}

    cluster: dict[str, Any] = {
        "rayVersion": "2.60.0",
        "authOptions": {"mode": "token"},
        "headGroupSpec": {"rayStartParams": {}, "template": pod("ray-head")},
    }
    if nodes > 1:
        group = {"groupName": "workers", "replicas": nodes - 1, "minReplicas": nodes - 1, "maxReplicas": nodes - 1}
        cluster["workerGroupSpecs"] = [group | {"rayStartParams": {}, "template": pod("ray-worker")}]
    raw = settings.model_dump(mode="json", exclude_unset=True)
    text = yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)
    documents = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "thumbs-config"}, "data": {"config.yaml": text}},
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": {"name": "thumbs"},
            "spec": {
                "entrypoint": "cd /work && thumbs run /config/config.yaml",
                "shutdownAfterJobFinishes": True,
                "rayClusterSpec": cluster,
            },
        },
    ]
    return yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True)


def skypilot_task(config: Path, overrides: list[str], nodes: int, gpus: int, gpu: str) -> str:
    """A task for SkyPilot, which says to each node who the first one is."""
    run = [
        "set -euo pipefail",
        "export RAY_AUTH_MODE=token RAY_raylet_start_wait_time_s=240",
        'head="$(printf "%s\\n" "$SKYPILOT_NODE_IPS" | sed -n 1p)"',
        'ray symmetric-run --address "$head:6380" --min-nodes "$SKYPILOT_NUM_NODES" \\',
        f"  --num-gpus {gpus} --temp-dir /tmp/ray-thumbs -- \\",
        f'  env RAY_ADDRESS="$head:6380" {command(config, overrides)}',
    ]
    task: dict[str, Any] = {"name": "thumbs", "num_nodes": nodes, "workdir": "."}
    if gpus:
        task["resources"] = {"accelerators": f"{gpu}:{gpus}"}
    task["secrets"] = {"RAY_AUTH_TOKEN": None}
    task |= {"setup": "pip install 'thumbs[cluster]'", "run": "\n".join(run) + "\n"}
    return yaml.safe_dump(task, sort_keys=False, allow_unicode=True)
