"""The workloads: a Dockerfile and a context for each, the same bytes on every machine.

Every byte comes from a fixed seed; modes and times are set. Nothing here is larger than `Size` says, so that the same code
makes what is measured and what only shows that the runner works.
"""

import base64
import hashlib
import io
import os
import random
import shutil
import zipfile
from dataclasses import dataclass

TIME = 1_750_000_000
BLOCK = 64 << 10
WORDS = (
    "alpha beta gamma delta layer cache build image stage copy run shell user mode owner group path file digest config "
    "manifest blob push pull registry snapshot diff mount proc tmp var lib usr bin etc home return import def class self "
    "value index count total result error string bytes list map set key"
).split()


@dataclass(frozen=True)
class Size:
    """How much there is of each thing."""

    application_files: int
    sources: int
    small_files_per_directory: int
    data_parts: int
    part_bytes: int
    wheels: int
    services: int
    work_megabytes: int
    sleep_seconds: float
    # Whether the bases have a compiler and Python, or are BusyBox alone.
    real_bases: bool


FULL = Size(400, 50, 500, 64, 16 << 20, 20, 90, 160, 1, True)
SMOKE = Size(12, 3, 5, 2, 256 << 10, 2, 2, 1, 0.1, False)


@dataclass(frozen=True)
class Workload:
    """One Dockerfile with its context, and how it is built."""

    name: str
    about: str
    # Directory of the context among the workloads.
    context: str
    # Bases that a machine which is not new has already.
    bases: tuple
    # The context whose build, before the measured one, filled the cache; none if nothing is cached.
    cached_from: str = ""
    # Built only if it is asked for by name.
    by_hand: bool = False


WORKLOADS = (
    Workload("copy-only", "5 MB in 400 files copied onto a Python base", "copy-only", ("python",)),
    Workload("small-runs", "five small RUN on a Debian base", "small-runs", ("debian",)),
    Workload("big-base", "50 C files compiled on a GCC base, two files copied onto a Debian base", "big-base", ("gcc", "debian")),
    Workload("many-files", "50,000 small files made, deleted, renamed and changed by three RUN", "many-files", ("debian",)),
    Workload("big-layer", "1 GiB of mixed data in one layer", "big-layer", ("debian",)),
    Workload("cached-small-runs", "small-runs again, nothing changed", "small-runs", ("debian",), "small-runs"),
    Workload("cached-big-base", "big-base again, nothing changed", "big-base", ("gcc", "debian"), "big-base"),
    Workload("one-change", "dependencies cached, one source file changed", "one-change-after", ("python",), "one-change-before"),
    Workload("parallel-stages", "12 stages of a second of work or sleep each", "parallel-stages", ("busybox",)),
    Workload("big-context", "a context of 100,000 files, two directories of it copied", "big-context", ("node",)),
    Workload("huge-layer", "a file of 8 GiB, half of it a hole, in one layer", "huge-layer", ("busybox",), by_hand=True),
    Workload("whole-context", "a context of 100,000 files, all of it copied", "whole-context", ("busybox",), by_hand=True),
)


def make(directory, size, workloads):
    """Writes the contexts that these workloads need into `directory`, unless they are there already."""
    with open(__file__, "rb") as this:
        stamp = hashlib.sha256(this.read() + repr(size).encode()).hexdigest()
    stamp_file = os.path.join(directory, "stamp")
    if not os.path.exists(stamp_file) or open(stamp_file, encoding="ascii").read() != stamp:
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
        with open(stamp_file, "w", encoding="ascii") as file:
            file.write(stamp)
    for name in {name for workload in workloads for name in (workload.context, workload.cached_from) if name}:
        path = os.path.join(directory, name)
        if not os.path.exists(path):
            shutil.rmtree(f"{path}.part", ignore_errors=True)
            CONTEXTS[name](f"{path}.part", size)
            settle(f"{path}.part")
            os.rename(f"{path}.part", path)


