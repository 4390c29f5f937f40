"""The builders: how each is told to build one workload, and where it keeps what.

A builder is used if its program is found. All get the same Dockerfile, push to the same registry through the same proxy, and
keep what they keep in a directory of the runner's. None touches the state that this machine's user has.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass

# What a state may grow to; only what is used takes room.
DISK_BYTES = 64 << 30


@dataclass(frozen=True)
class Build:
    """One build, as all builders understand it."""

    context: str
    registry: str
    destination: str
    # Of everything that the builder keeps.
    state: str
    # Repository of the cache; none for a build that has none.
    cache: str = ""

    @property
    def registry_argument(self):
        return f"REGISTRY={self.registry}"


class Builder:
    """What all have in common."""

    name = ""
    # Programs that have to be found.
    programs = ()
    # Whether the cache of a build without state is in the registry.
    registry_cache = True

    def available(self):
        return all(shutil.which(program) for program in self.programs)

    def version(self):
        raise NotImplementedError

    def environment(self, _build):
        return clean_environment()

    def commands(self, build):
        """The commands that build and push, one after another."""
        raise NotImplementedError

    def daemon(self, _state):
        """The command of what has to run meanwhile, if there is such."""
        return None

    def await_daemon(self, _state):
        pass


def clean_environment():
    return {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}


def first_line(*command):
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().splitlines()[0]


class Cofferdam(Builder):
    """This project."""

    name = "cofferdam"

    def __init__(self, program):
        self.program = program
        helped = subprocess.run([program, "build", "--help"], check=False, capture_output=True, text=True).stdout
        self.registry_cache = "--cache-repo" in helped

    def available(self):
        return os.path.exists(self.program)

    def version(self):
        return first_line(self.program, "version")

    def commands(self, build):
        cache = ["--cache=true", f"--cache-repo={build.cache}"] if build.cache and self.registry_cache else []
        return [
            [self.program, "build", f"--state-dir={build.state}", f"--build-arg={build.registry_argument}"]
            + [*cache, f"--tag={build.destination}", build.context]
        ]


class Buildah(Builder):
    """Debian's: in a chroot, with overlay storage, keeping the layers."""

    name = "buildah"
    programs = ("buildah",)
    options = ()

    def version(self):
        return first_line("buildah", "--version")

    def commands(self, build):
        os.makedirs(build.state, exist_ok=True)
        policy = os.path.join(build.state, "policy.json")
        with open(policy, "w", encoding="ascii") as file:
            json.dump({"default": [{"type": "insecureAcceptAnything"}]}, file)
        storage = ["buildah", f"--root={build.state}/root", f"--runroot={build.state}/run", "--storage-driver=overlay"]
        cache = [f"--cache-from={build.cache}", f"--cache-to={build.cache}"] if build.cache else []
        return [
            [*storage, "build", "--layers", "--isolation=chroot", "--tls-verify=false", f"--signature-policy={policy}"]
            + [*self.options, *cache, f"--build-arg={build.registry_argument}", f"--tag={build.destination}", build.context],
            [*storage, "push", "--tls-verify=false", f"--signature-policy={policy}", build.destination],
        ]


class BuildahJobs(Buildah):
    """The same, told to build stages side by side, which is not its default."""

    name = "buildah+"
    options = ("--jobs=0",)


class Kaniko(Builder):
    """The executor, with its defaults, in a root directory of its own: it builds in its own `/`."""

    name = "kaniko"
    programs = ("executor", "unshare", "chroot")
    options = ()

    def version(self):
        return first_line(shutil.which("executor"), "version")

    def environment(self, _build):
        return {"PATH": os.environ["PATH"], "HOME": "/root", "SSL_CERT_DIR": "/kaniko/ssl/certs"}

    def commands(self, build):
        root = os.path.join(build.state, "root")
        for directory in ("kaniko/.docker", "proc", "dev", "etc", "tmp", "workspace", "root"):
            os.makedirs(os.path.join(root, directory), exist_ok=True)
        shutil.copy(shutil.which("executor"), os.path.join(root, "kaniko/executor"))
        with open(os.path.join(root, "etc/resolv.conf"), "w", encoding="ascii"):
            pass
        # Mounts of a namespace of its own, which end with it.
        script = (
            'set -e; root=$1; context=$2; shift 2; mount --bind "$context" "$root/workspace"; mount -t proc proc "$root/proc"; '
            'mount --rbind /dev "$root/dev"; mount --make-rslave "$root/dev"; exec chroot "$root" /kaniko/executor "$@"'
        )
        cache = ["--cache=true", f"--cache-repo={build.cache}"] if build.cache else []
        return [
            [shutil.which("unshare"), "--mount", "--pid", "--fork", "--kill-child", "--propagation=private", "sh", "-c", script]
            + ["sh", root, build.context, "--force", "--context=dir:///workspace", f"--destination={build.destination}"]
            + ["--insecure", "--insecure-pull", f"--build-arg={build.registry_argument}", *self.options, *cache]
        ]


