"""Pods that come and go while they are called: nothing is lost."""

import re

from ..kube import eventually, expect
from ..load import Load, reachable
from ..objects import caller, echo, service, tools, workload


def a_rolling_restart_loses_nothing(kube):
    """Twice, under requests on kept connections and on fresh ones at the same time."""
    namespace = kube.namespace("rollout")
    kube.apply(workload(namespace, "orders", echo(), replicas=2), service(namespace, "orders"), caller(namespace))
    kube.available(namespace)
    reachable(kube, namespace, "http://orders/")
    loads = [Load(kube, namespace, "http://orders/", 40), Load(kube, namespace, "http://orders/", 40, "-fresh", clients=2)]
    for _ in range(2):
        kube.run("-n", namespace, "rollout", "restart", "deployment/orders")
        kube.available(namespace)
    seen = [load.lost_nothing() for load in loads]
    return f"{sum(one['sent'] for one in seen)} requests, slowest {max(one['slowest_seconds'] for one in seen):.2f} s"


def a_stream_that_runs_is_finished_when_its_pod_ends(kube):
    """The called pod is deleted in the middle of an answer of 12 s; the answer comes to its end."""
    namespace = kube.namespace("drain")
    kube.apply(workload(namespace, "orders", echo()), service(namespace, "orders"), caller(namespace))
    kube.available(namespace)
    reachable(kube, namespace, "http://orders/")
    stream = kube.start("-n", namespace, "exec", "deploy/client", "-c", "client", "--", "curl", "-sSN", "http://orders/?stream=12s")
    expect(stream.stdout.readline() == "line\n", "the stream does not begin")
    pod = kube.pods(namespace, "app=orders")[0]["metadata"]["name"]
    kube.run("-n", namespace, "delete", "pod", pod, "--wait=false")
    lines = stream.communicate(timeout=60)[0].splitlines()
    expect(lines[-1] == "end" and len(lines) > 80, f"the stream broke off after {len(lines)} lines: {lines[-1:]}")
    return f"{len(lines)} lines"


def an_app_that_ends_can_still_call(kube):
    """The proxy of a pod ends after its app, so that the app's last words get through."""
    namespace = kube.namespace("last-words")
    last = 'trap \'sleep 2; curl -s --max-time 5 -w "last words: %{http_code}\\n" -o /dev/null http://orders/; exit 0\' TERM; sleep 86400 & wait'
    kube.apply(workload(namespace, "orders", echo()), service(namespace, "orders"),
               workload(namespace, "client", tools("client", ("sh", "-c", last))))
    kube.available(namespace)
    reachable(kube, namespace, "http://orders/")
    pod = kube.pods(namespace, "app=client")[0]["metadata"]["name"]
    log = kube.start("-n", namespace, "logs", "-f", pod, "-c", "client")
    kube.run("-n", namespace, "delete", "pod", pod, "--wait=false")
    said = log.communicate(timeout=60)[0]
    expect(re.search("last words: 200", said), f"the app's last call failed: {said!r}")


def endpoints_follow_the_replicas(kube):
    """From one replica to four and back, under load; all four get requests."""
    namespace = kube.namespace("scale")
    kube.apply(workload(namespace, "orders", echo()), service(namespace, "orders"), caller(namespace))
    kube.available(namespace)
    reachable(kube, namespace, "http://orders/")
    load = Load(kube, namespace, "http://orders/", 25)
    kube.run("-n", namespace, "scale", "deployment/orders", "--replicas=4")
    kube.available(namespace)

    def answered_by():
        many = "for i in $(seq 40); do curl -s http://orders/; done"
        answers = kube.exec(namespace, "deploy/client", "sh", "-c", many, container="client")
        return len(set(re.findall('"pod":"[^"]*"', answers))) == 4
    eventually("all four replicas answer", answered_by, 15)
    kube.run("-n", namespace, "scale", "deployment/orders", "--replicas=1")
    return f"{load.lost_nothing()['sent']} requests"


ALL = [a_rolling_restart_loses_nothing, a_stream_that_runs_is_finished_when_its_pod_ends, an_app_that_ends_can_still_call,
       endpoints_follow_the_replicas]
