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


def a_mistake_on_a_live_object_is_refused_and_changes_nothing(kube):
    """Also on what is no pod: the workload, the Namespace, the Service."""
    namespace = kube.namespace("policy-live-mistake")
    kube.apply(workload(namespace, "orders", echo(), own={"weft.dev/deny": "[{paths: [/no]}]"}), service(namespace, "orders"),
               caller(namespace))
    kube.available(namespace)
    reachable(kube, namespace, "http://orders/")
    eventually("the policy acts", lambda: status(kube, namespace, "http://orders/no") == "403 authz_denied", 20)
    for kind, mistake in (("deployment/orders", "deny=[{pathes: [/no]}]"), (f"namespace/{namespace}", "mtls=strickt"),
                          ("service/orders", "timeout=10")):
        said = kube.run("-n", namespace, "annotate", "--overwrite", kind, f"weft.dev/{mistake}", check=False)
        expect("denied the request" in said and f"weft.dev/{mistake.split('=')[0]}" in said, f"{kind} took {mistake}: {said}")
    expect(status(kube, namespace, "http://orders/no") == "403 authz_denied", "the last good policy is gone")


# Where an annotation is set, within how many seconds 99% of changes have to act on a call, and how many are made.
PLACES = {
    "pod": (None, 5.0, 12),
    "deployment": ("/apis/apps/v1/namespaces/{0}/deployments/orders", 2.0, 100),
    "namespace": ("/api/v1/namespaces/{0}", 2.0, 100),
    "service": ("/api/v1/namespaces/{0}/services/orders", 2.0, 100),
}


def a_changed_annotation_acts_live(kube):
    """From the request that changes it to the first answer that shows it, over and over."""
    namespace = kube.namespace("policy-live")
    kube.apply(workload(namespace, "orders", echo()), service(namespace, "orders"), caller(namespace))
    kube.available(namespace)
    reachable(kube, namespace, "http://orders/")
    told = []
    with Watched(kube, namespace, PLACES) as watched:
        for place, (path, limit, changes) in PLACES.items():
            pod = kube.pods(namespace, "app=orders")[0]["metadata"]["name"]
            path = path or "/api/v1/namespaces/{0}/pods/" + pod
            took = sorted(watched.change(path.format(namespace), place, count) for count in range(changes))
            half, most = took[len(took) // 2], took[len(took) * 99 // 100]
            told.append(f"{place} {half:.2f} s, 99% within {most:.2f} s")
            expect(most <= limit, f"{place}: a change took {most:.2f} s, more than {limit} s: {took}")
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


ALL = [a_mistake_in_an_annotation_is_refused_with_what_to_write, a_mistake_on_a_live_object_is_refused_and_changes_nothing]
ALONE = [a_changed_annotation_acts_live]
