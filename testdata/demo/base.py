#!/usr/bin/env python3
"""Makes a base image, Debian 12 with a C compiler, from Debian packages: an OCI layout in the directory given.

Does nothing where the layout is already there.
"""
import gzip
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

SUITE = "bookworm"
PACKAGES = "gcc,libc6-dev"
LEFT_OUT = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"]
OCI = "application/vnd.oci.image."


class Hashed:
    """A file that knows the digest and the size of what was written to it."""

    def __init__(self, file):
        self.file, self.sha256, self.size = file, hashlib.sha256(), 0

    def write(self, data):
        self.sha256.update(data)
        self.size += len(data)
        return self.file.write(data)

    def flush(self):
        self.file.flush()

    def digest(self):
        return "sha256:" + self.sha256.hexdigest()


def main(out: pathlib.Path) -> None:
    if (out / "index.json").is_file():
        return
    unfinished = out.with_name(out.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    blobs = unfinished / "blobs/sha256"
    blobs.mkdir(parents=True)

    def add(document: dict, media_type: str) -> dict:
        data = json.dumps(document).encode()
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(data)}

    # The packages' own files only: what describes this machine or this moment stays out of the image.
    command = ["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", "--format=tar", "--quiet"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    command += [
        '--customize-hook=rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin "$1"/var/log/apt'
        ' "$1"/etc/resolv.conf "$1"/etc/hostname',
        SUITE,
        "-",
    ]
    with open(blobs / "layer", "wb") as file:
        compressed = Hashed(file)
        with gzip.GzipFile(fileobj=compressed, mode="wb", compresslevel=1, mtime=0, filename="") as packed:
            plain = Hashed(packed)
            tar = subprocess.Popen(command, stdout=subprocess.PIPE)
            shutil.copyfileobj(tar.stdout, plain, 1 << 20)
            if tar.wait() != 0:
                sys.exit(f"mmdebstrap failed with status {tar.returncode}")
    (blobs / "layer").rename(blobs / compressed.digest().removeprefix("sha256:"))

    config = {
        "architecture": subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip(),
        "os": "linux",
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["bash"]},
        "rootfs": {"type": "layers", "diff_ids": [plain.digest()]},
        "history": [{"created_by": f"mmdebstrap --variant=minbase --include={PACKAGES} {SUITE}"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI + "manifest.v1+json",
        "config": add(config, OCI + "config.v1+json"),
        "layers": [{"mediaType": OCI + "layer.v1.tar+gzip", "digest": compressed.digest(), "size": compressed.size}],
    }
    image = dict(add(manifest, OCI + "manifest.v1+json"), annotations={"org.opencontainers.image.ref.name": "latest"})
    (unfinished / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (unfinished / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [image]}))
    os.rename(unfinished, out)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