class KanikoTuned(Kaniko):
    """With the flags that its users give for speed."""

    name = "kaniko+"
    options = ("--snapshot-mode=redo", "--use-new-run", "--compressed-caching=false", "--skip-unused-stages")


class BuildKit(Builder):
    """Started for the build, as `buildctl-daemonless.sh` does."""

    name = "buildkit"
    programs = ("buildctl-daemonless.sh", "buildctl", "buildkitd")

    def version(self):
        return first_line("buildctl", "--version")

    def configuration(self, state, registry):
        os.makedirs(state, exist_ok=True)
        path = os.path.join(state, "buildkitd.toml")
        with open(path, "w", encoding="ascii") as file:
            file.write(f'[registry."{registry}"]\n  http = true\n  insecure = true\n')
        return path

    def environment(self, build):
        flags = f"--config {self.configuration(build.state, build.registry)} --root {build.state}/root"
        return {**clean_environment(), "BUILDKITD_FLAGS": flags}

    def arguments(self, build):
        reference = f"type=registry,ref={build.cache},registry.insecure=true"
        cache = [f"--import-cache={reference}", f"--export-cache={reference},mode=max"] if build.cache else []
        return [
            *["build", "--progress=plain", "--frontend=dockerfile.v0", f"--local=context={build.context}"],
            *[f"--local=dockerfile={build.context}", f"--opt=build-arg:{build.registry_argument}", *cache],
            f"--output=type=image,name={build.destination},push=true,registry.insecure=true",
        ]

    def commands(self, build):
        return [[shutil.which("buildctl-daemonless.sh"), *self.arguments(build)]]


class BuildKitDaemon(BuildKit):
    """With a daemon that runs already."""

    name = "buildkit°"
    programs = ("buildctl", "buildkitd")

    def __init__(self):
        self.registry = ""

    def environment(self, build):
        self.registry = build.registry
        return clean_environment()

    def address(self, state):
        return f"unix://{state}/buildkitd.sock"

    def daemon(self, state):
        configuration = self.configuration(state, self.registry)
        program = shutil.which("buildkitd")
        return [program, "--config", configuration, "--root", f"{state}/root", "--addr", self.address(state)]

    def await_daemon(self, state):
        for _ in range(200):
            probe = ["buildctl", "--addr", self.address(state), "debug", "workers"]
            if subprocess.run(probe, check=False, capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        raise RuntimeError("buildkitd does not answer")

    def commands(self, build):
        return [[shutil.which("buildctl"), "--addr", self.address(build.state), *self.arguments(build)]]


def all_builders(cofferdam):
    return [
        Cofferdam(cofferdam),
        Buildah(),
        BuildahJobs(),
        Kaniko(),
        KanikoTuned(),
        BuildKit(),
        BuildKitDaemon(),
    ]


class Disk:
    """The place of a builder's state: a file system of its own, so that no build pays for what others deleted.

    ext4 does not give inodes away that were freed in the last half minute, and looking for others costs more than the build.
    Where no file system can be mounted, it is a plain directory.
    """

    # Whether it was said that there is none.
    missing = False

    def __init__(self, path):
        self.path, self.image = path, f"{path}.img"

    def renew(self):
        """Makes it empty."""
        self.discard()
        os.makedirs(self.path)
        with open(self.image, "wb") as file:
            file.truncate(DISK_BYTES)
        lazy = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
        commands = [["mkfs.ext4", "-q", "-F", "-E", lazy, self.image], ["mount", "-o", "loop", self.image, self.path]]
        mounted = all(shutil.which(command[0]) and subprocess.run(command, check=False).returncode == 0 for command in commands)
        if not mounted and not Disk.missing:
            Disk.missing = True
            print("no file system can be mounted for the state of builders: times will vary", file=sys.stderr)

    def discard(self):
        """Removes it, after whatever a builder left mounted there."""
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            points = [line.split()[4] for line in file]
        inside = [point for point in points if point == self.path or point.startswith(f"{self.path}/")]
        for point in sorted(inside, reverse=True):
            if subprocess.run(["umount", point], check=False, capture_output=True).returncode:
                subprocess.run(["umount", "--lazy", point], check=True)
        subprocess.run(["rm", "--recursive", "--force", self.path, self.image], check=True)
