# dispatchd in an image with nothing but the program and certificates:
#   docker build -t dispatchd .
# The history is not sent to Docker; to let `dispatchd version` know the commit:
#   docker build --build-arg VERSION="$(git describe --tags --always)" --build-arg COMMIT="$(git rev-parse HEAD)" -t dispatchd .
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# One on a line: Buildah takes only the first of several.
ARG VERSION=devel
ARG COMMIT=
ARG COMMIT_TIME=
RUN make build VERSION="${VERSION}" COMMIT="${COMMIT}" COMMIT_TIME="${COMMIT_TIME}" MODIFIED= \
 && install -d -m 0700 -o 65532 -g 65532 /data /scratch

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /usr/share/zoneinfo /usr/share/zoneinfo
COPY --from=build /src/bin/dispatchd /dispatchd
COPY --from=build --chown=65532:65532 /data /var/lib/dispatchd
# A trial's embedded Redis wants a temporary directory.
COPY --from=build --chown=65532:65532 /scratch /tmp
USER 65532:65532
ENV STATE_DIRECTORY=/var/lib/dispatchd
VOLUME /var/lib/dispatchd
EXPOSE 8080 8081 9480
ENTRYPOINT ["/dispatchd"]
CMD ["serve", "--config", "/etc/dispatchd/config.toml"]
