"""What lies in deploy/, checked against schemas, the settings, and what the service really says."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.settings import Settings
from tests import bundles
from tests.service.conftest import png
from tests.service.operated import Operated, operated
from tests.service.processes import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = sorted(file for file in DEPLOY.glob("kubernetes/*.yaml") if file.name != "kustomization.yaml")
# Labels that Prometheus itself adds, and that of a bucket.
GIVEN_LABELS = {"instance", "job", "le"}
WORD = re.compile(r"\b(?:reslens|process)_\w+")


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def check(document: dict[str, Any]) -> None:
    """Unknown fields are errors too, as for an API server that is asked to be strict."""
    kubernetes_validate.validate(document, kubernetes_validate.latest_version().rpartition(".")[0], strict=True)


def pod() -> Any:
    return read("kubernetes/deployment.yaml")["spec"]["template"]["spec"]


def runtime() -> Any:
    return read("kserve/serving-runtime.yaml")["spec"]


# Kubernetes


@pytest.mark.parametrize("file", KUBERNETES, ids=lambda file: file.stem)
def test_manifests_are_what_kubernetes_expects(file: Path) -> None:
    document = yaml.safe_load(file.read_text())
    check(document)
    assert document["metadata"]["name"] == "reslens"
    # The check can fail.
    with pytest.raises(kubernetes_validate.ValidationError):
        check(document | {"spec": document["spec"] | {"replica": 2}})


def test_the_job_that_retrains_is_what_kubernetes_expects() -> None:
    document = read("retrain/cronjob.yaml")
    check(document)
    with pytest.raises(kubernetes_validate.ValidationError):
        check(document | {"spec": document["spec"] | {"schedules": "0 2 * * *"}})
    template = document["spec"]["jobTemplate"]["spec"]["template"]
    # It is let in, asks the service by its name, and has volumes for what it mounts.
    allowed = read("kubernetes/network.yaml")["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert allowed.items() <= template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    assert f"--url=http://{read('kubernetes/service.yaml')['metadata']['name']}" in container["args"]
    volumes = {volume["name"] for volume in template["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_every_manifest_is_applied() -> None:
    assert sorted(read("kubernetes/kustomization.yaml")["resources"]) == [file.name for file in KUBERNETES]


def test_all_select_the_same_pods() -> None:
    labels = read("kubernetes/deployment.yaml")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        read("kubernetes/deployment.yaml")["spec"]["selector"]["matchLabels"],
        read("kubernetes/service.yaml")["spec"]["selector"],
        read("kubernetes/disruption.yaml")["spec"]["selector"]["matchLabels"],
        read("kubernetes/network.yaml")["spec"]["podSelector"]["matchLabels"],
    ]
    assert selectors == [labels] * 4
    target = read("kubernetes/autoscaler.yaml")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", "reslens")


def test_ports_are_named_alike() -> None:
    (container,) = pod()["containers"]
    (port,) = container["ports"]
    assert read("kubernetes/service.yaml")["spec"]["ports"][0]["targetPort"] == port["name"]
    assert read("kubernetes/network.yaml")["spec"]["ingress"][0]["ports"][0]["port"] == port["name"]
    assert {container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "liveness", "readiness")} == {
        port["name"]
    }


def test_a_service_of_our_name_does_not_become_a_setting() -> None:
    """Kubernetes would set RESLENS_PORT=tcp://… for every pod beside a Service called reslens."""
    assert read("kubernetes/service.yaml")["metadata"]["name"] == "reslens"
    assert pod()["enableServiceLinks"] is False
    assert environment(runtime()["containers"][0])["RESLENS_PORT"] == "8080"


def test_the_user_is_that_of_the_image_and_can_write_where_it_must() -> None:
    image = (ROOT / "Dockerfile").read_text()
    (container,) = pod()["containers"]
    for user in (pod()["securityContext"]["runAsUser"], runtime()["containers"][0]["securityContext"]["runAsUser"]):
        assert f"USER {user}\n" in image
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    composed = read("compose.yaml")["services"]["reslens"]
    written = set(re.findall(r"(?:RESLENS_DATA_DIRECTORY|NUMBA_CACHE_DIR)=(\S+)", image)) | {"/tmp"}
    assert written <= mounted
    assert written <= {volume.partition(":")[2] for volume in composed["volumes"]} | set(composed["tmpfs"])


# KServe: no schema of its kinds is published apart from its code, but they hold parts of pods.


def test_the_serving_runtime_holds_containers() -> None:
    document = read("kserve/serving-runtime.yaml")
    assert (document["apiVersion"], document["kind"]) == ("serving.kserve.io/v1alpha1", "ServingRuntime")
    spec = runtime()
    assert set(spec) == {"annotations", "supportedModelFormats", "protocolVersions", "containers"}
    assert spec["protocolVersions"] == ["v2"]
    (container,) = spec["containers"]
    assert container["name"] == "kserve-container"
    check(as_pod({"containers": spec["containers"]}))
    assert str(container["ports"][0]["containerPort"]) == environment(container)["RESLENS_PORT"]
    assert spec["annotations"]["prometheus.kserve.io/port"] == environment(container)["RESLENS_PORT"]


