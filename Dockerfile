# syntax=docker/dockerfile:1
# docker build -t countersign:latest .
# The base image is an argument, so that a mirror can stand in.
ARG RUST_IMAGE=rust:1-bookworm

FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
# The caches outlive the build; what is kept of it has to be copied out of them. The image gets the programs, the
# libraries that they name, the certificates of public authorities, and nothing else: no shell, no package manager.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bins \
    && install -D -t /image/usr/local/bin target/release/countersign target/release/kubectl-approve_plan \
    && ldd target/release/countersign target/release/kubectl-approve_plan | grep -o '/[^ :]*\.so[^ ]*' | sort -u \
        | xargs cp --parents --dereference -t /image \
    && install -D -m 644 -t /image/etc/ssl/certs /etc/ssl/certs/ca-certificates.crt \
    && echo 'countersign:x:65532:65532::/nonexistent:/nonexistent' > /image/etc/passwd

FROM scratch
COPY --from=build /image /
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/countersign"]
CMD ["run"]
