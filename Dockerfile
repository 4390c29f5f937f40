# syntax=docker/dockerfile:1

# The image for jobs that build images. Cofferdam builds it itself:
#
#     cofferdam build . --destination registry.example/cofferdam:latest
#     cofferdam build . --target debug --destination registry.example/cofferdam:debug
#     cofferdam build . --target git --destination registry.example/cofferdam:git
#
# The first two stages bring what the others are made of. Either can be given as a directory instead, say where no registry has
# them: --build-context build=DIRECTORY with the file `cofferdam`, --build-context debian=DIRECTORY with `bin/busybox` and
# `etc/ssl/certs/ca-certificates.crt`.

FROM rust:1.95-bookworm AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends musl-tools \
 && rm -rf /var/lib/apt/lists/* \
 && rustup target add "$(uname -m)-unknown-linux-musl"
WORKDIR /src
COPY . .
RUN target="$(uname -m)-unknown-linux-musl" \
 && cargo build --release --locked --package builder-cli --target "$target" \
 && mv "target/$target/release/cofferdam" /cofferdam

FROM debian:bookworm-slim AS debian
RUN apt-get update \
 && apt-get install --yes --no-install-recommends busybox-static ca-certificates \
 && rm -rf /var/lib/apt/lists/*

# The trees of the images, laid out by the busybox that only `debug` keeps. The names of the program are one file, so that each
# can be copied into other images. Whoever the job runs as may write to the working directory, to the cache, to /tmp, and where
# a pipeline puts its config.json.
FROM scratch AS layout
COPY --from=debian /bin/busybox /busybox/busybox
SHELL ["/busybox/busybox", "sh", "-euc"]
WORKDIR /image
COPY --from=debian /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/
RUN --mount=from=build,source=/cofferdam,target=/cofferdam <<EOF
b=/busybox/busybox
$b mkdir -p bin kaniko/.docker workspace cache tmp
$b cp /cofferdam kaniko/executor
$b chmod 0755 kaniko/executor
$b ln kaniko/executor bin/cofferdam
$b ln kaniko/executor kaniko/warmer
$b chmod 1777 kaniko/.docker workspace cache tmp
printf 'root:x:0:0:root:/kaniko:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n' >etc/passwd
printf 'root:x:0:\nnobody:x:65534:\n' >etc/group
$b mkdir -p /debug/busybox /debug/bin
$b cp $b /debug/busybox/busybox
for name in $($b --list); do
    if [ "$name" != busybox ]; then $b ln -s busybox "/debug/busybox/$name"; fi
done
$b ln -s /busybox/sh /debug/bin/sh
EOF

# The program, the certificates and nothing else.
FROM scratch AS program
COPY --from=layout /image/ /
ENV PATH=/bin:/kaniko \
    HOME=/kaniko \
    DOCKER_CONFIG=/kaniko/.docker \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
WORKDIR /workspace
ENTRYPOINT ["/kaniko/executor"]

# With a shell, for CI systems that run a script in the image of the job: /busybox/sh, as in Kaniko's image, and /bin/sh.
FROM program AS debug
COPY --from=layout /debug/ /
ENV PATH=/bin:/kaniko:/busybox

# With Git and ssh, for contexts that are repositories; Git is no single file, so this is Debian.
FROM debian AS git
RUN apt-get update \
 && apt-get install --yes --no-install-recommends git openssh-client \
 && rm -rf /var/lib/apt/lists/*
COPY --from=layout /image/kaniko/ /kaniko/
RUN ln -s /kaniko/executor /usr/local/bin/cofferdam && mkdir -p /workspace /cache && chmod 1777 /workspace /cache
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/kaniko \
    HOME=/kaniko \
    DOCKER_CONFIG=/kaniko/.docker
WORKDIR /workspace
ENTRYPOINT ["/kaniko/executor"]

# What is built unless a target is named.
FROM program
