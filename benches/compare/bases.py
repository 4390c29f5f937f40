"""Base images, made of Debian's packages or of BusyBox, and kept as blobs.

A base that stands on another has its files in a layer, or several, of its own, as images from a registry have.
"""

import gzip
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tarfile

from workloads import TIME

SUITE = "bookworm"
# What is in each base beside the essential packages.
PACKAGES = {
    "debian": [],
    "python": ["python3", "python3-pip", "ca-certificates"],
    # Most of what the base of Docker's own image of GCC has.
    "gcc": """autoconf automake ca-certificates curl file g++ gcc gfortran git libbz2-dev libcurl4-openssl-dev libffi-dev
        libglib2.0-dev libgmp-dev libjpeg-dev libkrb5-dev liblzma-dev libncurses-dev libpng-dev libpq-dev libreadline-dev
        libsqlite3-dev libssl-dev libtool libwebp-dev libxml2-dev libxslt1-dev libyaml-dev make mercurial patch subversion
        unzip xz-utils zlib1g-dev""".split(),
    "node": ["nodejs", "ca-certificates"],
}
# Uncompressed bytes after which a base begins its next layer.
LAYER_BYTES = 160 << 20
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def make(directory, real, names):
    """Gives the layers of these bases: name to pairs of a compressed tar and its diff id. What was made once is used again."""
    os.makedirs(directory, exist_ok=True)
    bases = {"busybox": kept(directory, "busybox", lambda prefix: [busybox(prefix)])}
    if not real:
        return {name: bases["busybox"] for name in names}
    debian = os.path.join(directory, "debian.tar")
    # Debian first: the others stand on it.
    for name, packages in PACKAGES.items():
        if name not in names and (packages or names == {"busybox"}):
            continue

        def layers(prefix, packages=packages):
            whole = debian if not packages else f"{prefix}.tar"
            bootstrap(whole, packages)
            if not os.path.exists(debian):
                bootstrap(debian, [])
            tars = split(whole, debian if packages else None, prefix)
            if packages:
                os.remove(whole)
            return tars

        own = kept(directory, name, layers)
        bases[name] = bases["debian"] + own if packages else own
    return {name: bases[name] for name in names}


def kept(directory, name, layers):
    """The blobs of `name`, made if they are not there yet."""
    done = os.path.join(directory, f"{name}.json")
    if not os.path.exists(done):
        blobs = [compress(tar) for tar in layers(os.path.join(directory, name))]
        with open(done, "w", encoding="ascii") as file:
            json.dump([[os.path.basename(path), diff_id] for path, diff_id in blobs], file)
    with open(done, encoding="ascii") as file:
        return [(os.path.join(directory, path), diff_id) for path, diff_id in json.load(file)]


def compress(tar):
    """The tar as a blob beside it, without name and time: the same each time. The tar is removed."""
    diff_id = hashlib.sha256()
    path = f"{tar}.gz"
    with open(path, "wb") as blob, open(tar, "rb") as source:
        with gzip.GzipFile(filename="", fileobj=blob, mode="wb", compresslevel=6, mtime=0) as writer:
            while block := source.read(1 << 20):
                diff_id.update(block)
                writer.write(block)
    os.remove(tar)
    return path, f"sha256:{diff_id.hexdigest()}"


def push(registry, layers):
    """Puts the bases where the Dockerfiles look for them."""
    config = {"architecture": ARCHITECTURES.get(platform.machine(), platform.machine()), "config": {"Env": [PATH], "Cmd": ["sh"]}}
    for name, blobs in layers.items():
        if registry.manifest(f"base/{name}", "1") is None:
            registry.put_image(f"base/{name}", "1", blobs, config)


def busybox(prefix):
    tar = f"{prefix}.0.tar"
    binary = shutil.which("busybox")
    if binary is None:
        raise SystemExit("busybox is missing: apt-get install busybox-static")
    names = subprocess.run([binary, "--list"], check=True, capture_output=True, text=True).stdout.split()
    with tarfile.open(tar + ".part", "w", format=tarfile.PAX_FORMAT) as writer:
        for name in ["bin", "etc", "tmp", "usr", "usr/bin", "usr/lib", "root"]:
            writer.addfile(entry(name, tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755))
        file = entry("bin/busybox", tarfile.REGTYPE, 0o755)
        file.size = os.path.getsize(binary)
        with open(binary, "rb") as source:
            writer.addfile(file, source)
        for name in names:
            if name != "busybox":
                link = entry(f"bin/{name}", tarfile.LNKTYPE, 0o755)
                link.linkname = "bin/busybox"
                writer.addfile(link)
    os.rename(tar + ".part", tar)
    return tar


def entry(name, kind, mode):
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, mode, TIME
    return info


def bootstrap(tar, packages):
    command = [
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        "--format=tar",
        '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        f"--include={','.join(packages)}" if packages else "--include=base-files",
        SUITE,
        tar + ".part",
    ]
    subprocess.run(command, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": str(TIME)})
    os.rename(tar + ".part", tar)


def split(whole, below, prefix):
    """Writes what `whole` has and `below` has not as tars of limited size; gives their paths."""
    known = {}
    if below:
        with tarfile.open(below) as reader:
            for info in reader:
                known[info.name] = fingerprint(reader, info)
    paths, writer, written = [], None, 0
    with tarfile.open(whole) as reader:
        for info in reader:
            # Devices of the machine that made it, which no image brings.
            if info.name.startswith("./dev/") or known.get(info.name) == fingerprint(reader, info):
                continue
            if writer is None or (written > LAYER_BYTES and not info.islnk()):
                if writer:
                    writer.close()
                paths.append(f"{prefix}.{len(paths)}.tar")
                writer, written = tarfile.open(paths[-1], "w", format=tarfile.PAX_FORMAT), 0
            info.name = info.name.removeprefix("./")
            info.linkname = info.linkname.removeprefix("./") if info.islnk() else info.linkname
            if info.name == ".":
                continue
            writer.addfile(info, reader.extractfile(info) if info.isreg() else None)
            written += info.size + 512
    writer.close()
    return paths


def fingerprint(reader, info):
    content = hashlib.sha256(reader.extractfile(info).read()).digest() if info.isreg() else b""
    return (info.type, info.mode, info.uid, info.gid, info.linkname, content)
