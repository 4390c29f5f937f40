"""A registry on loopback, behind a proxy that counts what goes through it, and what is in that registry.

The registry is Debian's `docker-registry`. Builders talk to the proxy; the runner itself talks to the registry.
"""

import hashlib
import http.client
import json
import multiprocessing
import os
import re
import socket
import subprocess
import tempfile
import threading
import time

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
ACCEPTED = ", ".join(
    [
        MANIFEST,
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    ]
)
# A line of the registry's access log, as web servers write it.
REQUEST = re.compile(rb'" (\d{3}) \d+ "')


class Traffic:
    """What went over the wire since the counting began."""

    def __init__(self, up=0, down=0, connections=0, requests=0):
        self.up, self.down, self.connections, self.requests = up, down, connections, requests

    def since(self, earlier):
        return Traffic(
            self.up - earlier.up,
            self.down - earlier.down,
            self.connections - earlier.connections,
            self.requests - earlier.requests,
        )


class Registry:
    """A running registry with its proxy; both end with the `with` block."""

    def __init__(self, directory, latency_seconds=0.0):
        self.directory = directory
        self.latency_seconds = latency_seconds

    def __enter__(self):
        os.makedirs(self.directory, exist_ok=True)
        self.port = free_port()
        self.log_path = os.path.join(self.directory, "registry.log")
        configuration = os.path.join(self.directory, "registry.yml")
        with open(configuration, "w", encoding="ascii") as file:
            file.write(
                f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '127.0.0.1:{self.port}'}}\n"
                f"storage: {{filesystem: {{rootdirectory: '{self.directory}/storage'}}, delete: {{enabled: true}}}}\n"
            )
        log = open(self.log_path, "wb")
        self.process = subprocess.Popen(["docker-registry", "serve", configuration], stdout=log, stderr=log)
        log.close()
        wait_for_port(self.port, self.process)
        self.counters = multiprocessing.Array("q", 3)
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.proxy_port = listener.getsockname()[1]
        self.proxy = multiprocessing.Process(
            target=serve_proxy, args=(listener, self.port, self.counters, self.latency_seconds), daemon=True
        )
        self.proxy.start()
        listener.close()
        # What builders call it.
        self.name = f"127.0.0.1:{self.proxy_port}"
        return self

    def __exit__(self, *_):
        self.proxy.terminate()
        self.proxy.join()
        self.process.terminate()
        self.process.wait()

    def traffic(self):
        with open(self.log_path, "rb") as log:
            requests = sum(1 for line in log if REQUEST.search(line))
        with self.counters.get_lock():
            up, down, connections = self.counters
        return Traffic(up, down, connections, requests)

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request(method, path, body=body, headers=headers or {})
        return connection.getresponse()

    def manifest(self, repository, tag):
        """The manifest of an image, or none if there is no such image."""
        answer = self.request("GET", f"/v2/{repository}/manifests/{tag}", headers={"Accept": ACCEPTED})
        body = answer.read()
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise RuntimeError(f"the registry answers {answer.status} for {repository}:{tag}")
        manifest = json.loads(body)
        if "manifests" in manifest:
            # Attestations of BuildKit name the platform unknown.
            images = [entry for entry in manifest["manifests"] if entry.get("platform", {}).get("os") != "unknown"]
            return self.manifest(repository, images[0]["digest"])
        return manifest

    def blob(self, repository, digest):
        """A file object of a blob's bytes."""
        answer = self.request("GET", f"/v2/{repository}/blobs/{digest}")
        if answer.status != 200:
            raise RuntimeError(f"the registry answers {answer.status} for the blob {digest}")
        return answer

    def put_blob(self, repository, file):
        """Stores a file's bytes; gives digest and size."""
        digest, size = hashlib.sha256(), 0
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
        file.seek(0)
        name = f"sha256:{digest.hexdigest()}"
        location = self.request("POST", f"/v2/{repository}/blobs/uploads/", headers={"Content-Length": "0"}).getheader("Location")
        path = re.sub(r"^https?://[^/]+", "", location)
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        answer = self.request("PUT", f"{path}&digest={name}", body=file, headers=headers)
        if answer.status != 201:
            raise RuntimeError(f"the registry answers {answer.status} to the upload of {name}")
        return name, size

    def put_image(self, repository, tag, blobs, config):
        """Stores an image whose layers are these files: pairs of the path of a compressed tar and its diff id."""
        layers, diff_ids = [], []
        for path, diff_id in blobs:
            with open(path, "rb") as blob:
                digest, size = self.put_blob(repository, blob)
            layers.append({"mediaType": LAYER, "digest": digest, "size": size})
            diff_ids.append(diff_id)
        document = {
            "created": "2025-06-15T15:06:40Z",
            "architecture": config["architecture"],
            "os": "linux",
            "config": config["config"],
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created": "2025-06-15T15:06:40Z", "created_by": f"layer {number}"} for number in range(len(blobs))],
        }
        with tempfile.TemporaryFile() as file:
            file.write(json.dumps(document, sort_keys=True).encode())
            file.seek(0)
            digest, size = self.put_blob(repository, file)
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": digest, "size": size},
            "layers": layers,
        }
        body = json.dumps(manifest, sort_keys=True).encode()
        answer = self.request("PUT", f"/v2/{repository}/manifests/{tag}", body=body, headers={"Content-Type": MANIFEST})
        if answer.status != 201:
            raise RuntimeError(f"the registry answers {answer.status} to the manifest of {repository}:{tag}")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_for_port(port, process):
    for _ in range(200):
        if process.poll() is not None:
            raise RuntimeError("docker-registry ended at once; its log is beside its storage")
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("docker-registry does not listen")


def serve_proxy(listener, port, counters, latency_seconds):
    """Passes connections on to `port`: in a process of its own, so that it does not wait for the runner."""
    while True:
        client, _ = listener.accept()
        server = socket.create_connection(("127.0.0.1", port))
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with counters.get_lock():
            counters[2] += 1
        # Which way bytes went last: a request that follows an answer waits for one round trip.
        direction = [None]
        for number, (source, target) in enumerate([(client, server), (server, client)]):
            arguments = (source, target, counters, number, direction, latency_seconds)
            threading.Thread(target=pump, args=arguments, daemon=True).start()


def pump(source, target, counters, number, direction, latency_seconds):
    """Moves bytes by splice(2), without reading them, until the source ends."""
    read_end, write_end = os.pipe()
    try:
        while moved := os.splice(source.fileno(), write_end, 1 << 16):
            if latency_seconds and number == 0 and direction[0] != 0:
                time.sleep(latency_seconds)
            direction[0] = number
            with counters.get_lock():
                counters[number] += moved
            while moved:
                moved -= os.splice(read_end, target.fileno(), moved)
    except OSError:
        pass
    finally:
        os.close(read_end)
        os.close(write_end)
        try:
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass
