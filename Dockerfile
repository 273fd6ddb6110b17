# The bridge in a container: not root, nothing written but in one volume, settings by environment variables or a mounted file.
#
# PYTHON is any Debian-like image with Python 3.11 or later, its venv module and CA certificates, on amd64 or arm64. Pin it for a
# build that can be repeated: --build-arg PYTHON=python:3.11-slim-bookworm@sha256:...
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
WORKDIR /src
ENV PIP_CONSTRAINT=/src/constraints.txt PIP_BUILD_CONSTRAINT=/src/constraints.txt
RUN python3 -m venv /opt/smtp-bridge
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY bridge ./bridge
# Of botocore the signatures and credentials are used: its descriptions of every other service of AWS are four fifths of it.
RUN /opt/smtp-bridge/bin/pip install --no-cache-dir --disable-pip-version-check . \
 && /opt/smtp-bridge/bin/pip uninstall --yes --quiet pip setuptools \
 && cd /opt/smtp-bridge/lib/python3*/site-packages/botocore/data \
 && find . -mindepth 1 -maxdepth 1 -type d ! -name sts ! -name 'sso*' ! -name signin -exec rm -r {} +

FROM ${PYTHON}
ARG PYTHON
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="smtp-rest-bridge" \
      org.opencontainers.image.description="Lets anything that speaks SMTP send through a REST email API" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON}"
COPY --from=build /opt/smtp-bridge /opt/smtp-bridge
ENV PATH=/opt/smtp-bridge/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    STATE_DIRECTORY=/var/lib/smtp-bridge \
    SMTP_BRIDGE_DEFAULT_LISTENER=0.0.0.0:2525
# The last line leaves the byte code of those parts of Python that are used, which slim images come without and a read-only file
# system cannot keep: each start and each health check would compile them anew.
RUN groupadd --gid 2525 smtp-bridge \
 && useradd --uid 2525 --gid 2525 --no-log-init --no-create-home --home-dir /var/lib/smtp-bridge --shell /usr/sbin/nologin smtp-bridge \
 && install -d -o smtp-bridge -g smtp-bridge -m 0750 /var/lib/smtp-bridge \
 && smtp-bridge health --help >/dev/null && smtp-bridge run --help >/dev/null \
 && python -c "import bridge.cli.run, bridge.cli.health.command, ssl, sqlite3, encodings.idna, tomllib"
USER 2525:2525
VOLUME /var/lib/smtp-bridge
EXPOSE 2525
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 CMD ["smtp-bridge", "health"]
ENTRYPOINT ["smtp-bridge"]
CMD ["run"]
