"""A training over two machines, as a TrainJob: its manifest, and its way through an API server and two torchruns.

No operator runs here: the manifest is held against what the API of Kubeflow Trainer 2.3 allows, restated below.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import shared_tuning
import yaml
from cluster_server import Cluster, serve
from kubernetes.config import kube_config
from pydantic import ValidationError
from safetensors.torch import load_file

from damoc.config import TrainJobConfig, TuningConfig
from damoc.errors import CandidateError, DamocError, InfrastructureError
from damoc.stages import train_job
from damoc.stages.train_job import render
from damoc.stages.tuning_job import TuningJob, carry_out
from damoc.stages.tuning_launch import processes_of, tune_job

ROOT = Path(__file__).parent.parent.parent
MANIFESTS = ROOT / "manifests" / "trainer"
TRAIN_JOB = {"nodes": 2, "gpus": 0, "image": "registry/damoc@sha256:0", "claim": "work", "namespace": "team"}

ALLOWED = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {"runtimeRef", "initializer", "trainer", "runtimePatches", "suspend", "activeDeadlineSeconds", "managedBy"},
    "spec.runtimeRef": {"apiGroup", "kind", "name"},
    "spec.trainer": {"image", "command", "args", "env", "numNodes", "numProcPerNode", "resourcesPerNode"},
    "spec.trainer.resourcesPerNode": {"requests", "limits", "claims"},
    "spec.runtimePatches[]": {"manager", "time", "trainingRuntimeSpec"},
    "spec.runtimePatches[].trainingRuntimeSpec": {"template"},
    "spec.runtimePatches[].trainingRuntimeSpec.template": {"metadata", "spec"},
    "spec.runtimePatches[].trainingRuntimeSpec.template.spec": {"replicatedJobs"},
}
POD = {"serviceAccountName", "volumes", "initContainers", "containers", "imagePullSecrets", "securityContext"}
POD |= {"nodeSelector", "affinity", "tolerations", "schedulingGates", "terminationGracePeriodSeconds"}
IN_CONTAINER = {"name", "volumeMounts", "securityContext"}
"""Variables of the container "node" are refused in a patch; they would stand in spec.trainer.env."""


def check(manifest: dict[str, Any]) -> None:
    """What the schema and the webhooks of the operator check of a TrainJob."""

    def walk(value: Any, path: str) -> None:
        if path in ALLOWED:
            assert set(value) <= ALLOWED[path], path
        if isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{path}.{key}".lstrip("."))
        elif isinstance(value, list):
            for item in value:
                walk(item, f"{path}[]")

    walk(manifest, "")
    assert (manifest["apiVersion"], manifest["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", manifest["metadata"]["name"])
    assert len(manifest["metadata"]["name"]) <= 63
    spec = manifest["spec"]
    assert spec["runtimeRef"]["kind"] in ("TrainingRuntime", "ClusterTrainingRuntime")
    assert isinstance(spec["suspend"], bool)
    assert spec["activeDeadlineSeconds"] >= 1
    trainer = spec["trainer"]
    assert all(isinstance(trainer[key], int) and trainer[key] >= 1 for key in ("numNodes", "numProcPerNode"))
    assert all(isinstance(word, str) for word in trainer["command"])
    for patch in spec["runtimePatches"]:
        assert re.fullmatch(r"[a-z0-9.-]+/[a-z0-9-]+", patch["manager"])
        (patched,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
        pod = patched["template"]["spec"]["template"]["spec"]
        assert set(pod) <= POD
        assert all(set(container) <= IN_CONTAINER for container in pod["containers"])
        runtime = yaml.safe_load((MANIFESTS / "training-runtime.yaml").read_text())
        assert runtime["kind"] == spec["runtimeRef"]["kind"]
        assert runtime["metadata"]["name"] == spec["runtimeRef"]["name"]
        (known,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
        assert known["name"] == patched["name"]
        names = {container["name"] for container in known["template"]["spec"]["template"]["spec"]["containers"]}
        assert {container["name"] for container in pod["containers"]} <= names
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]} <= volumes


def shared(folder: Path, **settings: Any) -> TuningJob:
    """A job on a volume that is mounted at ``folder``."""
    shared_tuning.write_models(folder)
    made = shared_tuning.job_of(folder, "lora", "out")
    tuning = {**made.settings.model_dump(), "epochs": 0.5, "train_job": {**TRAIN_JOB, "mount": str(folder)}}
    return replace(made, identity="0123456789abcdef" * 4, settings=TuningConfig(**{**tuning, **settings}))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster that the kubeconfig names, asked often."""
    made = Cluster(check, [ROOT, ROOT / "tests"])
    monkeypatch.setattr(train_job, "_POLL_SECONDS", 0.2)
    with serve(made, tmp_path) as config:
        monkeypatch.setattr("kubernetes.config.KUBE_CONFIG_DEFAULT_LOCATION", str(config))
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(config))
        yield made


def silent(step: int, steps: int, point: Any) -> None:
    pass


