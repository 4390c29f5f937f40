# Compilers, interpreters, their package managers, and archives.

try-gcc() {
    echo '#include <stdio.h>
int main(void) { puts("compiled"); }' >hello.c
    gcc -O2 -flto -o hello hello.c
    same "$(./hello)" compiled
    strip hello
    same "$(./hello)" compiled
    gcc -pipe -c hello.c
    ar rcs libhello.a hello.o
    ranlib libhello.a
    gcc -o again libhello.a
    same "$(./again)" compiled
}

try-make-parallel() {
    for number in $(seq 60); do
        printf 'int f%d(void) { return %d; }\n' "$number" "$number" >"f$number.c"
    done
    { seq 60 | sed 's/.*/int f&(void);/'; echo 'int main(void) { return 0'; seq 60 | sed 's/.*/+ f&()/'; echo '== 1830 ? 0 : 1; }'; } >main.c
    printf 'OBJECTS = $(patsubst %%.c,%%.o,$(wildcard *.c))\nprogram: $(OBJECTS)\n\t$(CC) -o $@ $^\n%%.o: %%.c\n\t$(CC) -c -o $@ $<\n' >Makefile
    make -j8 >/dev/null
    ./program
    same "$(make)" "make: 'program' is up to date."
    touch f7.c
    same "$(make | wc -l)" 2
}

# What the thread and memory sanitizers take of the addresses, down to what is only kept free.
try-sanitizer-layout() {
    run_c <<'C'
#include <assert.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
int main(void) {
    static const unsigned long ranges[][2] = {{0x008000000000, 0x550000000000}, {0x568000000000, 0x7b0000000000}};
    for (int i = 0; i < 2; i++) {
        void *start = (void *)ranges[i][0];
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
        assert(mmap(start, ranges[i][1] - ranges[i][0], PROT_NONE, flags, -1, 0) == start);
    }
    assert(mkdir("made", 0755) == 0 && chown("made", 7, 8) == 0);
    struct stat found;
    assert(stat("made", &found) == 0 && found.st_uid == 7 && found.st_gid == 8);
    assert(open("/etc/passwd", O_RDONLY) >= 0 && fork() >= 0);
}
C
}

try-shared-library() {
    echo 'int answer(void) { return 42; }' | gcc -shared -fPIC -Wl,-soname,libanswer.so.1 -x c -o libanswer.so.1.0 -
    install -D --target-directory=/usr/local/lib libanswer.so.1.0
    ldconfig
    test -L /usr/local/lib/libanswer.so.1
    ldconfig --print-cache | says libanswer.so.1
    ln -s libanswer.so.1 /usr/local/lib/libanswer.so
    echo 'int answer(void); int main(void) { return answer() != 42; }' | gcc -x c -o program - -lanswer
    ldd ./program | says /usr/local/lib/libanswer.so.1
    ./program
    echo 'int main(void) { void *l = dlopen("libanswer.so.1", RTLD_NOW); return !l || ((int (*)(void))dlsym(l, "answer"))() != 42; }' |
        gcc -include dlfcn.h -x c -o loader -
    ./loader
    rm /usr/local/lib/libanswer*
    ldconfig
}

try-strace() {
    strace -f -o trace -e trace=openat,execve /bin/cat /etc/debian_version
    grep --quiet 'debian_version' trace || says execve trace
    grep --quiet 'exited with 0' trace
}

try-perl() {
    perl -e 'use strict; use File::Find; use File::Temp; my $n = 0; find(sub { $n++ if -f }, "/etc"); die unless $n > 50;
        my @s = stat("/etc/shadow"); die unless ($s[2] & 07777) == 0640; print "ok\n"' >said
    same "$(cat said)" ok
    perl -e 'chown(11, 22, "said") == 1 or die; chmod(04711, "said") == 1 or die'
    same "$(stat --format '%u:%g %a' said)" '11:22 4711'
    same "$(echo 'print `id -u`;' | perl)" 0
}

try-python() {
    cat >module.py <<'P'
import os, pathlib, shutil, tempfile
def test():
    with tempfile.TemporaryDirectory() as place:
        path = pathlib.Path(place, "a", "b")
        path.mkdir(parents=True)
        (path / "file").write_text("x")
        os.chown(path / "file", 31, 32)
        shutil.copytree(place, "copied")
        shutil.make_archive("archive", "gztar", place)
    return os.stat("copied/a/b/file").st_uid
P
    same "$(python3 -c 'import module; print(module.test())')" 0
    test -e __pycache__/module.cpython-*.pyc
    test -s archive.tar.gz
}

try-python-multiprocessing() {
    cat >work.py <<'P'
import concurrent.futures, multiprocessing
def square(number):
    return number * number
if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(4) as pool:
            assert sum(pool.map(square, range(100))) == 328350, method
    with concurrent.futures.ProcessPoolExecutor() as pool:
        assert sum(pool.map(square, range(10))) == 285
P
    python3 work.py
}

