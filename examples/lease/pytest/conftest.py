"""A migrated database of its own for each test: a daemon that gives leases (`schemad dev` does), and `schemad` on PATH."""

import subprocess

import psycopg
import pytest


@pytest.fixture
def database_url():
    # The lease ends when stdin does, also when pytest is killed.
    with subprocess.Popen(["schemad", "lease"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as lease:
        url = lease.stdout.readline().strip()
        assert url, "no lease; schemad says why"
        yield url
        lease.stdin.close()


@pytest.fixture
def connection(database_url):
    with psycopg.connect(database_url) as connection:
        yield connection