def test_the_manifest_says_what_the_config_says(tmp_path: Path) -> None:
    job = shared(tmp_path)
    own = {"gpus": 8, "queue": "team-gpus", "tolerations": [{"key": "gpu", "operator": "Exists"}]}
    settings = TrainJobConfig(**{**TRAIN_JOB, "mount": "/work", "node_selector": {"pool": "h100"}, **own})
    manifest = render(job, settings)
    check(manifest)
    assert manifest["metadata"]["name"] == "damoc-0123456789abcdef"
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-gpus"
    spec = manifest["spec"]
    assert spec["suspend"] is True
    trainer = spec["trainer"]
    assert trainer["command"] == ["torchrun", "-m", "damoc.stages.tuning_job", str(job.folder / "job.json")]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 8)
    assert trainer["resourcesPerNode"]["limits"] == {"cpu": "4", "memory": "32Gi", "nvidia.com/gpu": "8"}
    (patched,) = spec["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = patched["template"]["spec"]["template"]["spec"]
    assert pod["volumes"] == [{"name": "workspace", "persistentVolumeClaim": {"claimName": "work"}}]
    assert pod["containers"][0]["volumeMounts"] == [{"name": "workspace", "mountPath": "/work"}]
    assert (pod["nodeSelector"], pod["tolerations"]) == ({"pool": "h100"}, own["tolerations"])
    assert processes_of(TuningConfig(train_job=settings)) == 16
    assert render(job, TrainJobConfig(**TRAIN_JOB, mount="/work"))["spec"]["suspend"] is False


@pytest.mark.slow
def test_two_machines_give_the_weights_of_one_process(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = shared(tmp_path)
    left_over = render(job, job.settings.train_job)
    cluster.jobs[left_over["metadata"]["name"]] = left_over
    cluster.pods[left_over["metadata"]["name"]] = []
    seen: list[tuple[int, int]] = []
    summary = tune_job(job, lambda step, steps, point: seen.append((step, steps)))
    assert summary["processes"] == 2
    assert seen == [(1, 2), (2, 2)]
    assert cluster.jobs == {}
    assert [command for command, _ in cluster.seen if command != "GET"] == ["DELETE", "POST", "DELETE"]

    (tmp_path / "alone").mkdir()
    alone = replace(job, folder=tmp_path / "alone-kept", out=tmp_path / "alone")
    carry_out(alone, silent)
    place = Path("adapter/adapter_model.safetensors")
    expected, found = load_file(alone.out / place), load_file(job.out / place)
    assert expected.keys() == found.keys()
    assert all((expected[name] - found[name]).abs().max() < 1e-5 for name in expected)


@pytest.mark.slow
def test_a_train_job_whose_processes_say_what_is_wrong(tmp_path: Path, cluster: Cluster) -> None:
    job = shared(tmp_path)
    (job.proxy / "model.safetensors").unlink()
    with pytest.raises(DamocError, match="has no .safetensors weights"):
        tune_job(job, silent)
    assert cluster.jobs == {}


@pytest.mark.slow
def test_a_train_job_that_ends_without_a_word_fails_the_candidate(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_job, "MODULE", "no_such_module")
    with pytest.raises(CandidateError, match="the TrainJob ended: the pods have ended") as caught:
        tune_job(shared(tmp_path), silent)
    assert caught.value.status == "error"
    assert cluster.jobs == {}


def test_a_cluster_that_refuses_stops_the_run(tmp_path: Path, cluster: Cluster) -> None:
    cluster.create = lambda manifest: (403, {"message": "forbidden"})  # type: ignore[method-assign]
    with pytest.raises(InfrastructureError, match="the cluster refused: 403"):
        tune_job(shared(tmp_path), silent)


def test_a_workspace_that_the_pods_do_not_see_is_refused(tmp_path: Path) -> None:
    job = shared(tmp_path, train_job={**TRAIN_JOB, "mount": "/elsewhere"})
    with pytest.raises(DamocError, match="does not lie on the volume"):
        tune_job(job, silent)


@pytest.mark.parametrize("setting", [{"method": "qlora"}, {"lr_probe": [1e-4, 1e-3]}, {"processes": 2}])
def test_what_machines_cannot_share_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="train_job"):
        TuningConfig(**{"train_job": {**TRAIN_JOB, "mount": "/work"}, **setting})


def test_the_kustomization_lists_every_manifest() -> None:
    listed = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(p.name for p in MANIFESTS.glob("*.yaml") if p.name != "kustomization.yaml")
    runtime = yaml.safe_load((MANIFESTS / "training-runtime.yaml").read_text())
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert job["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    assert job["template"]["spec"]["backoffLimit"] == 0
    assert runtime["spec"]["mlPolicy"]["torch"] == {}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
def test_kustomize_builds_the_manifests() -> None:
    built = subprocess.run(["kubectl", "kustomize", str(MANIFESTS)], capture_output=True, text=True, timeout=60)
    assert built.returncode == 0, built.stderr
    kinds = {document["kind"]: document for document in yaml.safe_load_all(built.stdout)}
    assert set(kinds) == {"Role", "TrainingRuntime"}
    assert kinds["Role"]["metadata"]["labels"] == {"app.kubernetes.io/part-of": "damoc"}
