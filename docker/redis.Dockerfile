# Redis as its own user, keeping its queue in a folder that a volume can take over.
FROM redis:7
RUN mkdir -p /data && chown redis:redis /data
USER redis
WORKDIR /data
