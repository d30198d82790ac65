"""Policy by annotation: refused where it is wrong, live where it is changed."""

import json
import threading
import time

from ..kube import Failed, eventually, expect
from ..load import reachable, status
from ..objects import caller, echo, service, template, workload


def a_mistake_in_an_annotation_is_refused_with_what_to_write(kube):
    namespace = kube.namespace("policy-mistake")
    pod = template("bad", echo(), annotations={"weft.dev/retry.attemps": "3", "weft.dev/timeout": "10"}, serviceAccountName="default")
    pod["metadata"].update(name="bad", namespace=namespace)
    eventually("the namespace has its account", lambda: kube.run("-n", namespace, "get", "serviceaccount", "default"))
    said = kube.run("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "Pod", **pod}), check=False)
    for part in ("inject.weft.dev", "retry.attemps", "did you mean weft.dev/retry.attempts", 'weft.dev/timeout: "10" has no unit'):
        expect(part in said, f"{part!r} is missing in {said!r}")


def a_mistake_on_a_live_object_changes_nothing_and_is_told(kube):
    """What no admission sees, because it is not a pod's: the last good policy stays, and an Event says why."""
    namespace = kube.namespace("policy-live-mistake")
    kube.apply(workload(namespace, "orders", echo(), own={"weft.dev/deny": "[{paths: [/no]}]"}), service(namespace, "orders"),
               caller(namespace))
    kube.available(namespace)
    reachable(kube, namespace, "http://orders/")
    eventually("the policy acts", lambda: status(kube, namespace, "http://orders/no") == "403 authz_denied", 20)
    kube.annotate(f"/apis/apps/v1/namespaces/{namespace}/deployments/orders", deny="[{pathes: [/no]}]")

    def told():
        events = kube.api("GET", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")["items"]
        return [one for one in events if one["reason"] == "BadPolicy" and "pathes" in one["note"]]
    eventually("an Event tells of it", told, 20)
    expect(status(kube, namespace, "http://orders/no") == "403 authz_denied", "the last good policy is gone")


# Where an annotation is set, which, and within how many seconds it has to act on a call.
PLACES = {
    "pod": (None, 5.0),
    "deployment": ("/apis/apps/v1/namespaces/{0}/deployments/orders", 2.0),
    "namespace": ("/api/v1/namespaces/{0}", 2.0),
    "service": ("/api/v1/namespaces/{0}/services/orders", 2.0),
}
CHANGES = 12


def a_changed_annotation_acts_live(kube):
    """From the request that changes it to the first answer that shows it, over and over."""
    namespace = kube.namespace("policy-live")
    kube.apply(workload(namespace, "orders", echo()), service(namespace, "orders"), caller(namespace))
    kube.available(namespace)
    reachable(kube, namespace, "http://orders/")
    told = []
    with Watched(kube, namespace, PLACES) as watched:
        for place, (path, limit) in PLACES.items():
            pod = kube.pods(namespace, "app=orders")[0]["metadata"]["name"]
            path = path or "/api/v1/namespaces/{0}/pods/" + pod
            took = sorted(watched.change(path.format(namespace), place, count) for count in range(CHANGES))
            told.append(f"{place} {took[len(took) // 2]:.2f} s, at most {took[-1]:.2f} s")
            expect(took[-1] <= limit, f"{place}: a change took {took[-1]:.2f} s, more than {limit} s: {took}")
    return "; ".join(told)


class Watched:
    """Calls /PLACE of orders over and over from within a pod, and knows since when each is refused or not."""

    def __init__(self, kube, namespace, places):
        self.kube, self.state, self.changed = kube, {}, threading.Condition()
        calls = " ".join(f"http://orders/{place}" for place in places)
        script = (f"while :; do for url in {calls}; do curl -s -o /dev/null --max-time 5 -w \"$url %{{http_code}}\\n\" $url; done; "
                  "sleep 0.02; done")
        self.process = kube.start("-n", namespace, "exec", "deploy/client", "-c", "client", "--", "sh", "-c", script)
        threading.Thread(target=self.read, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def read(self):
        for line in self.process.stdout:
            url, _, code = line.strip().rpartition(" ")
            with self.changed:
                self.state[url.rpartition("/")[2]] = code, time.monotonic()
                self.changed.notify_all()

    def change(self, path, place, count):
        """Sets or takes away what refuses /PLACE; the seconds until a call shows it."""
        refuse = count % 2 == 0
        if place == "service":
            policy = {"routes": "[{match: /service, redirect: {path: /, status: 302}}]" if refuse else None}
        else:
            policy = {"deny": f"[{{paths: [/{place}]}}]" if refuse else None}
        wanted = ("302" if place == "service" else "403") if refuse else "200"
        began = time.monotonic()
        self.kube.annotate(path, **policy)

        def reached():
            code, at = self.state.get(place, ("", 0.0))
            return code == wanted and at > began
        with self.changed:
            if not self.changed.wait_for(reached, 30):
                raise Failed(f"{place}: a change did not act within 30 s; /{place} is answered {self.state.get(place)}")
            return self.state[place][1] - began


ALL = [a_mistake_in_an_annotation_is_refused_with_what_to_write, a_mistake_on_a_live_object_changes_nothing_and_is_told]
ALONE = [a_changed_annotation_acts_live]
