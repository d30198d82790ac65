"""The network around the mesh: names over TCP and from a node-local server, and port rules of a NetworkPolicy."""

import contextlib

from ..kube import Skipped, eventually, expect
from ..load import reachable, status
from ..objects import caller, echo, metadata, service, workload


def names_are_found_over_tcp_and_by_a_node_local_server(kube):
    """Over TCP a lookup goes through the proxy, to a Service or to an address that is nobody's in the mesh."""
    namespace = kube.namespace("dns")
    search = [f"{namespace}.svc.cluster.local", "svc.cluster.local", "cluster.local"]
    options = [{"name": "ndots", "value": "5"}, {"name": "use-vc"}]
    ways = {"tcp": {"dnsConfig": {"options": [{"name": "use-vc"}]}}}
    if kube.node:
        local = {"nameservers": [kube.node.local_dns], "searches": search}
        ways["node-local"] = {"dnsPolicy": "None", "dnsConfig": {**local, "options": options[:1]}}
        ways["node-local-tcp"] = {"dnsPolicy": "None", "dnsConfig": {**local, "options": options}}
    kube.apply(workload(namespace, "orders", echo()), service(namespace, "orders"),
               *(caller(namespace, name, **pod) for name, pod in ways.items()))
    kube.available(namespace)
    for name in ways:
        for url in ("http://orders/", f"http://orders.{namespace}.svc.cluster.local/"):
            reachable(kube, namespace, url, f"deploy/{name}", name)
    return ", ".join(ways)


def a_port_rule_of_a_network_policy_keeps_its_meaning(kube):
    """What closes 9090 of a pod closes it for callers with a proxy too, and leaves 8080 open."""
    namespace = kube.namespace("port-rules")
    kube.apply(workload(namespace, "orders", echo(), echo("second", 9090)), service(namespace, "orders"),
               service(namespace, "second", target=9090, selector={"app": "orders"}), caller(namespace))
    kube.available(namespace)
    for url in ("http://orders/", "http://second/"):
        reachable(kube, namespace, url)
    address = kube.pods(namespace, "app=orders")[0]["status"]["podIP"]
    with closed(kube, namespace, address):
        def refused():
            return status(kube, namespace, "http://second/").split()[0] in ("000", "502", "503", "504")
        eventually("9090 is closed", refused, 30)
        expect(status(kube, namespace, "http://orders/") == "200", "8080 is closed as well")
    reachable(kube, namespace, "http://second/")


@contextlib.contextmanager
def closed(kube, namespace, address):
    """Has only 8080 of the app open: by a NetworkPolicy, or on a node whose network knows none by what would come of it."""
    if kube.node:
        rule = f"ether type ip ip daddr {address} tcp dport 9090 drop"
        kube.node.inside("nft", f"table bridge weft-test {{ chain forward {{ type filter hook forward priority 0; {rule}; }}; }}")
        try:
            yield
        finally:
            kube.node.inside("nft", "delete table bridge weft-test")
        return
    policy = {"podSelector": {"matchLabels": {"app": "orders"}}, "ingress": [{"ports": [{"port": 8080}, {"port": 15021}]}]}
    kube.apply({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata(namespace, "only-8080"), "spec": policy})
    try:
        outside = kube.namespace("port-rules-outside", meshed=False)
        kube.apply(caller(outside))
        kube.available(outside)
        if status(kube, outside, f"http://{address}:9090/").startswith("200"):
            raise Skipped("this cluster's network does not act on NetworkPolicies")
        yield
    finally:
        kube.run("-n", namespace, "delete", "networkpolicy", "only-8080")


ALL = [names_are_found_over_tcp_and_by_a_node_local_server, a_port_rule_of_a_network_policy_keeps_its_meaning]
