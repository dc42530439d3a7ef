"""APPLY: a tuning over several machines, as a TrainJob of Kubeflow Trainer 2 (``trainer.kubeflow.org/v1alpha1``).

Its pods run :mod:`damoc.stages.tuning_job` by torchrun, whose ``PET_*`` variables the operator sets. They and the pod
of this stage meet on one volume, where the workspace lies: there stand the job, its progress and its result.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from damoc.config import TrainJobConfig
from damoc.errors import CandidateError, DamocError, InfrastructureError
from damoc.stages.tuning_job import FAILURES, JOB, MODULE, PROGRESS, SUMMARY, TuningJob, report

if TYPE_CHECKING:
    from damoc.tuning.loop import OnStep

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
MANAGER = "damoc/fine-tune"
RUNTIME_JOB = RUNTIME_CONTAINER = "node"
OVERTIME_SECONDS = 600
_POLL_SECONDS = 5.0
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_ABSENT = 404


def render(job: TuningJob, settings: TrainJobConfig) -> dict[str, Any]:
    """The TrainJob of a tuning.

    Args:
        job: what it does; its folders lie on the volume, below ``settings.mount``.
        settings: where and on what.

    Returns:
        The manifest. Its name follows from the job, so that two of them never train the same at once.
    """
    resources = {"cpu": settings.cpu, "memory": settings.memory}
    if settings.gpus:
        resources["nvidia.com/gpu"] = str(settings.gpus)
    pod = {
        "containers": [
            {"name": RUNTIME_CONTAINER, "volumeMounts": [{"name": "workspace", "mountPath": settings.mount}]}
        ],
        "volumes": [{"name": "workspace", "persistentVolumeClaim": {"claimName": settings.claim}}],
        "nodeSelector": dict(settings.node_selector),
        "tolerations": [dict(toleration) for toleration in settings.tolerations],
    }
    labels = {"app.kubernetes.io/part-of": "damoc", "app.kubernetes.io/component": "fine-tune"}
    if settings.queue:
        labels["kueue.x-k8s.io/queue-name"] = settings.queue
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {"name": f"damoc-{job.identity[:16]}", "namespace": namespace(settings), "labels": labels},
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": settings.runtime_kind, "name": settings.runtime},
            "suspend": settings.queue is not None,
            "activeDeadlineSeconds": round(job.settings.timeout_minutes * 60) + OVERTIME_SECONDS,
            "trainer": {
                "image": settings.image,
                "command": ["torchrun", "-m", MODULE, str(job.folder / JOB)],
                "numNodes": settings.nodes,
                "numProcPerNode": max(1, settings.gpus),
                "resourcesPerNode": {"requests": resources, "limits": resources},
            },
            "runtimePatches": [
                {
                    "manager": MANAGER,
                    "trainingRuntimeSpec": {
                        "template": {
                            "spec": {
                                "replicatedJobs": [
                                    {"name": RUNTIME_JOB, "template": {"spec": {"template": {"spec": pod}}}}
                                ]
                            }
                        }
                    },
                }
            ],
        },
    }


def namespace(settings: TrainJobConfig) -> str:
    """The namespace of the TrainJob: the configured one, that of this pod, or ``default``."""
    if settings.namespace:
        return settings.namespace
    return _OWN_NAMESPACE.read_text(encoding="utf-8").strip() if _OWN_NAMESPACE.is_file() else "default"


def run_train_job(job: TuningJob, settings: TrainJobConfig, on_step: OnStep) -> None:
    """Submits a TrainJob, follows it to its end and deletes it.

    What an earlier, killed stage left running is deleted first; the training goes on from its last checkpoint.

    Args:
        job: written, see :meth:`damoc.stages.tuning_job.TuningJob.write`.
        settings: where and on what.
        on_step: called in this process.

    Raises:
        CandidateError: the TrainJob failed and none of its processes said why.
        DamocError: the job does not lie on the volume.
        InfrastructureError: the cluster does not answer or refuses.
    """
    for path in (job.proxy, job.rows, job.valid, job.folder, job.out):
        if not path.is_relative_to(settings.mount):
            raise DamocError(
                f"{path} does not lie on the volume that the pods of a TrainJob share",
                "field tuning.train_job.mount",
                f"put the workspace below {settings.mount}, or mount the volume where it is",
            )
    api, manifest = _api(), render(job, settings)
    with _answers():
        _delete(api, manifest)
        api.create_namespaced_custom_object(*_place(manifest), manifest)
    try:
        with (job.folder / PROGRESS).open(encoding="utf-8") as lines:
            while (end := _end(api, manifest)) is None:
                report(lines, on_step)
                time.sleep(_POLL_SECONDS)
            report(lines, on_step)
    finally:
        with _answers():
            _delete(api, manifest)
    if not (job.folder / SUMMARY).is_file() and not any(job.folder.glob(FAILURES)):
        late = end.get("reason") == "DeadlineExceeded"
        raise CandidateError("timeout" if late else "error", f"the TrainJob ended: {end.get('message', end['type'])}")


def _end(api: Any, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The condition that a TrainJob ended with, None while it has not."""
    with _answers():
        found = api.get_namespaced_custom_object(*_place(manifest), manifest["metadata"]["name"])
    for condition in found.get("status", {}).get("conditions", ()):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return dict(condition)
    return None


def _delete(api: Any, manifest: Mapping[str, Any]) -> None:
    """Deletes a TrainJob with its pods and waits until it is gone."""
    from kubernetes.client.exceptions import ApiException

    arguments = (*_place(manifest), manifest["metadata"]["name"])
    try:
        api.delete_namespaced_custom_object(*arguments, propagation_policy="Foreground")
        while True:
            api.get_namespaced_custom_object(*arguments)
            time.sleep(_POLL_SECONDS)
    except ApiException as error:
        if error.status != _ABSENT:
            raise


def _place(manifest: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return GROUP, VERSION, manifest["metadata"]["namespace"], PLURAL


def _api() -> Any:
    """The cluster that this pod runs in, or that of the kubeconfig."""
    from kubernetes import client, config

    try:
        config.load_config()
    except config.ConfigException as error:
        raise InfrastructureError(
            f"no cluster to submit a TrainJob to: {error}", "field tuning.train_job", "set KUBECONFIG, or run in a pod"
        ) from error
    return client.CustomObjectsApi()


@contextmanager
def _answers() -> Iterator[None]:
    """Names what keeps the cluster from answering."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    fix = "check that Kubeflow Trainer 2.3 is installed and that the service account may handle trainjobs"
    try:
        yield
    except ApiException as error:
        said = f"{error.status} {error.reason}: {error.body}"[:500]
        raise InfrastructureError(f"the cluster refused: {said}", f"{PLURAL}.{GROUP}", fix) from error
    except HTTPError as error:
        raise InfrastructureError(f"the cluster does not answer: {error}", f"{PLURAL}.{GROUP}", fix) from error
