"""Installs the mesh as a user does, and takes it away."""

import os
import subprocess

from . import conformance
from .kube import eventually, expect

SYSTEM = "weft-system"
IMAGE = "weft.dev/weft:0.1.0"
ROOTFS = os.path.realpath(os.path.join(os.path.dirname(__file__), "../../../image/rootfs"))


def mesh(kube, options):
    """`weft install | kubectl apply -f -`, until all of it is ready and `weft check` finds nothing."""
    if kube.node:
        image(kube.node, options.target, IMAGE)
    conformance.definitions(kube)
    chosen = ["--image", options.image] if options.image else []
    kube.run("apply", "-f", "-", stdin=kube.mesh("install", *chosen))
    kube.available(SYSTEM)
    kube.mesh("check")


def image(node, target, *names):
    """Makes the image that ships, of the same list of files, from the programs in `target`."""
    folder = os.path.join(node.work, "rootfs")
    if not os.path.isdir(folder):
        subprocess.run([ROOTFS, target, folder], check=True, stdin=subprocess.DEVNULL)
    for name in names:
        node.image(name, "--rootfs", folder, "--entrypoint", "/usr/local/bin/weft-proxy", "--user", "65532:65532")


def remove(kube):
    """`weft uninstall | kubectl delete -f -`; nothing of it is left."""
    kube.run("delete", "--ignore-not-found", "-f", "-", stdin=kube.mesh("uninstall"))
    eventually("the namespace is gone", lambda: SYSTEM not in kube.run("get", "namespaces", "-o", "name"), 90)
    kinds = "clusterroles,clusterrolebindings,mutatingwebhookconfigurations,priorityclasses"
    left = [name for name in kube.run("get", kinds, "-o", "name").split() if "/weft-" in name]
    expect(not left, f"left behind: {left}")
