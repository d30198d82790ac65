"""Software that knows nothing of the mesh: nginx and redis as Debian ships them."""

from ..kube import eventually, expect
from ..load import reachable, status
from ..objects import caller, echo, metadata, service, workload

NGINX = """
daemon off; user root; pid /tmp/nginx.pid; error_log stderr; worker_processes 1;
events {}
http {
  access_log off; client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
  server {
    listen 80;
    location = /page { return 200 "a page\\n"; }
    location /orders/ { proxy_pass http://orders/; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host orders; }
  }
}
"""


def nginx_and_redis_work_under_strict(kube):
    """nginx serves and passes on, redis keeps and publishes; both know only callers with an identity."""
    namespace = kube.namespace("software", annotations={"weft.dev/mtls": "strict"})
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(namespace, "nginx"), "data": {"nginx.conf": NGINX}}
    nginx = {"name": "nginx", "image": "weft.dev/nginx:1", "args": ["-e", "stderr", "-c", "/config/nginx.conf"],
             "ports": [{"containerPort": 80}], "volumeMounts": [{"name": "config", "mountPath": "/config"}],
             "readinessProbe": {"httpGet": {"path": "/page", "port": 80}, "periodSeconds": 1},
             "livenessProbe": {"tcpSocket": {"port": 80}}}
    redis = {"name": "redis", "image": "weft.dev/redis:1", "args": ["--save", "", "--protected-mode", "no"],
             "ports": [{"containerPort": 6379}], "readinessProbe": {"exec": {"command": ["redis-cli", "ping"]}, "periodSeconds": 1},
             "livenessProbe": {"tcpSocket": {"port": 6379}}}
    kube.apply(config, workload(namespace, "nginx", nginx, volumes=[{"name": "config", "configMap": {"name": "nginx"}}]),
               service(namespace, "nginx", target=80), workload(namespace, "redis", redis, kind="StatefulSet"),
               service(namespace, "redis", port=6379, target=6379, port_name="tcp-redis"),
               workload(namespace, "orders", echo()), service(namespace, "orders"), caller(namespace),
               caller(namespace, "outside", labels={"weft.dev/inject": "disabled"}))
    kube.available(namespace)
    web(kube, namespace)
    store(kube, namespace)


def web(kube, namespace):
    reachable(kube, namespace, "http://nginx/page")
    answer = kube.exec(namespace, "deploy/client", "curl", "-s", "http://nginx/orders/7", container="client")
    expect(f"/ns/{namespace}/sa/nginx" in answer, f"orders does not know that nginx calls: {answer}")
    code = status(kube, namespace, "http://nginx/page", "deploy/outside", "outside")
    expect(code == "000", f"a caller without a proxy was answered {code} by nginx")


def store(kube, namespace):
    def cli(*words):
        return kube.exec(namespace, "deploy/shopper", "redis-cli", "-h", "redis", *words, container="redis").strip()
    kube.apply(workload(namespace, "shopper", {"name": "redis", "image": "weft.dev/redis:1", "args": ["--save", ""]}))
    kube.available(namespace)
    eventually("redis answers", lambda: cli("ping") == "PONG", 20)
    expect(cli("set", "loom", "two shuttles") == "OK" and cli("get", "loom") == "two shuttles", "redis does not keep a value")
    subscriber = kube.start("-n", namespace, "exec", "deploy/shopper", "-c", "redis", "--", "redis-cli", "-h", "redis", "subscribe", "news")
    try:
        eventually("the subscriber is there", lambda: cli("publish", "news", "hello") == "1", 20)
        said = "".join(subscriber.stdout.readline() for _ in range(6))
        expect("hello" in said, f"the subscriber was told {said!r}")
    finally:
        subscriber.kill()
    outside = ("curl", "-sS", "--max-time", "3", "telnet://redis:6379")
    said = kube.exec(namespace, "deploy/outside", "sh", "-c", "echo ping | timeout 5 " + " ".join(outside), container="outside", check=False)
    expect("PONG" not in said, "redis answers a caller without a proxy")


ALL = [nginx_and_redis_work_under_strict]
