"""Installs the mesh as a user does, and takes it away."""

import os

from . import conformance
from .kube import eventually, expect

SYSTEM = "weft-system"


def mesh(kube, options):
    """`weft install | kubectl apply -f -`, until all of it is ready."""
    conformance.definitions(kube)
    image = ["--image", options.image] if options.image else []
    kube.run("apply", "-f", "-", stdin=kube.mesh("install", *image))
    kube.available(SYSTEM)
    return kube.run("-n", SYSTEM, "get", "pods", "-o", "name").count("pod/"), "pods"


def remove(kube):
    """`weft uninstall | kubectl delete -f -`; nothing of it is left."""
    kube.run("delete", "-f", "-", "--ignore-not-found", stdin=kube.mesh("uninstall"))
    def gone():
        return SYSTEM not in kube.run("get", "namespaces", "-o", "name")
    eventually("the namespace is gone", gone, 90)
    left = kube.run("get", "clusterroles,clusterrolebindings,mutatingwebhookconfigurations", "-o", "name", "-l", "app.kubernetes.io/part-of=weft")
    expect(not left.strip(), f"left behind: {left}")
