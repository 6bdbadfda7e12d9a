# syntax=docker/dockerfile:1
# One image with one binary. Under the name of a service, a link, the binary runs that service;
# docker-compose.yml chooses the name.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
# The root manifest names this file; tests are not built here.
COPY tests/e2e/main.rs tests/e2e/main.rs
COPY nats nats
COPY gateway gateway
COPY persister persister
COPY forwarder forwarder
COPY scheduler scheduler
COPY realtime realtime
COPY src src
# The two caches keep dependencies, fetched and compiled, over builds. They are not part of the image, so the binary is
# copied out of them in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --profile dist --locked -p petbuddy --bin petbuddy \
    && mkdir /out \
    && cp target/dist/petbuddy /out/ \
    && for service in gateway persister forwarder scheduler realtime; do ln -s petbuddy /out/$service; done

FROM debian:bookworm-slim
# The roots of trust for HTTPS to the bot and to the Graph API.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home petbuddy
COPY --from=build /out/ /usr/local/bin/
USER petbuddy
CMD ["petbuddy", "--help"]
