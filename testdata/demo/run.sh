#!/usr/bin/env bash
# `make demo`: an image is built from a Dockerfile, pushed, pulled back by other tools and run,
# against a real registry on this machine. Needs Rust, gcc, Python 3 and apt; installs the rest.
#
# What takes long (the base image, the program itself) is kept in target/ for the next time.
set -Eeuo pipefail
cd "$(dirname "$0")/../.."

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi
step=0
heading() { step=$((step + 1)); printf '\n%s%d. %s%s\n' "$bold" "$step" "$1" "$plain"; }
say() { printf '   %s\n' "$1"; }
indented() { sed 's/^/   /'; }
run() { # shows a command as one would type it, then runs it
    printf '   %s$ %s%s\n' "$dim" "$*" "$plain"
    "$@" 2>&1 | indented
}

work=$(mktemp -d)
registry_process=
cleanup() {
    if [ -n "$registry_process" ]; then kill "$registry_process" 2>/dev/null && wait "$registry_process" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap cleanup EXIT
trap 'printf "\nThe demo stopped at step %d.\n" "$step"' ERR

heading 'Getting ready'
.ci/install
say 'building cofferdam (a few minutes, the first time)'
target=$(uname -m)-unknown-linux-musl
cargo build --quiet --release --locked --target "$target" --package builder-cli
mkdir -p target/demo
ln -sf "../$target/release/cofferdam" target/demo/cofferdam
cofferdam=target/demo/cofferdam
say "$("$cofferdam" --version), $(du -hL "$cofferdam" | cut -f1) in one file that needs nothing else"

heading 'A real registry'
# The same port again if it is free, so that the names in the output stay the same.
port=$(python3 - <<'PYTHON'
import socket
for port in (5055, 0):
    try:
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", port))
            print(s.getsockname()[1])
            break
    except OSError:
        pass
PYTHON
)
registry=127.0.0.1:$port
cat >"$work/registry.yml" <<YAML
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "$registry"}
YAML
docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
registry_process=$!
for _ in $(seq 100); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then break; fi
    kill -0 "$registry_process" 2>/dev/null || { cat "$work/registry.log"; exit 1; }
    sleep 0.1
done
say "Debian's docker-registry listens on $registry until this demo ends"

heading 'A base image: Debian 12 with gcc, made from Debian packages'
python3 testdata/demo/base.py target/demo/debian-gcc
skopeo copy --quiet --dest-tls-verify=false oci:target/demo/debian-gcc:latest "docker://$registry/debian-gcc:bookworm"
say "$registry/debian-gcc:bookworm, $(du -sh target/demo/debian-gcc | cut -f1) compressed"

image=$registry/demo:latest
build() {
    run "$cofferdam" build testdata/demo -f testdata/demo/Dockerfile -d "$image" \
        --build-arg "REGISTRY=$registry" --insecure-registry "$registry" --state-dir target/demo/state
}
digest() { skopeo inspect --tls-verify=false --format '{{.Digest}}' "docker://$image"; }

heading 'Build and push'
indented <testdata/demo/Dockerfile
echo
build
first=$(digest)

heading 'Pulled back by skopeo, unpacked by umoci'
skopeo copy --quiet --src-tls-verify=false "docker://$image" "oci:$work/pulled:latest"
if [ "$(id -u)" = 0 ]; then rootless=(); else rootless=(--rootless); fi
umoci unpack "${rootless[@]}" --image "$work/pulled:latest" "$work/bundle"
say "digest   $first"
say 'files'
(cd "$work/bundle/rootfs" && find . -mindepth 1 \( -type d -printf '     %M  %U:%G  %8s  /%P/\n' , ! -type d -printf '     %M  %U:%G  %8s  /%P\n' \)) |
    sed -E 's/^( *d[^ ]* +[^ ]+ +)[0-9]+/\1-/' | LC_ALL=C sort -k4
say 'config'
skopeo inspect --tls-verify=false --config "docker://$image" |
    python3 -c 'import json, sys; print(json.dumps(json.load(sys.stdin)["config"], indent=2))' | sed 's/^/     /'

heading 'Run by runc'
python3 - "$work/bundle/config.json" <<'PYTHON'
import json, sys
with open(sys.argv[1]) as file:
    config = json.load(file)
config["process"]["terminal"] = False
with open(sys.argv[1], "w") as file:
    json.dump(config, file)
PYTHON
runc --root "$work/runc" run --bundle "$work/bundle" "cofferdam-demo-$$" </dev/null | indented

heading 'The same build again: every step is known'
build
second=$(digest)
if [ "$first" = "$second" ]; then
    say "the same image again: $second"
else
    say "the second build made another image: $second"
    exit 1
fi
