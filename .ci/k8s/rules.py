"""Rules that no schema can express: the objects of one rendering are consistent, and keep what the theater promises."""

import re

# service-kit: DRAIN_LIMIT, RUNTIME_LIMIT, and the time for the last spans.
DRAIN_SECS = 30 + 2 + 5
# Of a topic that the services create.
PARTITIONS = 12


class Rendering:
    def __init__(self, things):
        self.things = things
        self.workloads = self.kind("Deployment", "StatefulSet", "Job")

    def kind(self, *kinds):
        return [thing for thing in self.things if thing["kind"] in kinds]

    def names(self, kind):
        return {thing["metadata"]["name"] for thing in self.kind(kind)}

    def pods(self, selector):
        """The workloads whose pods match a selector's labels."""
        labels = selector.get("matchLabels", selector)
        return [workload for workload in self.workloads if labels and labels.items() <= pod(workload)["labels"].items()]


def pod(workload):
    template = workload["spec"]["template"]
    return {"labels": template["metadata"].get("labels", {}), **template["spec"]}


def containers(workload):
    return pod(workload).get("initContainers", []) + pod(workload)["containers"]


def title(thing):
    return f"{thing['kind']}/{thing['metadata']['name']}"


def same_namespace(all):
    """All objects are in the rendering's namespace: a component may forget to set it."""
    namespaces = all.names("Namespace")
    for thing in all.things:
        if thing["kind"] != "Namespace" and thing["metadata"].get("namespace") not in namespaces:
            yield f"{title(thing)}: is in the namespace {thing['metadata'].get('namespace')}, not in {', '.join(namespaces)}"


def pinned_images(all):
    """An image's name always means the same image."""
    for workload in all.workloads:
        for container in containers(workload):
            last = container["image"].rpartition("/")[2]
            if "@sha256:" not in last and (":" not in last or last.endswith(":latest")):
                yield f"{title(workload)}: the image {container['image']} has no pinned tag"


def restricted_pods(all):
    """A pod has no more privileges than a service needs."""
    for workload in all.workloads:
        spec = pod(workload)
        security = spec.get("securityContext", {})
        if not security.get("runAsNonRoot") or not security.get("runAsUser"):
            yield f"{title(workload)}: may run as root"
        if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{title(workload)}: may make any system call"
        if spec.get("automountServiceAccountToken") is not False or spec.get("serviceAccountName", "default") == "default":
            yield f"{title(workload)}: should have its own service account, without a token"
        if spec.get("enableServiceLinks") is not False:
            yield f"{title(workload)}: enableServiceLinks would add variables to its environment"
        for container in containers(workload):
            own = container.get("securityContext", {})
            wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
            if any(own.get(key) != value for key, value in wanted.items()):
                yield f"{title(workload)}: {container['name']} must have {wanted}"
            resources = container.get("resources", {})
            if not {"cpu", "memory"} <= resources.get("requests", {}).keys() or "memory" not in resources.get("limits", {}):
                yield f"{title(workload)}: {container['name']} must have requests for CPU and memory, and a memory limit"


def probed_and_drained(all):
    """Broken pods are detected, and stopped pods have time to finish."""
    for workload in all.kind("Deployment"):
        for container in pod(workload)["containers"]:
            missing = {"startupProbe", "readinessProbe", "livenessProbe"} - container.keys()
            if missing:
                yield f"{title(workload)}: {container['name']} has no {', '.join(sorted(missing))}"
            pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            grace = pod(workload).get("terminationGracePeriodSeconds", 30)
            if pause == 0 or grace < pause + DRAIN_SECS:
                yield f"{title(workload)}: {pause} s of preStop and {DRAIN_SECS} s of draining don't fit into {grace} s"


def scaled_once(all):
    """Each Deployment has one autoscaler, which alone sets its replicas, and one disruption budget."""
    scalers = {}
    for scaler in all.kind("HorizontalPodAutoscaler", "ScaledObject"):
        target = scaler["spec"]["scaleTargetRef"]
        scalers.setdefault(target["name"], []).append(scaler)
        wanted = f"{target.get('kind', 'Deployment')}/{target['name']}"
        if wanted not in map(title, all.workloads):
            yield f"{title(scaler)}: there is no {wanted} to scale"
        if scaler["kind"] == "ScaledObject" and scaler["spec"].get("maxReplicaCount", 100) > PARTITIONS:
            yield f"{title(scaler)}: has more replicas than the {PARTITIONS} partitions; the rest would be idle"
    for workload in all.kind("Deployment"):
        name = workload["metadata"]["name"]
        if len(scalers.get(name, [])) != 1:
            yield f"{title(workload)}: is scaled by {[title(scaler) for scaler in scalers.get(name, [])]}"
        elif "replicas" in workload["spec"]:
            yield f"{title(workload)}: replicas are set by {title(scalers[name][0])}"
        budgets = [budget for budget in all.kind("PodDisruptionBudget") if workload in all.pods(budget["spec"]["selector"])]
        if len(budgets) != 1:
            yield f"{title(workload)}: has {len(budgets)} disruption budgets"


