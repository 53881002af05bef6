#!/bin/sh
# A migrated database for one command; it is gone afterwards. With a daemon that gives leases (`schemad dev` does):
#
#   sh examples/lease/shell.sh
exec schemad lease -- sh -c 'psql -X -q -v ON_ERROR_STOP=1 "$DATABASE_URL" -c "SELECT count(*) AS applied FROM __diesel_schema_migrations"'
