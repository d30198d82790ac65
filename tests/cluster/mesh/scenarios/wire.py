"""What is on the wire between two pods, seen by tcpdump beside the called app."""

import subprocess

from .. import pcap
from ..kube import Failed, eventually, expect
from ..load import reachable
from ..objects import caller, echo, service, tools, workload

MARK = "open-sesame-4711"


def traffic_between_pods_is_mutual_tls_on_the_wire(kube):
    """All bytes between pods of the mesh are TLS records, on the app's own port; the same call from outside can be read."""
    namespace = kube.namespace("wire")
    capture = tools("wire", ("tcpdump", "-i", "eth0", "-s", "0", "-U", "-Z", "root", "-w", "/tmp/wire.pcap", "tcp"))
    kube.apply(workload(namespace, "orders", echo(), capture), service(namespace, "orders"), caller(namespace),
               caller(namespace, "outside", labels={"weft.dev/inject": "disabled"}))
    kube.available(namespace)
    reachable(kube, namespace, "http://orders/")
    address = {name: kube.pods(namespace, f"app={name}")[0]["status"]["podIP"] for name in ("client", "outside", "orders")}
    for name in ("client", "outside"):
        answer = kube.exec(namespace, f"deploy/{name}", "curl", "-s", "-H", f"x-mark: {MARK}", "http://orders/", container=name)
        expect(MARK in answer, f"{name} was answered {answer!r}")

    def captured():
        command = ["kubectl", "-n", namespace, "exec", "deploy/orders", "-c", "wire", "--", "cat", "/tmp/wire.pcap"]
        found = pcap.streams(subprocess.run(command, env=kube.env, stdout=subprocess.PIPE, timeout=60).stdout)
        return found if any(flow[0] == address["outside"] for flow in found) else None
    found = eventually("the call from outside is captured", captured)

    def between(one):
        pair = {address[one], address["orders"]}
        return {flow: sent for flow, sent in found.items() if {flow[0], flow[2]} == pair}
    meshed, outside = between("client"), between("outside")
    expect(any(MARK.encode() in sent for sent in outside.values()), "the capture does not show even plain text")
    expect(meshed, "nothing was captured between the pods of the mesh")
    for flow, sent in meshed.items():
        if MARK.encode() in sent or not pcap.is_tls(sent):
            raise Failed(f"plain text from {flow[0]}:{flow[1]} to {flow[2]}:{flow[3]}: {sent[:80]!r}")
    ports = {flow[3] for flow in meshed if flow[2] == address["orders"]}
    expect(ports == {8080}, f"the app's port 8080 is what a NetworkPolicy would see, but there was {ports}")
    return f"{len(meshed)} streams, {sum(map(len, meshed.values()))} bytes, all TLS records"


ALL = [traffic_between_pods_is_mutual_tls_on_the_wire]
