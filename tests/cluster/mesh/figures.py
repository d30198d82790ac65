"""Figures of a running mesh: how long a pod takes to start, an admission, and what each part needs of memory."""

import re
import time

from .kube import eventually
from .objects import echo, template

SAMPLES = 7


def start_up(kube):
    """Median seconds from the making of a pod to its being ready, with a proxy and without."""
    told = {}
    for meshed in (True, False):
        namespace = kube.namespace("figures-" + ("with" if meshed else "without"), meshed=meshed)
        eventually("the namespace has its account", lambda: kube.run("-n", namespace, "get", "serviceaccount", "default"))
        took = sorted(started(kube, namespace, f"pod-{count}") for count in range(SAMPLES))
        told[meshed] = took[len(took) // 2]
    return f"pod start-up: {told[True]:.2f} s with a proxy, {told[False]:.2f} s without (median of {SAMPLES})"


def started(kube, namespace, name):
    pod = template(name, echo(), serviceAccountName="default", terminationGracePeriodSeconds=1)
    pod["spec"]["containers"][0]["image"] = kube.own_images("weft.dev/echo:1")
    pod["metadata"].update(name=name, namespace=namespace)
    path = f"/api/v1/namespaces/{namespace}/pods"
    began = time.monotonic()
    kube.api("POST", path, {"apiVersion": "v1", "kind": "Pod", **pod}, kind="application/json")

    def ready():
        conditions = kube.api("GET", f"{path}/{name}")["status"].get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    eventually(f"{name} is ready", ready, 60, 0.02)
    return time.monotonic() - began


def admission(kube):
    """What the API server waited for the webhook, by its own histogram."""
    text = kube.api("GET", "/metrics")
    name = "apiserver_admission_webhook_admission_duration_seconds"
    rows = re.findall(rf'^{name}_bucket{{([^}}]*name="inject.weft.dev"[^}}]*)}} (\d+)', text, re.MULTILINE)
    buckets = {}
    for labels, count in rows:
        limit = float(re.search('le="([^"]*)"', labels)[1].replace("+Inf", "inf"))
        buckets[limit] = buckets.get(limit, 0) + int(count)
    total = buckets.get(float("inf"), 0)
    if not total:
        return "admission: the API server tells nothing of it"
    def within(share):
        return min(limit for limit, count in buckets.items() if count >= total * share)
    return f"admission: {total} pods, half within {within(0.5)} s, 99% within {within(0.99)} s"


def memory(kube):
    """Working sets in MiB as the kubelet sees them: the control plane by part, proxies by their median."""
    found = {}
    for node in kube.api("GET", "/api/v1/nodes")["items"]:
        summary = kube.api("GET", f"/api/v1/nodes/{node['metadata']['name']}/proxy/stats/summary")
        for pod in summary["pods"]:
            for container in pod.get("containers", []):
                part = container["name"]
                if part == "weft-proxy" or pod["podRef"]["namespace"] == "weft-system":
                    found.setdefault(part, []).append(container["memory"].get("workingSetBytes", 0) / 2**20)
    told = (f"{part} {sorted(sizes)[len(sizes) // 2]:.0f} MiB ({len(sizes)})" for part, sizes in sorted(found.items()))
    return "memory (working set), median: " + ", ".join(told)


ALL = [start_up, admission, memory]
