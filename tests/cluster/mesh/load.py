"""Load whose every request is accounted for: `echo load` in a pod, beside the app `client`."""

import json

from .kube import Failed, eventually, expect


class Load:
    """Runs while the scenario does something to what is called; `ended` says what became of the requests.

    GET: a POST may meet a kept connection at the moment in which an app that ends closes it, before its proxy is told that the pod ends, and
    nobody may send it twice.
    """

    def __init__(self, kube, namespace, url, seconds, *options, clients=4):
        command = ("-n", namespace, "exec", "deploy/client", "-c", "load", "--",
                   "echo", "load", "-method", "GET", "-d", f"{seconds}s", "-c", str(clients), *options, url)
        self.process = kube.start(*command)

    def ended(self):
        output, _ = self.process.communicate(timeout=300)
        try:
            return json.loads(output.strip().splitlines()[-1])
        except (ValueError, IndexError):
            raise Failed(f"the load ended with {output!r}") from None

    def lost_nothing(self, *versions):
        """Every request was answered with 200, by all of `versions` if there are any."""
        seen = self.ended()
        wanted = {f"200 {version}".strip() for version in versions or ("",)}
        expect(not seen["errors"] and set(seen["answers"]) == wanted, f"expected only {wanted}: {seen}")
        expect(sum(seen["answers"].values()) == seen["sent"] > 100, f"the load was none: {seen}")
        return seen


def reachable(kube, namespace, url, caller="deploy/client", container="client"):
    """Waits until a call is answered with 200."""
    def code():
        return status(kube, namespace, url, caller, container) == "200"
    eventually(f"{caller} gets an answer from {url}", code)


def status(kube, namespace, url, caller="deploy/client", container="client", *options):
    """The status of a call, with the mesh's reason where it refused; 000 where no answer came."""
    form = "%{http_code} %header{x-weft-reject}\n"
    command = ("curl", "-s", "-o", "/dev/null", "--max-time", "5", "-w", form, *options, url)
    return kube.exec(namespace, caller, *command, container=container, check=False).splitlines()[0].strip()
