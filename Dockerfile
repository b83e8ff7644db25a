# An image for every process that uses Celeriac: workers, the command, the HTTP API, and web servers that call tasks.
#
#   docker build -t celeriac .
#   docker run -v "$PWD:/app:ro" -v celeriac:/data -e CELERIAC_APP=shop celeriac
#
# docs/howto/containers.md shows how to put an app into it, and what to set around it.

FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/celeriac
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN /opt/celeriac/bin/pip install --no-cache-dir '.[redis,amqp,uvloop,web,prometheus]'

FROM python:3.13-slim
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin celeriac \
    && mkdir /app /data \
    && chown celeriac:celeriac /data
COPY --from=build /opt/celeriac /opt/celeriac
ENV PATH=/opt/celeriac/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CELERIAC_BROKER_URL=sqlite:////data/celeriac.db
WORKDIR /app
VOLUME /data
USER 10001:10001
STOPSIGNAL SIGTERM

# A worker is named after its container, so that the check asks this one and no other. `exec` leaves no shell between:
# the worker itself receives SIGTERM.
CMD ["sh", "-c", "exec celeriac worker --hostname \"worker@$HOSTNAME\""]
HEALTHCHECK --interval=30s --timeout=10s --start-period=20s --retries=3 \
    CMD celeriac inspect ping --destination "worker@$HOSTNAME" --timeout 5
