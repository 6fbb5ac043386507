"""Checks what no program that is available here checks: compose.observe.yaml, the collector's settings, which dashboards are mounted."""

import sys
from pathlib import Path

import yaml

root = Path(__file__).parents[2]
infra, monitoring = root / "infra", root / "k8s/components/monitoring"
compose = yaml.safe_load((infra / "compose.observe.yaml").read_text())
collector = yaml.safe_load((infra / "observe/otel-collector.yaml").read_text())
sources = yaml.safe_load((infra / "observe/grafana/datasources/theater.yaml").read_text())["datasources"]
boards = yaml.safe_load((infra / "observe/grafana/dashboards/theater.yaml").read_text())["providers"]
problems = []

for name, service in compose["services"].items():
    if service.get("read_only") is not True or service.get("cap_drop") != ["ALL"] or "mem_limit" not in service:
        problems.append(f"{name}: has more privileges than it needs")
    tag = service["image"].rpartition("/")[2].partition(":")[2]
    if not any(character.isdigit() for character in tag):
        problems.append(f"{name}: its image has no version tag")
    problems += [f"{name}: {port} is published beyond loopback" for port in service.get("ports", []) if not port.startswith("127.0.0.1:")]
    for volume in service.get("volumes", []):
        source, target = volume.split(":")[:2]
        if source.startswith(".") and not (infra / source).exists():
            problems.append(f"{name}: there is no {source}")
        elif not source.startswith(".") and source not in compose["volumes"]:
            problems.append(f"{name}: there is no volume {source}")

for name, pipeline in collector["service"]["pipelines"].items():
    for kind in ("receivers", "processors", "exporters"):
        problems += [f"collector, {name}: there are no {kind} {one}" for one in pipeline[kind] if one not in collector[kind]]

hosts = [source["url"].split("/")[2].partition(":")[0] for source in sources]
hosts += [exporter["endpoint"].partition(":")[0] for exporter in collector["exporters"].values()]
problems += [f"there is no service {host}" for host in hosts if host not in compose["services"]]

generated = yaml.safe_load((monitoring / "kustomization.yaml").read_text())["configMapGenerator"][0]["files"]
if sorted(generated) != sorted(f"dashboards/{file.name}" for file in monitoring.glob("dashboards/*")):
    problems.append(f"the kustomization lists other dashboards than there are: {generated}")

mounted = [volume.split(":")[1] for volume in compose["services"]["grafana"]["volumes"]]
problems += [f"grafana: {board['options']['path']} is not mounted" for board in boards if board["options"]["path"] not in mounted]

print("\n".join(problems) or f"{len(compose['services'])} services of compose.observe.yaml are consistent")
sys.exit(1 if problems else 0)
