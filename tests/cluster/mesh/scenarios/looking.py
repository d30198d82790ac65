"""What `weft top`, `edges`, `tap`, `trace` and `dashboard` show of a namespace, asked through kubectl as an operator asks."""

import json
import re
import subprocess
import urllib.request

from ..kube import Failed, eventually, expect
from ..load import Load, reachable, status
from ..objects import caller, echo, service, workload

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def every_command_shows_a_namespace(kube):
    namespace = kube.namespace("looking")
    kube.apply(workload(namespace, "orders", echo(), annotations={"weft.dev/deny": "[{paths: [/no]}]"}), service(namespace, "orders"),
               caller(namespace))
    kube.available(namespace)
    reachable(kube, namespace, "http://orders/")
    load = Load(kube, namespace, "http://orders/", 20)
    identity = f"spiffe://cluster.local/ns/{namespace}/sa/"
    edge = eventually("an edge is known at both of its ends", lambda: edge_of(kube, namespace, identity), 15)
    expect(edge["mutual_tls"] and edge["requests"] > 0, f"the edge is {edge}")
    top = asked(kube, "top", namespace, "--looks", "2").strip().splitlines()
    orders = next(one for one in json.loads(top[-1]) if one["service"] == "orders")
    expect(orders["rate"] > 1 and orders["success"] == 1 and orders["p99_ms"] > 0, f"top says {orders}")
    shows_a_refusal(kube, namespace)
    shows_a_trace(kube, namespace)
    serves_the_page(kube, namespace)
    load.lost_nothing()
    return f"{orders['rate']:.0f} requests a second, p99 {orders['p99_ms']:.1f} ms"


def asked(kube, command, namespace, *args):
    return kube.mesh(command, "--namespace", namespace, "--output", "json", *args)


def edge_of(kube, namespace, identity):
    edges = json.loads(asked(kube, "edges", namespace))
    ends = (identity + "client", identity + "orders")
    return next((one for one in edges if (one["source_identity"], one["destination_identity"]) == ends), None)


def shows_a_refusal(kube, namespace):
    """`tap` says why, while it happens."""
    calls = "for call in $(seq 60); do curl -s -o /dev/null http://orders/no; sleep 0.2; done"
    refused = kube.start("-n", namespace, "exec", "deploy/client", "-c", "client", "--", "sh", "-c", calls)
    try:
        passed = json.loads(asked(kube, "tap", namespace, "orders", "--failed", "--seconds", "4").splitlines()[0])
        expect((passed["reject"], passed["path"], passed["status"]) == ("authz_denied", "/no", 403), f"tap shows {passed}")
    finally:
        refused.kill()
        refused.communicate()


def shows_a_trace(kube, namespace):
    """Refused requests are kept, sampled or not."""
    status(kube, namespace, "http://orders/no", "deploy/client", "client", "-H", f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01")
    spans = eventually("the trace is known", lambda: json.loads(asked(kube, "trace", namespace, TRACE)), 10)
    expect(len(spans) >= 2, f"a call has two spans: {spans}")


def serves_the_page(kube, namespace):
    page = subprocess.Popen([kube.weft, "dashboard", "--namespace", namespace, "--listen", "127.0.0.1:0"],
                            env=kube.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said = page.stdout.readline()
        address = re.search(r"http://[0-9.:]+", said)
        if not address:
            raise Failed(f"dashboard said {said!r}")
        def mesh():
            with urllib.request.urlopen(address.group(0) + "/api/mesh", timeout=5) as answer:
                return "orders" in answer.read().decode()
        eventually("the page knows the service", mesh, 10)
    finally:
        page.kill()
        page.communicate()


ALL = [every_command_shows_a_namespace]
