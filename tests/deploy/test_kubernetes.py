"""The files for Kubernetes, by its schemas, by kustomize and by what Ray itself reads of a cluster.

The schema of KubeRay's own resources is in no package registry. What stands between its fields (pods) is checked as
Kubernetes' own; the fields are those of its Go types, of version 1.5.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.conftest import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
# ray-operator/apis/ray/v1 of KubeRay: which fields there are, and which must be
JOB = {
    "entrypoint", "submissionMode", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
    "rayClusterSpec", "activeDeadlineSeconds", "suspend", "runtimeEnvYAML", "submitterPodTemplate",
}  # fmt: skip
CLUSTER = {
    "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs",
    "gcsFaultToleranceOptions",
}  # fmt: skip
HEAD = {"rayStartParams", "template", "serviceType", "headService", "enableIngress"}
GROUP = {
    "groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template", "idleTimeoutSeconds",
    "numOfHosts", "scaleStrategy", "suspend",
}  # fmt: skip


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text("utf-8")))


@pytest.fixture(scope="module")
def rendered() -> list[dict[str, Any]]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        assert not os.environ.get("CI"), "no kubectl: what kustomize makes of the files is not seen"
        pytest.skip("no kubectl")
    done = subprocess.run([kubectl, "kustomize", FOLDER], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def valid(resource: dict[str, Any]) -> None:
    resource["metadata"].setdefault("name", resource["metadata"].get("generateName", "") + "x")
    kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


def test_what_stays_is_by_the_schemas(rendered: list[dict[str, Any]]):
    kinds = [resource["kind"] for resource in rendered]
    assert sorted(set(kinds)) == [
        "Deployment",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "Service",
    ]
    for resource in rendered:
        valid(resource)
        assert resource["metadata"]["labels"]["app.kubernetes.io/part-of"] == "dail"


def test_an_unknown_field_is_found():
    (job,) = documents("train.yaml")
    job["spec"]["template"]["spec"]["nonsense"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        valid(job)


def test_training_is_by_the_schemas():
    (job,) = documents("train.yaml")
    valid(job)


def test_workers_are_of_the_fields_that_kuberay_has_and_their_pods_by_the_schemas():
    (job,) = documents("workers.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job["spec"]) <= JOB and job["spec"]["submissionMode"] in ("K8sJobMode", "HTTPMode", "SidecarMode")
    cluster = job["spec"]["rayClusterSpec"]
    assert set(cluster) <= CLUSTER and set(cluster["headGroupSpec"]) <= HEAD
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= GROUP and {"groupName", "minReplicas", "maxReplicas", "rayStartParams"} <= set(group)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        valid({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": group["template"]})


def test_rays_autoscaler_reads_the_cluster_as_it_is_meant():
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    (job,) = documents("workers.yaml")
    cluster = {"metadata": {"name": "w", "namespace": "dail"}, "spec": job["spec"]["rayClusterSpec"]}
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    kinds = config["available_node_types"]
    assert kinds["headgroup"]["resources"]["CPU"] == 0 and "GPU" not in kinds["headgroup"]["resources"]
    assert kinds["gpu"]["resources"]["GPU"] == 1
    assert (kinds["gpu"]["min_workers"], kinds["gpu"]["max_workers"]) == (0, 8)
    assert f"--actors {config['max_workers']} " in job["spec"]["entrypoint"], "an engine a GPU"


def test_ray_wants_a_token_and_is_the_release_that_is_tested():
    import ray

    (job,) = documents("workers.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == ray.__version__


def pods(rendered: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod that is made: of which file, and its template."""
    (job,), (train,) = documents("workers.yaml"), documents("train.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    yield "head", cluster["headGroupSpec"]["template"]
    yield "gpu", cluster["workerGroupSpecs"][0]["template"]
    yield "train", train["spec"]["template"]
    yield from (("api", one["spec"]["template"]) for one in rendered if one["kind"] == "Deployment")


def test_no_pod_is_root_or_may_become_it(rendered: list[dict[str, Any]]):
    (uid,) = set(re.findall(r"--uid (\d+)", (ROOT / "deploy/containers/Dockerfile").read_text("utf-8")))
    for name, pod in pods(rendered):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] == int(uid), name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
        if name != "head":  # whose autoscaler asks Kubernetes for machines
            assert spec["automountServiceAccountToken"] is False, name


def test_secrets_are_of_the_one_that_the_page_makes(rendered: list[dict[str, Any]]):
    made = set(re.findall(r"--from-literal=(\w+)=", (ROOT / "deploy/where-it-runs.md").read_text("utf-8")))
    used = set()
    for name, pod in pods(rendered):
        for container in pod["spec"]["containers"]:
            for variable in container.get("env", []):
                if "valueFrom" in variable:
                    reference = variable["valueFrom"]["secretKeyRef"]
                    assert reference["name"] == "dail", name
                    used.add(reference["key"])
                else:
                    assert not re.search("TOKEN|PASSWORD|SECRET", variable["name"]), name
    assert used == made


def test_volumes_that_are_claimed_are_there(rendered: list[dict[str, Any]]):
    claims = {one["metadata"]["name"] for one in rendered if one["kind"] == "PersistentVolumeClaim"}
    for name, pod in pods(rendered):
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        for container in pod["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes), name
        assert {one["persistentVolumeClaim"]["claimName"] for one in volumes.values() if len(one) > 1
                and "persistentVolumeClaim" in one} <= claims, name  # fmt: skip


def may_reach(rendered: list[dict[str, Any]], source: dict[str, str], target: dict[str, str]) -> bool:
    """By the policies, from a pod of the same namespace with these labels; none for a pod is all."""
    policies = [
        one["spec"]
        for one in rendered
        if one["kind"] == "NetworkPolicy" and one["spec"]["podSelector"]["matchLabels"].items() <= target.items()
    ]
    return not policies or any(
        origin.get("podSelector", {}).get("matchLabels", {}).items() <= source.items()
        for policy in policies
        for rule in policy.get("ingress", [])
        for origin in rule["from"]
    )


def test_workers_and_trainers_reach_the_api_and_nobody_reaches_them(rendered: list[dict[str, Any]]):
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(rendered)}
    stranger = {"app": "stranger"}
    operator = {"app.kubernetes.io/name": "kuberay-operator"}
    reached = {
        name: {other for other in (*labels, "stranger", "operator") if may_reach(
            rendered, {**labels, "stranger": stranger, "operator": operator}[other], labels[name])}
        for name in labels
    }  # fmt: skip
    assert reached == {
        "api": {"head", "gpu", "train"},
        "head": {"head", "gpu", "operator"},
        "gpu": {"head", "gpu", "operator"},
        "train": set(),
    }


def test_a_server_may_go_while_another_stays(rendered: list[dict[str, Any]]):
    by_kind = {one["kind"]: one["spec"] for one in rendered}
    assert by_kind["Deployment"]["replicas"] > by_kind["PodDisruptionBudget"]["minAvailable"]
    labels = by_kind["Deployment"]["template"]["metadata"]["labels"]
    assert by_kind["PodDisruptionBudget"]["selector"]["matchLabels"].items() <= labels.items()
    assert by_kind["Service"]["selector"].items() <= labels.items()
    assert by_kind["Deployment"]["selector"]["matchLabels"].items() <= labels.items()
    (container,) = by_kind["Deployment"]["template"]["spec"]["containers"]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