def put(path, data, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
    os.chmod(path, mode)


def dockerfile(directory, text):
    put(f"{directory}/Dockerfile", "ARG REGISTRY\n" + text)


def settle(root):
    """Gives everything below the same time, and directories the same mode, whatever umask it was made with."""
    for directory, _, files in os.walk(root, topdown=False):
        for name in files:
            os.utime(os.path.join(directory, name), (TIME, TIME), follow_symlinks=False)
        os.chmod(directory, 0o755)
        os.utime(directory, (TIME, TIME))


def prose(generator, length):
    """Bytes that compress about as source code does."""
    lines, size = [], 0
    while size < length:
        words = (
            generator.choice(WORDS) + (str(generator.randrange(10000)) if generator.random() < 0.3 else "")
            for _ in range(generator.randrange(3, 12))
        )
        line = "    " * generator.randrange(4) + " ".join(words) + "\n"
        lines.append(line)
        size += len(line)
    return "".join(lines).encode()[:length]


def mixed(generator, length):
    """Half of it cannot be compressed, a quarter is prose, an eighth zeros, an eighth a table of records."""
    salad = prose(generator, 1 << 20)
    parts = []
    for _ in range((length + BLOCK - 1) // BLOCK):
        kind = generator.random()
        if kind < 0.5:
            parts.append(generator.randbytes(BLOCK))
        elif kind < 0.75:
            offset = generator.randrange(len(salad) - BLOCK)
            parts.append(salad[offset : offset + BLOCK])
        elif kind < 0.875:
            parts.append(bytes(BLOCK))
        else:
            first = generator.randrange(1 << 30)
            records = (
                (first + number * 3).to_bytes(8, "little") + generator.randrange(1 << 12).to_bytes(4, "little") + b"\0\0\0\1"
                for number in range(BLOCK // 16)
            )
            parts.append(b"".join(records))
    return b"".join(parts)[:length]


def application(root, generator, files, total):
    """The files of a small application, whose sizes are about log-normal and sum up to about `total`."""
    weights = [generator.lognormvariate(0, 1.2) for _ in range(files)]
    scale = total / sum(weights)
    for number, weight in enumerate(weights):
        depth = generator.randrange(4)
        below = "".join(f"mod{generator.randrange(6)}/" for _ in range(depth))
        kind = generator.choice(["py", "py", "py", "json", "html", "txt", "bin"])
        length = max(16, int(weight * scale))
        data = generator.randbytes(length) if kind == "bin" else prose(generator, length)
        put(f"{root}/{below}f{number:04d}.{kind}", data, 0o755 if number % 37 == 0 else 0o644)


def copy_only(directory, size):
    generator = random.Random(101)
    application(f"{directory}/app", generator, size.application_files, size.application_files * 12_500)
    put(f"{directory}/app/main.py", "print('hello')\n", 0o755)
    dockerfile(
        directory,
        """FROM ${REGISTRY}/base/python:1
WORKDIR /srv/app
COPY app/ /srv/app/
ENV APP_ENV=prod PYTHONUNBUFFERED=1
LABEL org.example.workload=copy-only
EXPOSE 8080
CMD ["python3", "/srv/app/main.py"]
""",
    )


def small_runs(directory, _):
    dockerfile(
        directory,
        """FROM ${REGISTRY}/base/debian:1
RUN echo "built" > /etc/bench-release
RUN mkdir -p /opt/app/bin /opt/app/data && echo '#!/bin/sh' > /opt/app/bin/start
RUN echo "app:x:1500:1500::/home/app:/bin/sh" >> /etc/passwd && echo "app:x:1500:" >> /etc/group
RUN chmod 0755 /opt/app/bin/start && chown -R 1500:1500 /opt/app/data
RUN echo "app ready" > /opt/app/data/state && mkdir -p /usr/local/bin && ln -s /opt/app/bin/start /usr/local/bin/start
USER app
CMD ["/usr/local/bin/start"]
""",
    )


def big_base(directory, size):
    generator = random.Random(103)
    for unit in range(size.sources):
        functions = []
        for number in range(20):
            body = "\n".join(
                f"  x = x * {generator.randrange(3, 99)}u + {generator.randrange(1, 9999)}u; "
                f"if (x & {1 << generator.randrange(16)}u) x ^= x >> {generator.randrange(1, 15)};"
                for _ in range(12)
            )
            functions.append(f"unsigned f{unit}_{number}(unsigned x) {{\n{body}\n  return x;\n}}\n")
        total = " + ".join(f"f{unit}_{number}(x)" for number in range(20))
        header = "#include <stdio.h>\n#include <string.h>\n"
        put(f"{directory}/src/u{unit:02d}.c", f"{header}{''.join(functions)}unsigned u{unit}(unsigned x) {{ return {total}; }}\n")
    put(
        f"{directory}/src/main.c",
        "#include <stdio.h>\n"
        + "".join(f"unsigned u{unit}(unsigned);\n" for unit in range(size.sources))
        + "int main(void) { unsigned s = 0;\n"
        + "".join(f"  s += u{unit}({unit}u);\n" for unit in range(size.sources))
        + '  printf("%u\\n", s); return 0; }\n',
    )
    compiled = 'for f in *.c; do gcc -O1 -c "$f" || exit 1; done\ngcc -o prog *.o\n./prog > out.txt\n'
    joined = "cat *.c > prog.txt\n(echo '#!/bin/sh'; echo 'echo 42') > prog\nchmod 0755 prog\n./prog > out.txt\n"
    put(f"{directory}/src/build.sh", "set -e\n" + (compiled if size.real_bases else joined))
    dockerfile(
        directory,
        """FROM ${REGISTRY}/base/gcc:1 AS build
WORKDIR /src
COPY src/ /src/
RUN sh build.sh

FROM ${REGISTRY}/base/debian:1
COPY --from=build /src/prog /usr/local/bin/prog
COPY --from=build /src/out.txt /usr/local/share/prog/out.txt
RUN /usr/local/bin/prog > /tmp/check && cmp /tmp/check /usr/local/share/prog/out.txt && rm /tmp/check
CMD ["/usr/local/bin/prog"]
""",
    )


# Only what a shell does by itself where there is one call for each file, so that it is the builder that is measured.
MANY_FILES = r"""set -e
step=$1; each=$2
line="layer cache build image stage copy run shell user mode owner group path file digest config manifest blob push pull"
write() { # DIRECTORY PREFIX
    file=0
    while [ "$file" -lt "$each" ]; do
        text="$1 $2 $file $step"; lines=$(( (file * 37) % 8 ))
        while [ "$lines" -gt 0 ]; do text="$text
$line $file"; lines=$((lines - 1)); done
        echo "$text" > "$1/$2$file"
        file=$((file + 1))
    done
}
case $step in
1)
    for d in $(seq 10 89); do mkdir -p "/data/d$d"; write "/data/d$d" f; done ;;
2)
    for d in $(seq 10 14); do rm -r "/data/d$d"; done
    for d in $(seq 15 19); do rm "/data/d$d"/*; done
    for d in $(seq 20 29); do mv "/data/d$d" "/data/renamed$d"; done
    for d in 30 31; do for file in "/data/d$d"/*; do mv "$file" "$file.moved"; done; done
    chmod 0600 /data/d32/* /data/d33/*
    chown 1234:4321 /data/d34/* /data/d35/*
    for d in 36 37; do write "/data/d$d" f; done
    for d in $(seq 10 19); do mkdir -p "/data/n$d"; write "/data/n$d" f; done ;;
3)
    for d in $(seq 10 19); do mkdir -p "/data/m$d"; write "/data/m$d" f; done
    file=0; while [ "$file" -lt "$each" ] && [ "$file" -lt 200 ]; do
        ln -s "../d60/f$file" "/data/m10/l$file"; ln "/data/m11/f$file" "/data/m12/h$file"; file=$((file + 1))
    done
    rm -r /data/d40 /data/d41 /data/d42 /data/d43 /data/d44
    rm -r /data/d45; mkdir /data/d45; echo "replaced" > /data/d45/only
    rm /data/d46/f0; mkdir /data/d46/f0
    rm -r /data/d47; echo "was a directory" > /data/d47 ;;
esac
"""


def many_files(directory, size):
    put(f"{directory}/make.sh", MANY_FILES)
    each = size.small_files_per_directory
    dockerfile(
        directory,
        f"""FROM ${{REGISTRY}}/base/debian:1
COPY make.sh /make.sh
RUN sh /make.sh 1 {each}
RUN sh /make.sh 2 {each}
RUN sh /make.sh 3 {each}
CMD ["sh"]
""",
    )


def big_layer(directory, size):
    generator = random.Random(105)
    for part in range(size.data_parts):
        put(f"{directory}/data/part{part:02d}.bin", mixed(generator, size.part_bytes))
    dockerfile(directory, 'FROM ${REGISTRY}/base/debian:1\nCOPY data/ /data/\nCMD ["sh"]\n')


def huge_layer(directory, size):
    """Each part and then a hole of its size, again and again: of a layer, a hole is so many zeros."""
    generator = random.Random(106)
    parts = [mixed(generator, size.part_bytes) for _ in range(min(16, size.data_parts))]
    os.makedirs(f"{directory}/data")
    with open(f"{directory}/data/huge", "wb") as file:
        for number in range(size.data_parts * 4):
            file.write(parts[number % len(parts)])
            file.seek(size.part_bytes, os.SEEK_CUR)
        file.truncate()
    os.chmod(f"{directory}/data/huge", 0o644)
    dockerfile(directory, 'FROM ${REGISTRY}/base/busybox:1\nCOPY data/ /data/\nCMD ["sh"]\n')


def whole_context(directory, size):
    big_context(directory, size)
    os.remove(f"{directory}/.dockerignore")
    dockerfile(directory, 'FROM ${REGISTRY}/base/busybox:1\nCOPY . /app/\nCMD ["sh"]\n')


def wheel(directory, name, generator, modules):
    """A package of pure Python that pip installs without asking anybody."""
    information = f"{name}-1.0.0.dist-info"
    files = {f"{name}/__init__.py": b"__version__ = '1.0.0'\n"}
    for part in range(5):
        files[f"{name}/sub{part}/__init__.py"] = b""
    for module in range(modules):
        functions = "\n".join(
            f"def function_{number}(a, b={generator.randrange(99)}):\n"
            f"    x = a + b * {generator.randrange(1, 99)}\n"
            f"    for i in range({generator.randrange(2, 9)}):\n"
            f"        x = (x ^ (i * {generator.randrange(99)})) % 1000003\n"
            f"    return x, '{' '.join(generator.choice(WORDS) for _ in range(6))}'\n\n"
            for number in range(generator.randrange(3, 12))
        )
        files[f"{name}/sub{module % 5}/m{module:03d}.py"] = functions.encode()
    files[f"{information}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n".encode()
    files[f"{information}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for path, data in sorted(files.items())
    )
    files[f"{information}/RECORD"] = f"{record}{information}/RECORD,,\n".encode()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
        for path, data in sorted(files.items()):
            entry = zipfile.ZipInfo(path, (2025, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            writer.writestr(entry, data)
    put(f"{directory}/{name}-1.0.0-py3-none-any.whl", archive.getvalue())


def one_change(version):
    def write(directory, size):
        generator = random.Random(107)
        names = [f"benchpkg{number:02d}" for number in range(size.wheels)]
        for name in names:
            wheel(f"{directory}/wheels", name, generator, 60 if size.real_bases else 3)
        put(f"{directory}/requirements.txt", "".join(f"{name}==1.0.0\n" for name in names))
        application(f"{directory}/src", generator, size.application_files // 3, size.application_files * 2_500)
        put(f"{directory}/src/app.py", f"VERSION = {version}\n")
        pip = "pip3 install --break-system-packages --no-index --no-cache-dir --no-compile --find-links /tmp/wheels -r requirements.txt\n"
        put(f"{directory}/install.sh", pip if size.real_bases else "mkdir /usr/lib/wheels && cp /tmp/wheels/* /usr/lib/wheels\n")
        check = "python3 -c 'import benchpkg00, app; print(app.VERSION)' > /srv/version\n"
        put(f"{directory}/src/check.sh", f"cd /srv/src\nexport PYTHONDONTWRITEBYTECODE=1\n{check}" if size.real_bases else "cat /srv/src/app.py > /srv/version\n")
        dockerfile(
            directory,
            """FROM ${REGISTRY}/base/python:1
WORKDIR /srv
COPY requirements.txt install.sh /srv/
COPY wheels/ /tmp/wheels/
RUN sh install.sh
COPY src/ /srv/src/
RUN sh /srv/src/check.sh
CMD ["python3", "/srv/src/app.py"]
""",
        )

    return write


def parallel_stages(directory, size):
    stages = []
    for stage in range(12):
        if stage % 2:
            step = f"sleep {size.sleep_seconds} && echo stage{stage} > /out{stage}"
        else:
            step = f"dd if=/dev/zero bs=1048576 count={size.work_megabytes} 2>/dev/null | sha256sum > /out{stage}"
        stages.append(f"FROM ${{REGISTRY}}/base/busybox:1 AS s{stage}\nRUN {step}\n")
    copies = "".join(f"COPY --from=s{stage} /out{stage} /out/out{stage}\n" for stage in range(12))
    dockerfile(directory, "\n".join(stages) + f'\nFROM ${{REGISTRY}}/base/busybox:1\n{copies}CMD ["sh"]\n')


def big_context(directory, size):
    generator = random.Random(109)
    pool = prose(generator, 1 << 20)

    def write(path, length):
        offset = generator.randrange(len(pool) - length)
        put(path, pool[offset : offset + length])

    copied = size.services // 2
    for service in range(size.services):
        for package in range(20):
            for file in range(50):
                write(f"{directory}/services/s{service:02d}/pkg{package:02d}/f{file:02d}.ts", 150 + generator.randrange(1200))
    for service in range(min(20, size.services)):
        for file in range(500):
            path = f"{directory}/services/s{service:02d}/node_modules/dep{file % 50:02d}/i{file:03d}.js"
            write(path, 100 + generator.randrange(600))
    for file in range(1000 if size.real_bases else 20):
        write(f"{directory}/libs/common/l{file:04d}.ts", 300 + generator.randrange(1500))
    for file in range(200):
        write(f"{directory}/services/s{copied:02d}/logs/x{file:03d}.log", 200)
    put(f"{directory}/services/s{copied:02d}/logs/keep.log", "keep\n")
    put(
        f"{directory}/.dockerignore",
        f"# monorepo\n.git\n**/node_modules\n**/*.log\n!services/s{copied:02d}/logs/keep.log\nservices/*/pkg19\n"
        f"!services/s{copied:02d}/pkg19\n**/.cache\ndocs/**/*.md\n",
    )
    dockerfile(
        directory,
        f"""FROM ${{REGISTRY}}/base/node:1
WORKDIR /app
COPY libs/common/ /app/libs/common/
COPY services/s{copied:02d}/ /app/services/s{copied:02d}/
CMD ["node", "-e", "1"]
""",
    )


CONTEXTS = {
    "copy-only": copy_only,
    "small-runs": small_runs,
    "big-base": big_base,
    "many-files": many_files,
    "big-layer": big_layer,
    "one-change-before": one_change(1),
    "one-change-after": one_change(2),
    "parallel-stages": parallel_stages,
    "big-context": big_context,
    "huge-layer": huge_layer,
    "whole-context": whole_context,
}
