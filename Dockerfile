# The image for jobs that build images. Cofferdam builds it itself:
#
#     cofferdam build . --destination registry.example/cofferdam:latest
#     cofferdam build . --target shell --destination registry.example/cofferdam:shell

FROM rust:1.95-bookworm AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends musl-tools \
 && rm -rf /var/lib/apt/lists/* \
 && rustup target add "$(uname -m)-unknown-linux-musl"
WORKDIR /src
COPY . .
RUN target="$(uname -m)-unknown-linux-musl" \
 && cargo build --release --locked --package builder-cli --target "$target" \
 && mv "target/$target/release/cofferdam" /usr/local/bin/cofferdam

# With a shell, for CI systems that run a script inside the image of the job.
FROM busybox:1.37-musl AS shell
COPY --from=build /usr/local/bin/cofferdam /bin/cofferdam
WORKDIR /workspace

# The program and nothing else: certificates of the public authorities travel inside it.
FROM scratch
COPY --from=build /usr/local/bin/cofferdam /bin/cofferdam
ENV PATH=/bin
WORKDIR /workspace
ENTRYPOINT ["/bin/cofferdam"]
