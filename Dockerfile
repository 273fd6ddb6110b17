# The bridge in a container: not root, state in one volume, settings by environment variables or a mounted file.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY bridge ./bridge
ENV PIP_CONSTRAINT=/src/constraints.txt PIP_BUILD_CONSTRAINT=/src/constraints.txt
RUN python -m venv /opt/smtp-bridge \
 && /opt/smtp-bridge/bin/pip install --no-cache-dir --disable-pip-version-check . \
 && /opt/smtp-bridge/bin/pip uninstall --yes pip setuptools

FROM ${PYTHON}
RUN groupadd --system --gid 2525 smtp-bridge \
 && useradd --system --uid 2525 --gid 2525 --home-dir /var/lib/smtp-bridge --shell /usr/sbin/nologin smtp-bridge \
 && install -d -o smtp-bridge -g smtp-bridge -m 0750 /var/lib/smtp-bridge
COPY --from=build /opt/smtp-bridge /opt/smtp-bridge
ENV PATH=/opt/smtp-bridge/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    STATE_DIRECTORY=/var/lib/smtp-bridge \
    SMTP_BRIDGE_SMTP__LISTENER__ADDRESS=0.0.0.0:2525
USER 2525:2525
VOLUME /var/lib/smtp-bridge
EXPOSE 2525
STOPSIGNAL SIGTERM
ENTRYPOINT ["smtp-bridge"]
CMD ["run"]
