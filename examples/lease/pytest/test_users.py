import psycopg
import pytest

ADA = "INSERT INTO users (email, full_name, password_hash) VALUES ('ada@example.org', 'Ada', 'x')"


def test_an_address_belongs_to_one_user(connection):
    connection.execute(ADA)
    with pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute(ADA)


def test_nobody_is_there_at_first(connection):
    assert connection.execute("SELECT count(*) FROM users").fetchone() == (0,)
