"""The files of an image, flattened, and how two images differ.

Compared are type, mode, owner, link target, device, capability and the digest of the content; times are not. The layers that
two images have in common, those of the base, are read once.
"""

import gzip
import hashlib
import json
import tarfile

EMPTY = hashlib.sha256().hexdigest()
CAPABILITY = "SCHILY.xattr.security.capability"
# What builders add to a config by themselves.
LABELS = ("io.buildah.version",)
KEYS = ("ArgsEscaped",)
# Points of mounts: some builders leave those that the image did not have, empty, and others remove them.
POINTS = ("dev", "proc", "sys", "run", "etc/hosts", "etc/hostname", "etc/resolv.conf")


class Images:
    """Reads images of one registry."""

    def __init__(self, registry):
        self.registry = registry
        self.layers = {}

    def flatten(self, repository, tag):
        """All files of an image by path, and what its config says about running it."""
        manifest = self.registry.manifest(repository, tag)
        with self.registry.blob(repository, manifest["config"]["digest"]) as answer:
            config = json.load(answer)
        tree = {}
        for number, layer in enumerate(manifest["layers"]):
            # Layers of the base are shared by everything that is compared; others are read once only.
            entries = self.layers.get(layer["digest"])
            if entries is None:
                entries = self.read(repository, layer)
                if number < 8:
                    self.layers[layer["digest"]] = entries
            apply(tree, entries)
        return tree, settings(config)

    def read(self, repository, layer):
        with self.registry.blob(repository, layer["digest"]) as answer:
            stream = gzip.GzipFile(fileobj=answer) if layer["mediaType"].endswith("gzip") else answer
            with tarfile.open(fileobj=stream, mode="r|", errorlevel=1) as reader:
                return [describe(reader, info) for info in reader]


def describe(reader, info):
    name = info.name.removeprefix("./").strip("/")
    if info.islnk():
        return name, ("hard link", info.linkname.removeprefix("./").strip("/"))
    kind = {tarfile.DIRTYPE: "directory", tarfile.SYMTYPE: "link", tarfile.FIFOTYPE: "pipe"}.get(info.type, "file")
    if info.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        kind = f"device {info.type!r} {info.devmajor}:{info.devminor}"
    content = ""
    if info.isreg():
        content = hashlib.file_digest(reader.extractfile(info), "sha256").hexdigest()
    elif info.issym():
        content = info.linkname
    # A link's own mode means nothing.
    mode = 0 if info.issym() else info.mode & 0o7777
    return name, (kind, mode, info.uid, info.gid, content, info.pax_headers.get(CAPABILITY, ""))


def apply(tree, entries):
    """Puts a layer on top: what it removes of the layers below, then what it brings."""
    for name, _ in entries:
        directory, _, last = name.rpartition("/")
        if last == ".wh..wh..opq":
            remove_below(tree, directory)
        elif last.startswith(".wh."):
            gone = f"{directory}/{last[4:]}" if directory else last[4:]
            if tree.pop(gone, ("absent",))[0] == "directory":
                remove_below(tree, gone)
    for name, value in entries:
        if name.rpartition("/")[2].startswith(".wh.") or not name:
            continue
        if value[0] == "hard link":
            value = tree[value[1]]
        old = tree.get(name)
        if old and old[0] == "directory" and value[0] != "directory":
            remove_below(tree, name)
        tree[name] = value


def remove_below(tree, directory):
    prefix = f"{directory}/" if directory else ""
    for name in [name for name in tree if name.startswith(prefix)]:
        del tree[name]


def settings(config):
    found = {key: value for key, value in config.get("config", {}).items() if value and key not in KEYS}
    labels = {key: value for key, value in found.pop("Labels", {}).items() if key not in LABELS}
    return {**found, "Labels": labels}


def is_empty(tree, name):
    """Whether there is nothing: neither a content nor anything below."""
    kind, _, _, _, content, _ = tree.get(name, ("absent", 0, 0, 0, "", ""))
    nothing = kind in ("absent", "directory") or (kind == "file" and content in ("", EMPTY))
    return nothing and not any(path.startswith(f"{name}/") for path in tree)


def differences(one, other):
    """Lines that say how two flattened images differ."""
    (tree, config), (other_tree, other_config) = one, other
    lines = []
    points = {name for name in POINTS if is_empty(tree, name) and is_empty(other_tree, name)}
    for name in sorted((tree.keys() | other_tree.keys()) - points):
        if tree.get(name) != other_tree.get(name):
            lines.append(f"/{name}: {tree.get(name, 'absent')} / {other_tree.get(name, 'absent')}")
    for key in sorted(config.keys() | other_config.keys()):
        if config.get(key) != other_config.get(key):
            lines.append(f"config {key}: {config.get(key)} / {other_config.get(key)}")
    return lines
