"""A one-node cluster of our own, as tests/cluster/kubernetes makes it, with the images that the scenarios want."""

import os
import shutil
import subprocess
import tempfile

KUBERNETES = os.path.realpath(os.path.join(os.path.dirname(__file__), "../kubernetes"))
CACHE = os.environ.get("WEFT_CLUSTER_CACHE") or os.path.expanduser("~/.cache/weft-cluster")
BIN = os.path.join(CACHE, "bin")


class Node:
    """Up from its making until `close`."""

    local_dns = "169.254.20.10"

    def __init__(self):
        self.work = tempfile.mkdtemp(prefix="weft-cluster.", dir="/tmp")
        os.chmod(self.work, 0o755)
        self.env = {**os.environ, "WEFT_CLUSTER_STATE": os.path.join(self.work, "state")}
        self.env.setdefault("WEFT_CLUSTER_NET", "10.93")
        self.env.setdefault("WEFT_CLUSTER_NODE", "weft-mesh")
        try:
            self.kubeconfig = self.call("up", "node").strip()
            self.dns = self.serve_local_dns()
        except BaseException:
            self.close()
            raise

    def call(self, program, *args):
        command = [os.path.join(KUBERNETES, program), *args]
        return subprocess.run(command, env=self.env, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True).stdout

    def inside(self, *command):
        """Runs a command in the node's network."""
        net = f"/run/netns/{self.env['WEFT_CLUSTER_NODE']}"
        subprocess.run(["nsenter", f"--net={net}", "--", *command], check=True, stdin=subprocess.DEVNULL)

    def serve_local_dns(self):
        """The node's CoreDNS once more, where clusters have their node-local cache."""
        self.inside("ip", "address", "add", f"{self.local_dns}/32", "dev", "lo")
        with open(os.path.join(self.work, "state/Corefile"), encoding="utf-8") as file:
            zones = file.read().replace(f"bind {self.env['WEFT_CLUSTER_NET']}.0.2", f"bind {self.local_dns}")
        path = os.path.join(self.work, "Corefile")
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(line for line in zones.splitlines() if "ready " not in line))
        net = f"/run/netns/{self.env['WEFT_CLUSTER_NODE']}"
        with open(os.path.join(self.work, "dns.log"), "w", encoding="utf-8") as log:
            return subprocess.Popen(["nsenter", f"--net={net}", "--", os.path.join(BIN, "coredns"), "-conf", path],
                                    stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def image(self, name, *args):
        """Makes an image of files and gives it to the node."""
        self.call("oci-image", name, *args)

    def close(self):
        if getattr(self, "dns", None):
            self.dns.terminate()
            self.dns.wait()
        subprocess.run([os.path.join(KUBERNETES, "down")], env=self.env, check=False, stdin=subprocess.DEVNULL)
        shutil.rmtree(self.work, ignore_errors=True)


def build(*parts):
    """Builds what is not there yet."""
    for part in parts:
        subprocess.run([os.path.join(KUBERNETES, "build"), part], check=True, stdin=subprocess.DEVNULL)
