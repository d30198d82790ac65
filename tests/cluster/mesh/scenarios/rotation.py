"""The mesh gets another root, as an operator does it, while it works."""

import base64
import subprocess

from ..kube import eventually, expect
from ..load import Load
from ..objects import caller, echo, service, workload

SYSTEM = "weft-system"


def root(kube):
    """The root that is signed under, as PEM."""
    secret = kube.api("GET", f"/api/v1/namespaces/{SYSTEM}/secrets/weft-ca")
    return base64.b64decode(secret["data"]["ca.crt"]).decode().strip()


def told(kube, namespace):
    """The roots in a namespace's ConfigMap."""
    return kube.api("GET", f"/api/v1/namespaces/{namespace}/configmaps/weft-ca-root")["data"]["ca.crt"].strip()


def its_root_is_exchanged_and_nothing_is_lost(kube):
    """`weft rotate-root` is interrupted once and goes on; load runs all the while; afterwards new pods start, and only the new root is known."""
    namespace = "rotation"
    kube.namespace(namespace, annotations={"weft.dev/mtls": "strict"})
    kube.apply(workload(namespace, "orders", echo(), replicas=2), service(namespace, "orders"), caller(namespace))
    kube.available(namespace)
    old = root(kube)
    load = Load(kube, namespace, "http://orders/", 420)
    command = [kube.weft, "rotate-root", "--patience", "240"]
    first = subprocess.Popen(command, env=kube.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    eventually("a second root is trusted", lambda: "BEGIN" in told(kube, namespace).replace(old, ""), 30)
    first.kill()
    first.wait()
    status = kube.mesh("rotate-root", "--status")
    expect(status.startswith("1/3"), f"where it stands: {status}")
    done = subprocess.run(command, env=kube.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    expect(done.returncode == 0, f"weft rotate-root: {done.stdout}")
    new = root(kube)
    expect(new != old, "the root is the same")
    for one in (namespace, SYSTEM):
        expect(told(kube, one) == new, f"{one} is told of {told(kube, one)}")
    kube.run("-n", namespace, "rollout", "restart", "deployment/orders")
    kube.available(namespace)
    return f"{load.lost_nothing()['sent']} requests"


ALONE = [its_root_is_exchanged_and_nothing_is_lost]