try-pip() {
    mkdir -p project/src/greeter
    printf '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n[project]\nname = "greeter"\nversion = "1.0"\n[project.scripts]\ngreet = "greeter:main"\n' >project/pyproject.toml
    printf 'def main():\n    print("greetings")\n' >project/src/greeter/__init__.py
    pip wheel --quiet --no-index --no-build-isolation --no-deps --wheel-dir wheels ./project
    pip install --quiet --break-system-packages --root-user-action=ignore --no-index --find-links wheels greeter
    same "$(greet)" greetings
    pip list --format=freeze 2>/dev/null | says '^greeter==1.0$'
    pip uninstall --quiet --break-system-packages --root-user-action=ignore --yes greeter
    refused command -v greet
}

try-python-venv() {
    python3 -m venv --without-pip environment
    same "$(environment/bin/python -c 'import sys; print(sys.prefix)')" "$PWD/environment"
    python3 -m venv full
    same "$(full/bin/pip --version | cut -d' ' -f1)" pip
}

try-sqlite() {
    python3 - <<'P'
import sqlite3
first, second = sqlite3.connect("base.db"), sqlite3.connect("base.db")
first.execute("pragma journal_mode = wal")
first.executescript("create table t (n integer); insert into t values (1), (2);")
first.commit()
assert second.execute("select sum(n) from t").fetchone() == (3,)
P
    same "$(sqlite3 base.db 'select count(*) from t')" 2
}

try-node() {
    cat >main.js <<'J'
const fs = require("fs"), { execFileSync } = require("child_process"), { Worker, isMainThread, parentPort } = require("worker_threads");
if (isMainThread) {
    fs.writeFileSync("file", "text");
    fs.chownSync("file", 12, 34);
    const s = fs.statSync("file");
    if (s.uid !== 12 || s.gid !== 34 || process.getuid() !== 0) throw new Error("owner");
    if (execFileSync("sh", ["-c", "echo child"]).toString() !== "child\n") throw new Error("child");
    fs.promises.readdir("/etc").then((names) => { if (!names.includes("passwd")) throw new Error("names"); });
    new Worker(__filename).on("message", (text) => console.log(text, process.execPath));
} else parentPort.postMessage("from a worker");
J
    same "$(node main.js)" "from a worker $(readlink -f "$(command -v node)")"
}

try-npm() {
    mkdir -p library application
    echo '{"name": "library", "version": "1.2.3", "main": "index.js", "bin": {"tool": "tool.js"}, "scripts": {"postinstall": "id -u > installed-by"}}' >library/package.json
    echo 'module.exports = () => "from the library";' >library/index.js
    printf '#!/usr/bin/env node\nconsole.log("tool " + process.argv[2]);\n' >library/tool.js
    echo '{"name": "application", "version": "1.0.0", "scripts": {"start": "node -p \"require('"'library'"')()\"", "tool": "tool"}}' >application/package.json
    (cd library && npm pack --silent)
    cd application
    npm install --silent --no-audit --no-fund --offline ../library/library-1.2.3.tgz
    same "$(npm run --silent start)" 'from the library'
    same "$(npm run --silent tool -- word)" 'tool word'
    same "$(cat node_modules/library/installed-by)" 0
    npm ls library | says 'library@1.2.3'
    npm ci --silent --no-audit --no-fund --offline
    test -e node_modules/library/index.js
}

try-java() {
    mkdir -p source/example
    cat >source/example/Main.java <<'J'
package example;
import java.nio.file.*;
import java.nio.file.attribute.*;
import java.util.stream.*;
public class Main {
    public static void main(String[] arguments) throws Exception {
        Path file = Files.writeString(Path.of("file"), "text");
        Files.setAttribute(file, "unix:uid", 21);
        int sum = IntStream.range(0, 10000).parallel().sum();
        String child = new String(new ProcessBuilder("id", "-u").start().getInputStream().readAllBytes()).strip();
        System.out.println(Files.getAttribute(file, "unix:uid") + " " + sum + " " + child + " " + Path.of("").toRealPath().equals(Path.of(System.getProperty("user.dir"))));
    }
}
J
    javac -d classes source/example/Main.java
    jar --create --file=main.jar --main-class=example.Main -C classes .
    same "$(java -Xmx64m -jar main.jar)" '21 49995000 0 true'
}

try-go-build() {
    export GOPATH=$PWD/go GOCACHE=$PWD/cache GOFLAGS=-mod=mod GOPROXY=off CGO_ENABLED=0
    printf 'module example.org/program\ngo 1.19\n' >go.mod
    cat >main.go <<'G'
package main

import (
    "fmt"
    "os"
    "os/exec"
    "os/user"
    "sync"
    "syscall"
)

func main() {
    os.WriteFile("file", []byte("text"), 0o640)
    os.Chown("file", 41, 42)
    info, _ := os.Stat("file")
    var group sync.WaitGroup
    for number := 0; number < 50; number++ {
        group.Add(1)
        go func() { defer group.Done(); exec.Command("/bin/true").Run() }()
    }
    group.Wait()
    who, _ := user.Current()
    fmt.Println(info.Sys().(*syscall.Stat_t).Uid, info.Mode(), who.Username)
}
G
    go build -o program .
    same "$(./program)" '41 -rw-r----- root'
    go vet .
}

