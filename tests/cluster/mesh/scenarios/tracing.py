"""The hops of a request in a real Jaeger. Deploys what examples/tracing does, and looks closer."""

import json

from ..examples import walk
from ..kube import eventually, expect

TRACE = "0af7651916cd43dd8448eb211c80319c"
HOPS = [("client", "client"), ("web", "server"), ("web", "client"), ("orders", "server"), ("orders", "client"), ("users", "server")]


def every_hop_of_a_request_is_a_span_below_the_one_before(kube):
    walk(kube, "tracing")
    query = ("curl", "-s", f"http://jaeger:16686/api/traces/{TRACE}")

    def trace():
        found = json.loads(kube.exec("tracing", "deploy/client", *query, container="client"))["data"]
        return found[0] if found and len(found[0]["spans"]) >= len(HOPS) else None
    trace = eventually("Jaeger has the trace", trace, 30)
    named = {span["spanID"]: span for span in trace["spans"]}
    last = next(span for span in trace["spans"] if hop(trace, span) == HOPS[-1])
    path = []
    while last:
        path.insert(0, hop(trace, last))
        parents = [one["spanID"] for one in last["references"]]
        last = named.get(parents[0]) if parents else None
    expect(path == HOPS, f"the spans lead over {path}, not over {HOPS}")
    return " > ".join(f"{service} {kind}" for service, kind in path)


def hop(trace, span):
    kind = next(tag["value"] for tag in span["tags"] if tag["key"] == "span.kind")
    return trace["processes"][span["processID"]]["serviceName"], kind


ALL = [every_hop_of_a_request_is_a_span_below_the_one_before]
