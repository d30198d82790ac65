# The one image: proxy, authority, discovery, injector and `weft`, with nft. Nothing else is in it, no shell either.
#
#   docker build --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) --build-arg REVISION=$(git rev-parse HEAD) -t weft.dev/weft:0.1.0 .
#
# What goes in is listed in image/files, and laid out by image/rootfs, as for the images of the tests. The same sources, base image and
# arguments give the same files: versions are pinned, paths and times are taken out. Give BUILDER with a digest (NAME@sha256:...) to pin
# the base image for good.
ARG BUILDER=rust:1.95.0-slim-bookworm

FROM ${BUILDER} AS build
ARG SOURCE_DATE_EPOCH=0
# A version that is gone ends the build: it is to be raised here, where it is seen.
ARG NFTABLES=1.0.6-2+deb12u2
RUN apt-get update \
 && apt-get install --yes --no-install-recommends nftables=${NFTABLES} ca-certificates binutils
WORKDIR /src
COPY . .
# No incremental state and no path of this machine gets into the programs.
ENV CARGO_INCREMENTAL=0 \
    RUSTFLAGS="--remap-path-prefix=/src=weft --remap-path-prefix=/usr/local/cargo=cargo"
RUN cargo build --release --locked \
      --bin weft-ca --bin weft-discovery --bin weft-injector --bin weft \
 && image/proxy --locked
RUN image/rootfs target/release /image \
 && target/release/weft sbom >/image/usr/share/doc/weft/sbom.cdx.json \
 && find /image -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH}" {} +

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="weft" \
      org.opencontainers.image.description="Weft, a sidecar service mesh: proxy, control plane and command line" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="Weft" \
      org.opencontainers.image.base.name="scratch"
COPY --from=build /image/ /
ENV PATH=/usr/local/bin:/usr/sbin
# The control plane's. Pods of the mesh name their own: 1337 for the proxy, root for the container that redirects.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/weft-proxy"]