try-git() {
    export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
    git init --quiet --initial-branch=main repository
    cd repository
    seq 1000 >numbers
    ln -s numbers link
    printf '#!/bin/sh\n' >run && chmod 0755 run
    git add .
    git commit --quiet --message first
    git checkout --quiet -b other
    seq 500 2000 >numbers
    git commit --quiet --all --message second
    git checkout --quiet main
    git merge --quiet other
    git gc --quiet
    git fsck --strict
    same "$(git status --porcelain)" ''
    same "$(git ls-files --stage | cut -c 1-6 | xargs)" '120000 100644 100755'
    cd ..
    git clone --quiet repository local
    git clone --quiet "file://$PWD/repository" served
    same "$(git -C served rev-parse HEAD)" "$(git -C repository rev-parse HEAD)"
    git -C local submodule --quiet status
    chown -R games repository
    refused git -C repository status
    setpriv --reuid=games --clear-groups env HOME=/nonexistent git -C repository log --oneline
}

try-tar() {
    mkdir tree
    echo text >tree/file
    ln tree/file tree/hard
    ln -s file tree/link
    mkfifo tree/pipe
    mknod tree/null c 1 3
    mkdir -m 2750 tree/directory
    chown -h games:audio tree/*
    chmod 4711 tree/file
    touch --date=@1000000000 tree/file
    setcap cap_net_raw+ep tree/file
    tar --create --xattrs --xattrs-include='*' --file=tree.tar tree
    mkdir out
    tar --extract --xattrs --xattrs-include='*' --file=tree.tar --directory=out
    same "$(cd out && stat --format '%n %U:%G %a %F %h %t' tree/*)" "$(stat --format '%n %U:%G %a %F %h %t' tree/*)"
    same "$(stat --format %Y out/tree/file)" 1000000000
    same "$(getcap out/tree/file)" 'out/tree/file cap_net_raw=ep'
    tar --compare --file=tree.tar --directory=out
}

try-compressed-archives() {
    seq 10000 >numbers
    for option in --gzip --bzip2 --xz --zstd; do
        tar --create $option --file="archive$option" numbers
        same "$(tar --extract --to-stdout --file="archive$option" | md5sum)" "$(md5sum <numbers)"
    done
    zip --quiet numbers.zip numbers
    same "$(unzip -p numbers.zip | md5sum)" "$(md5sum <numbers)"
    find numbers | cpio --quiet --create --format=newc >numbers.cpio
    mkdir out
    (cd out && cpio --quiet --extract <../numbers.cpio)
    cmp numbers out/numbers
}

try-rsync() {
    mkdir -p source/inner
    echo text >source/inner/file
    ln -s inner source/link
    chown -h games:audio source/inner/file source/link
    rsync --archive --hard-links source/ target
    same "$(shape target/inner/file)" 'games:audio 644'
    same "$(readlink target/link)" inner
    same "$(rsync --archive --itemize-changes source/ target)" ''
    rm -r source/inner
    rsync --archive --delete source/ target
    refused test -e target/inner
}

try-curl() {
    echo content >file
    same "$(curl --silent "file://$PWD/file")" content
    python3 -u -m http.server --bind 127.0.0.1 0 >server.log 2>&1 &
    local server=$! port=
    while [ -z "$port" ]; do
        sleep 0.05
        port=$(sed -n 's/.* port \([0-9]*\) .*/\1/p' server.log)
    done
    same "$(curl --silent --noproxy '*' "http://127.0.0.1:$port/file")" content
    kill $server
}

try-openssl() {
    openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out certificate.pem -subj /CN=example.org -days 2
    same "$(openssl x509 -in certificate.pem -noout -subject)" 'subject=CN = example.org'
    same "$(stat --format %a key.pem)" 600
}

try-find() {
    mkdir -p a/b c
    touch a/1 a/b/2 c/3
    chown games a/b/2
    chmod 0700 c
    same "$(find . -type f | sort | xargs)" './a/1 ./a/b/2 ./c/3'
    same "$(find . -user games)" ./a/b/2
    same "$(find . -type d -perm 0700)" ./c
    same "$(find / -xdev -name debian_version 2>/dev/null | grep '^/etc')" /etc/debian_version
    find / -xdev -ls >/dev/null
    find . -type f -exec sh -c 'mv "$1" "$1.moved"' sh {} \;
    same "$(find . -name '*.moved' | wc -l)" 3
}

try-text-tools() {
    printf 'b 2\na 1\n' >file
    sed --in-place 's/a/c/' file
    same "$(sort file)" $'b 2\nc 1'
    same "$(awk '{ sum += $2 } END { print sum }' file)" 3
    seq 300000 | shuf >large
    same "$(sort --numeric-sort --buffer-size=1M --temporary-directory="$PWD" large | tail -n 1)" 300000
    split --lines=100000 large part.
    same "$(cat part.* | cmp - large)" ''
    echo '10 + 20' >expression
    patch --quiet file <<'D'
--- file
+++ file
@@ -1,2 +1,2 @@
-b 2
+b 3
 c 1
D
    same "$(head -n 1 file)" 'b 3'
}
