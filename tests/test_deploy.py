"""What deploys the flow is valid without a cluster or an image engine at hand."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
BASE = ROOT / "k8s" / "base"
MANIFESTS = sorted(p for p in BASE.glob("*.yaml") if p.name != "kustomization.yaml")


def test_manifests_are_clean_and_valid_against_the_api_schema() -> None:
    """yamllint, and the schemas of a current Kubernetes, strictly."""
    rules = "{extends: default, rules: {line-length: {max: 120}}}"
    yamllint = [sys.executable, "-m", "yamllint", "-d", rules, str(BASE)]
    subprocess.run(yamllint, check=True)
    validate = [str(Path(sys.executable).with_name("kubernetes-validate")), "--strict"]
    subprocess.run([*validate, *map(str, MANIFESTS)], check=True)


def test_the_kustomization_names_every_manifest() -> None:
    """Nothing is forgotten, nothing is missing."""
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == [path.name for path in MANIFESTS]


def stateful_set() -> dict[str, Any]:
    """Return the pod template of the flow."""
    loaded: dict[str, Any] = yaml.safe_load((BASE / "statefulset.yaml").read_text())
    return loaded["spec"]


def test_one_pod_runs_the_flow_with_a_recovery_store_it_made() -> None:
    """Live is one process; the store is made before the flow starts, and used by it."""
    spec = stateful_set()
    assert spec["replicas"] == 1
    pod = spec["template"]["spec"]
    command = pod["containers"][0]["command"]
    assert command[:4] == ["python", "-m", "bytewax.run", "dataflows.live"]
    store = command[command.index("-r") + 1]
    assert f"bytewax.recovery {store} 1" in pod["initContainers"][0]["command"][-1]
    mounts = {m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
    assert store.startswith("/data/")
    assert "/data" in mounts


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
    images = re.findall(r"image: alpha-detector:(\S+)", (BASE / "statefulset.yaml").read_text())
    assert set(images) == {version}


def test_versions_agree() -> None:
    """Package, producer and changelog speak of one version."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"alpha-detector@v{version}" in (ROOT / "dataflows" / "version.py").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