def connected_services(all):
    """A Service's port is the port of exactly one workload."""
    for service in all.kind("Service"):
        selected = all.pods(service["spec"].get("selector", {}))
        ports = {port.get("name") for workload in selected for container in containers(workload) for port in container.get("ports", [])}
        for port in service["spec"]["ports"]:
            if len(selected) != 1 or port["targetPort"] not in ports:
                yield f"{title(service)}: {port['targetPort']} is a port of no workload, or of several: {[title(one) for one in selected]}"


def secrets(all):
    """The Secrets of the rendering, and those that operators create."""
    made = {f"{name}-app" for name in all.names("Cluster")} | all.names("KafkaUser")
    return all.names("Secret") | made | {f"{name}-cluster-ca-cert" for name in all.names("Kafka")}


def existing_settings(all):
    """Settings come from existing ConfigMaps and Secrets. A rendering without Secrets is the base; its overlays add them."""
    maps, known = all.names("ConfigMap"), secrets(all)
    for workload in all.workloads:
        for container in containers(workload):
            sources = [source for source in container.get("envFrom", [])]
            sources += [variable["valueFrom"] for variable in container.get("env", []) if "valueFrom" in variable]
            for source in sources:
                wanted = source.get("configMapRef") or source.get("configMapKeyRef")
                if wanted and wanted["name"] not in maps:
                    yield f"{title(workload)}: there is no ConfigMap {wanted['name']}"
                wanted = source.get("secretRef") or source.get("secretKeyRef")
                if wanted and known and not wanted.get("optional") and wanted["name"] not in known:
                    yield f"{title(workload)}: there is no Secret {wanted['name']}"
            yield from undefined_variables(workload, container)


def mountable_volumes(all):
    """Mounted volumes exist, and all pods of a workload can mount them. Folders that a service writes to are mounted."""
    claims = {claim["metadata"]["name"]: claim for claim in all.kind("PersistentVolumeClaim")}
    for workload in all.workloads:
        volumes = {volume["name"]: volume for volume in pod(workload).get("volumes", [])}
        for volume in volumes.values():
            name = volume.get("persistentVolumeClaim", {}).get("claimName")
            if name and name not in claims:
                yield f"{title(workload)}: there is no PersistentVolumeClaim {name}"
            elif name and claims[name]["spec"]["accessModes"] != ["ReadWriteMany"]:
                yield f"{title(workload)}: {name} can't be mounted by the pods of several nodes"
        own = {template["metadata"]["name"] for template in workload["spec"].get("volumeClaimTemplates", [])}
        for container in containers(workload):
            mounts = container.get("volumeMounts", [])
            for mount in mounts:
                if mount["name"] not in volumes.keys() | own:
                    yield f"{title(workload)}: there is no volume {mount['name']}"
            writable = {mount["mountPath"] for mount in mounts if not mount.get("readOnly")}
            for variable in container.get("env", []):
                if variable["name"].endswith("_DIR") and variable.get("value") not in writable:
                    yield f"{title(workload)}: {variable['name']} is {variable.get('value')}, which is not writable"


def undefined_variables(workload, container):
    """$(NAME) refers to a variable that is set before."""
    before = set()
    for variable in container.get("env", []):
        for name in re.findall(r"\$\((\w+)\)", variable.get("value", "")):
            if name not in before:
                yield f"{title(workload)}: {variable['name']} uses $({name}), which is not set before it"
        before.add(variable["name"])


RULES = (
    same_namespace,
    pinned_images,
    restricted_pods,
    probed_and_drained,
    scaled_once,
    connected_services,
    existing_settings,
    mountable_volumes,
)


def problems(things):
    all = Rendering(things)
    for rule in RULES:
        yield from rule(all)
