# PostgreSQL as its own user from the first instruction on; the data folder belongs to it before a volume is mounted there.
FROM postgres:18
RUN mkdir -p /var/lib/postgresql && chown postgres:postgres /var/lib/postgresql
USER postgres
