# The image of narthex: the binary, the libraries it is linked to, certificates, and nothing else; no shell, not root.
#   docker build -t narthex .
# The build needs 2 GB of memory and some minutes.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --profile dist --locked -p node \
    && mkdir -p /image/etc/ssl/certs /image/data /image/tmp \
    && cp target/dist/narthex /image/narthex \
    && ldd /image/narthex | grep -o '/[^ ]*' | xargs -I LIB cp --parents -L LIB /image \
    && cp -L /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
    && echo 'narthex:x:65532:65532::/data:/narthex' > /image/etc/passwd

FROM scratch
COPY --from=build --chown=65532:65532 /image /
USER 65532:65532
WORKDIR /data
# In a container loopback is nobody: it listens on all addresses. Publish its ports only where you trust the network.
ENV NARTHEX_DATA_DIR=/data \
    NARTHEX_HTTP_ADDRESS=0.0.0.0:10902 \
    NARTHEX_GRPC_ADDRESS=0.0.0.0:10901
VOLUME /data
EXPOSE 10901 10902
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=3 CMD ["/narthex", "healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/narthex"]