def test_the_inference_service_uses_it() -> None:
    document = read("kserve/inference-service.yaml")
    assert (document["apiVersion"], document["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    predictor = document["spec"]["predictor"]
    model = predictor.pop("model")
    assert model["runtime"] == read("kserve/serving-runtime.yaml")["metadata"]["name"]
    formats = [{name: known[name] for name in ("name", "version")} for known in runtime()["supportedModelFormats"]]
    assert model["modelFormat"] in formats
    assert model["protocolVersion"] in runtime()["protocolVersions"]
    assert (ROOT / "models" / "store" / document["metadata"]["name"]).is_dir()
    # What is left are the bounds of the autoscaler and fields of a pod.
    assert 0 < predictor.pop("minReplicas") <= predictor.pop("maxReplicas")
    check(as_pod({"containers": runtime()["containers"], **predictor}))


def as_pod(spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}


# Settings


def environment(container: Any) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container["env"]}


@pytest.mark.parametrize("chosen", ["kubernetes", "kserve", "compose"])
def test_settings_are_known_and_leave_time_to_end(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if chosen == "compose":
        composed = read("compose.yaml")["services"]["reslens"]
        variables, grace = composed["environment"], int(composed["stop_grace_period"].removesuffix("s"))
    elif chosen == "kubernetes":
        variables, grace = environment(pod()["containers"][0]), pod()["terminationGracePeriodSeconds"]
    else:
        predictor = read("kserve/inference-service.yaml")["spec"]["predictor"]
        variables, grace = environment(runtime()["containers"][0]), predictor["terminationGracePeriodSeconds"]
    monkeypatch.delenv("RESLENS_ANNOUNCE_SECONDS")
    for name, value in variables.items():
        assert name.removeprefix("RESLENS_").lower() in Settings.model_fields, name
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert grace >= settings.announce_seconds + settings.drain_seconds + 15


# Prometheus and Grafana


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    root, folder = tmp_path_factory.mktemp("shelf"), tmp_path_factory.mktemp("log")
    bundles.publish(root)
    with operated(root, folder / "log", HISTORY_URL=f"sqlite:///{folder}/history.sqlite3") as service:
        image = png(np.zeros((3, 8, 8), np.uint8))
        assert service.client.post("/v1/models/tiny/classify", content=image).status_code == 200
        yield service


@pytest.fixture(scope="module")
def series(service: Operated) -> dict[str, set[str] | None]:
    """Every name that may be asked for, with its labels; None if they are not known, because there is no sample yet."""
    families = list(text_string_to_metric_families(service.client.get("/metrics").text))
    found: dict[str, set[str] | None] = {}
    for family in families:
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        found |= {family.name + suffix: None for suffix in suffixes}
        for sample in family.samples:
            found[sample.name] = (found.get(sample.name) or set()) | set(sample.labels)
    return found


def queries() -> list[str]:
    dashboard = read("grafana/dashboards/reslens.json")
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    chosen = [variable["definition"] for variable in dashboard["templating"]["list"]]
    alerts = [rule["expr"] for group in read("alerts.yaml")["groups"] for rule in group["rules"]]
    return shown + chosen + alerts


@pytest.mark.parametrize("query", queries())
def test_queries_ask_for_series_that_exist(query: str, series: dict[str, set[str] | None]) -> None:
    names = WORD.findall(query)
    assert names or query.startswith("up{")
    assert set(names) <= set(series)
    asked = set(re.findall(r"(\w+)=~?\"", query))
    asked |= {label.strip() for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(",")}
    labels = [series[name] for name in names]
    if None not in labels:
        assert asked <= GIVEN_LABELS.union(*filter(None, labels))
    assert query.count("(") == query.count(")")
    assert query.count("{") == query.count("}")


def test_the_autoscaler_asks_for_a_series_that_exists(series: dict[str, set[str] | None]) -> None:
    (metric,) = read("kubernetes/autoscaler.yaml")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] in series
    assert metric["pods"]["metric"]["name"] in (DEPLOY / "README.md").read_text()


def test_the_parts_of_the_composition_find_each_other() -> None:
    services = read("compose.yaml")["services"]
    (scrape,) = read("prometheus.yaml")["scrape_configs"]
    (target,) = scrape["static_configs"][0]["targets"]
    assert target.partition(":")[0] in services
    (source,) = read("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert re.fullmatch(r"http://(\w+):9090", source["url"])[1] in services  # type: ignore[index]
    dashboard = read("grafana/dashboards/reslens.json")
    used = {panel["datasource"]["uid"] for panel in dashboard["panels"]}
    assert used == {source["uid"]}
    (provider,) = read("grafana/provisioning/dashboards/reslens.yaml")["providers"]
    inside = {}
    for name in ("prometheus", "grafana"):
        for volume in services[name]["volumes"]:
            outside, path, *_ = volume.split(":")
            if outside.startswith("."):
                assert (DEPLOY / outside).exists(), outside
                inside[path] = outside
    assert provider["options"]["path"] in inside
    assert set(read("prometheus.yaml")["rule_files"]) <= set(inside)
    for composed in services.values():  # nothing listens to strangers
        assert all(port.startswith("127.0.0.1:") for port in composed["ports"])


def test_panels_do_not_overlap() -> None:
    panels = json.loads((DEPLOY / "grafana/dashboards/reslens.json").read_text())["panels"]
    cells = [
        (place["x"] + column, place["y"] + row)
        for place in (panel["gridPos"] for panel in panels)
        for column in range(place["w"])
        for row in range(place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)
