# syntax=docker/dockerfile:1
# The worker's image: the binary, a C library, the certificates of public authorities; no shell, not root.
#
#   docker build -t brigade .                    the image
#   docker build -t brigade --target producer .  the same with a shell, for the load of `docker compose --profile load`

FROM rust:1.95-trixie AS skeleton
WORKDIR /src
COPY . .
# What cargo needs to build the dependencies alone: manifests, and sources that are there and empty. An edit of a source
# changes nothing here, so the next stage's first step is not run again.
RUN find . -type f ! -name '*.rs' ! -name 'Cargo.*' ! -path './.cargo/*' -delete \
 && find . -name '*.rs' -exec truncate --size 0 {} + \
 && echo 'fn main() {}' > src/main.rs

FROM rust:1.95-trixie AS build
WORKDIR /src
# `dist` is what is shipped; `release` and `dev` build faster.
ARG PROFILE=dist
# Without the embedded S3 server and the demo, which no worker needs.
ARG FEATURES=jemalloc

COPY --from=skeleton /src .
RUN cargo build --locked --profile "$PROFILE" --no-default-features --features "$FEATURES" --bin brigade

COPY . .
# Shown in brigade_build_info.
ARG REVISION=unknown
# Cargo goes by times, and the empty sources are younger than the real ones.
RUN find src -name '*.rs' -exec touch {} + \
 && mkdir -p image/var/lib/brigade \
 && BRIGADE_REVISION="$REVISION" cargo install --locked --no-track --path . --root image/usr/local \
    --profile "$PROFILE" --no-default-features --features "$FEATURES" --bin brigade

# With a shell, for a loop that enqueues.
FROM debian:trixie-slim AS producer
COPY --from=build /src/image/usr/local/bin/brigade /usr/local/bin/brigade
COPY deploy/compose/produce.sh /usr/local/bin/produce
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/produce"]

FROM gcr.io/distroless/cc-debian13:nonroot AS worker
LABEL org.opencontainers.image.title="brigade" \
      org.opencontainers.image.description="Queue-driven S3 job processor: RabbitMQ in, S3 out, nothing lost" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /src/image/usr/local/bin/brigade /usr/local/bin/brigade
# A volume that is mounted here for the first time takes its owner from this directory.
COPY --from=build --chown=65532:65532 /src/image/var/lib/brigade /var/lib/brigade
# The ledger, unless DATABASE_URL says otherwise, is a file in the working directory.
WORKDIR /var/lib/brigade
USER 65532:65532
# Metrics are scraped from outside, so not on loopback; publish the port with care.
ENV BRIGADE_HTTP__LISTEN=0.0.0.0:9464
EXPOSE 9464
# The binary is process 1 and hears SIGTERM itself. Give it longer than drain.timeout (25 s): docker stop -t 40.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["/usr/local/bin/brigade", "healthcheck", "--timeout", "3s"]
ENTRYPOINT ["/usr/local/bin/brigade"]
CMD ["worker"]
