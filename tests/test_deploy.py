"""What deploys the flow is valid without a cluster or an image engine at hand."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from dataflows.cli import verify
from dataflows.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
BASE, SPLIT = ROOT / "k8s" / "base", ROOT / "k8s" / "split"


def manifests(folder: Path) -> list[Path]:
    """Return the manifests of a deployment."""
    return sorted(p for p in folder.glob("*.yaml") if p.name != "kustomization.yaml")


@pytest.mark.parametrize("folder", [BASE, SPLIT], ids=lambda folder: folder.name)
def test_manifests_are_clean_and_valid_against_the_api_schema(folder: Path) -> None:
    """yamllint, and the schemas of a current Kubernetes, strictly."""
    rules = "{extends: default, rules: {line-length: {max: 120}}}"
    yamllint = [sys.executable, "-m", "yamllint", "-d", rules, str(folder)]
    subprocess.run(yamllint, check=True)
    validate = [str(Path(sys.executable).with_name("kubernetes-validate")), "--strict"]
    subprocess.run([*validate, *map(str, manifests(folder))], check=True)


@pytest.mark.parametrize("folder", [BASE, SPLIT], ids=lambda folder: folder.name)
def test_the_kustomization_names_every_manifest(folder: Path) -> None:
    """Nothing is forgotten, nothing is missing."""
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == [path.name for path in manifests(folder)]


def stateful_set(path: Path) -> dict[str, Any]:
    """Return the specification of a set of pods."""
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    spec: dict[str, Any] = loaded["spec"]
    return spec


@pytest.mark.parametrize(
    ("path", "flow", "replicas"),
    [
        (BASE / "statefulset.yaml", "dataflows.live", 1),
        (SPLIT / "shard.yaml", "dataflows.shard", 3),
        (SPLIT / "market.yaml", "dataflows.market", 1),
    ],
    ids=lambda value: getattr(value, "stem", value),
)
def test_a_pod_runs_its_flow_with_a_recovery_store_it_made(
    path: Path, flow: str, replicas: int
) -> None:
    """Live is one process; the store is made before the flow starts, and used by it."""
    spec = stateful_set(path)
    assert spec["replicas"] == replicas
    pod = spec["template"]["spec"]
    command = pod["containers"][0]["command"]
    assert command[:4] == ["python", "-m", "bytewax.run", flow]
    store = command[command.index("-r") + 1]
    assert f"dataflows.recovery {store} 1" in pod["initContainers"][0]["command"][-1]
    mounts = {m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
    assert store.startswith("/data/")
    assert "/data" in mounts


def test_the_settings_of_the_pods_exist() -> None:
    """Every variable is one that the program knows; every shard knows how many there are."""
    for folder in (BASE, SPLIT):
        names = set(
            re.findall(r"name: (ALPHA_\w+)", " ".join(map(Path.read_text, manifests(folder))))
        )
        assert names <= {PREFIX + name.upper() for name in Settings.model_fields}
    spec = stateful_set(SPLIT / "shard.yaml")
    given = {each["name"]: each for each in spec["template"]["spec"]["containers"][0]["env"]}
    assert given["ALPHA_SHARD"]["value"] == f"$(POD_INDEX)/{spec['replicas']}"
    assert list(given).index("POD_INDEX") < list(given).index("ALPHA_SHARD")
    assert given["ALPHA_TICKS"]["value"] == "kafka"


def test_the_recorder_and_its_forwarder_share_the_log() -> None:
    """One pod, one volume, and both use the default directory under it."""
    pod = stateful_set(SPLIT / "recorder.yaml")["template"]["spec"]
    assert [each["command"] for each in pod["containers"]] == [
        ["alpha", "record"],
        ["alpha", "forward"],
    ]
    for container in pod["containers"]:
        directory = next(e["value"] for e in container["env"] if e["name"] == "ALPHA_DATA_DIR")
        assert {"name": "data", "mountPath": directory} in container["volumeMounts"]


def test_a_job_verifies_what_the_flow_has_stored() -> None:
    """Its command line is one that `alpha verify` takes; log and database are those of the flow."""
    loaded = yaml.safe_load((BASE / "verify.yaml").read_text())["spec"]["jobTemplate"]["spec"]
    pod = loaded["template"]["spec"]
    container = pod["containers"][0]
    flow = stateful_set(BASE / "statefulset.yaml")
    assert container["command"][:2] == ["alpha", "verify"]
    with get_command(verify.app).make_context("verify", container["command"][2:]) as context:
        assert context.params["last"] == "24h"
        assert str(context.params["log"]).startswith("/data/")
    written = str(context.params["metrics"].parent)
    assert written in {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
    claim = f"{flow['volumeClaimTemplates'][0]['metadata']['name']}-{flow['serviceName']}-0"
    assert claim in {v.get("persistentVolumeClaim", {}).get("claimName") for v in pod["volumes"]}
    its_flow = flow["template"]["spec"]["containers"][0]
    assert container["image"] == its_flow["image"]
    assert [e for e in its_flow["env"] if e["name"] == "ALPHA_DATABASE_URL"] == container["env"]


def test_the_image_has_what_the_project_needs() -> None:
    """Every package is copied, the lock is installed, and the command is that of the README."""
    text = (ROOT / "Dockerfile").read_text()
    copied = set(re.findall(r"^COPY (\w+) \1$", text, re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    include = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert copied == {name.rstrip("*") for name in include}
    assert "--require-hashes -r requirements.lock" in text
    command = re.search(r"^CMD \[(.*)\]$", text, re.MULTILINE)
    assert command is not None
    words = [word.strip(' "') for word in command.group(1).split(",")]
    assert shlex.join(words) == "python -m bytewax.run dataflows.live"
    version = project["project"]["version"]
    texts = [path.read_text() for folder in (BASE, SPLIT) for path in manifests(folder)]
    images = re.findall(r"image: alpha-detector:(\S+)", " ".join(texts))
    assert set(images) == {version}


def test_versions_agree() -> None:
    """Package, producer and changelog speak of one version."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"alpha-detector@v{version}" in (ROOT / "dataflows" / "version.py").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
