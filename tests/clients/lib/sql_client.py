"""PyMySQL against a cluster: types, transactions, errors, large values, connections that break."""

import datetime
import decimal
import os
import socket
import sys
import time

import pymysql
from pymysql.constants import CLIENT, COMMAND

import suite

PORT = int(os.environ["SQL_PORT"])


def connect(**options):
    settings = {"host": "127.0.0.1", "port": PORT, "user": "root", "read_timeout": 60} | options
    return pymysql.connect(**settings)


def fresh(columns, **options):
    """A connection to a database with one empty table `t`."""
    c = connect(autocommit=True, **options)
    run(c, "CREATE DATABASE IF NOT EXISTS py")
    c.select_db("py")
    run(c, "DROP TABLE IF EXISTS t")
    run(c, f"CREATE TABLE t ({columns})")
    return c


def run(c, text, values=None):
    with c.cursor() as cursor:
        count = cursor.execute(text, values)
        return cursor.fetchall() if cursor.description else count


def number(call):
    return suite.raises(pymysql.MySQLError, call).args[0]


def test_values_of_all_types_come_back():
    c = fresh(
        "id INT PRIMARY KEY, i BIGINT, u BIGINT UNSIGNED, d DECIMAL(10,3), f DOUBLE, s VARCHAR(20), c CHAR(5), b VARBINARY(20), "
        "t TEXT, day DATE, at DATETIME(6), yes BOOL"
    )
    row = (
        1, -(2**63), 2**64 - 1, decimal.Decimal("-1.500"), 0.1, "ä'\\\"%\n", "ab", b"\x00\xff'", "long" * 1000,
        datetime.date(2024, 2, 29), datetime.datetime(2024, 2, 29, 1, 2, 3, 456789), 1,
    )
    places = ", ".join(["%s"] * len(row))
    assert run(c, f"INSERT INTO t VALUES ({places})", row) == 1
    assert run(c, "INSERT INTO t (id) VALUES (2)") == 1
    assert run(c, "SELECT * FROM t ORDER BY id") == (row, (2,) + (None,) * 11)
    for name, value in zip("i u d s c b t day at".split(), row[1:4] + row[5:11]):
        assert run(c, f"SELECT id FROM t WHERE {name} = %s", (value,)) == ((1,),), name


def test_transactions():
    c = fresh("id INT PRIMARY KEY, n INT")
    other = connect(database="py", autocommit=True)
    c.autocommit(False)
    run(c, "INSERT INTO t VALUES (1, 10), (2, 20)")
    assert run(other, "SELECT * FROM t") == ()
    assert run(c, "SELECT SUM(n) FROM t") == ((30,),), "it sees what it has written"
    c.commit()
    assert run(other, "SELECT n FROM t WHERE id IN (2, 1) ORDER BY id") == ((10,), (20,))
    run(c, "UPDATE t SET n = n + 1 WHERE id = 1")
    run(c, "SAVEPOINT a")
    run(c, "DELETE FROM t")
    assert run(c, "SELECT COUNT(*) FROM t") == ((0,),)
    run(c, "ROLLBACK TO SAVEPOINT a")
    assert run(c, "SELECT n FROM t ORDER BY id") == ((11,), (20,))
    c.rollback()
    assert run(c, "SELECT n FROM t ORDER BY id") == ((10,), (20,))


def test_a_statement_is_done_as_a_whole_or_not_at_all():
    c = fresh("id INT PRIMARY KEY, n TINYINT")
    run(c, "INSERT INTO t VALUES (2, 100)")
    assert number(lambda: run(c, "INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)")) == 1062
    assert run(c, "SELECT * FROM t") == ((2, 100),)
    c.begin()
    run(c, "INSERT INTO t VALUES (5, 5)")
    assert number(lambda: run(c, "INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)")) == 1062
    assert number(lambda: run(c, "UPDATE t SET n = n + 50")) == 1264
    assert number(lambda: run(c, "INSERT INTO t VALUES (9, 1000)")) == 1264
    c.commit()
    assert run(c, "SELECT * FROM t ORDER BY id") == ((2, 100), (5, 5))


def test_inserts_of_other_kinds():
    c = fresh("id INT PRIMARY KEY, n INT, s VARCHAR(10)")
    assert run(c, "INSERT INTO t VALUES (1, 1, 'a')") == 1
    assert run(c, "INSERT IGNORE INTO t VALUES (1, 2, 'b'), (2, 2, 'b')") == 1
    assert run(c, "INSERT INTO t VALUES (1, 5, 'c') ON DUPLICATE KEY UPDATE n = n + VALUES(n)") == 2
    assert run(c, "INSERT INTO t VALUES (3, 5, 'c') ON DUPLICATE KEY UPDATE n = n + 1") == 1
    assert run(c, "INSERT INTO t VALUES (3, 5, 'c') ON DUPLICATE KEY UPDATE n = 5") == 0
    assert run(c, "INSERT INTO t VALUES (3, 5, 'c') ON DUPLICATE KEY UPDATE s = CONCAT(s, VALUES(s))") == 2
    assert run(c, "REPLACE INTO t VALUES (2, 9, 'z')") == 2
    assert run(c, "INSERT INTO t SELECT id + 10, n, s FROM t WHERE id < 3") == 2
    rows = ((1, 6, "a"), (2, 9, "z"), (3, 5, "cc"), (11, 6, "a"), (12, 9, "z"))
    assert run(c, "SELECT * FROM t ORDER BY id") == rows


def test_numbers_count_by_themselves():
    c = fresh("id INT AUTO_INCREMENT PRIMARY KEY, s VARCHAR(10)")
    with c.cursor() as cursor:
        cursor.execute("INSERT INTO t (s) VALUES ('a'), ('b')")
        first = cursor.lastrowid
        cursor.execute("INSERT INTO t VALUES (NULL, 'c'), (1000, 'd')")
        assert cursor.lastrowid == first + 2
        cursor.execute("INSERT INTO t (s) VALUES ('e')")
        assert cursor.lastrowid == 1001
    assert run(c, "SELECT LAST_INSERT_ID()") == ((1001,),)
    assert run(c, "SELECT id - %s FROM t WHERE id < 1000 ORDER BY id", (first,)) == ((0,), (1,), (2,))


def test_large_values_and_many_rows():
    c = fresh("id INT PRIMARY KEY, b LONGBLOB")
    large = os.urandom(1 << 20)
    run(c, "INSERT INTO t VALUES (1, %s)", (large,))
    assert run(c, "SELECT b FROM t WHERE id = 1") == ((large,),)
    assert number(lambda: run(c, "SELECT '" + "x" * (17 << 20) + "'")) == 1153
    c = connect(database="py", autocommit=True)
    with c.cursor() as cursor:
        cursor.executemany("INSERT INTO t (id) VALUES (%s)", [(id,) for id in range(2, 5002)])
    assert run(c, "SELECT COUNT(*), MIN(id), MAX(id) FROM t") == ((5001, 1, 5001),)
    assert run(c, "SELECT id FROM t WHERE id > 100 ORDER BY id DESC LIMIT 2, 3") == ((4999,), (4998,), (4997,))
    assert run(c, "UPDATE t SET b = 'x' WHERE id > 1") == 5000
    assert run(c, "DELETE FROM t WHERE id BETWEEN 100 AND 199") == 100
    assert run(c, "SELECT COUNT(*) FROM t WHERE b = 'x'") == ((4900,),)


def test_several_statements():
    c = connect(client_flag=CLIENT.MULTI_STATEMENTS)
    with c.cursor() as cursor:
        cursor.execute("SELECT 1; SET autocommit = 1; SELECT 2")
        assert cursor.fetchall() == ((1,),)
        assert cursor.nextset() and cursor.nextset()
        assert cursor.fetchall() == ((2,),)
        assert not cursor.nextset()
    assert number(lambda: run(connect(client_flag=0), "SELECT 1; SELECT 2")) == 1064


def test_errors_leave_the_connection_usable():
    c = fresh("id INT PRIMARY KEY, s VARCHAR(3) NOT NULL")
    cases = {
        "SELEC 1": 1064, "SELECT * FROM nothing": 1146, "SELECT x FROM t": 1054, "INSERT INTO t VALUES (1)": 1136,
        "INSERT INTO t (id) VALUES (1)": 1364, "INSERT INTO t VALUES (1, NULL)": 1048, "INSERT INTO t VALUES (1, 'long')": 1406,
        "INSERT INTO t VALUES ('x', 'a')": 1366, "INSERT INTO t VALUES (3000000000, 'a')": 1264, "CREATE TABLE t (id INT PRIMARY KEY)": 1050,
        "DROP TABLE nothing": 1051, "USE nothing": 1049, "SELECT 9223372036854775807 + 1": 1690, "CREATE VIEW v AS SELECT 1": 1235,
        "SELECT * FROM t STRAIGHT_JOIN t AS u": 1235, "SELECT * FROM t JOIN u": 1146, "LOAD DATA LOCAL INFILE 'x' INTO TABLE t": 1235, "SELECT @@nothing": 1193,
        "SELECT (SELECT 1 UNION SELECT 2)": 1242, "SELECT id FROM (SELECT id FROM t) AS d FOR UPDATE": 1235, "": 1065, "CREATE TABLE v (id INT)": 1235, "ROLLBACK TO SAVEPOINT x": 1305,
    }
    for text, expected in cases.items():
        assert number(lambda: run(c, text)) == expected, text
    assert run(c, "SELECT COUNT(*) FROM t") == ((0,),)


def test_queries_of_several_tables():
    c = fresh("id INT PRIMARY KEY, boss INT, n INT")
    run(c, "INSERT INTO t VALUES (1, NULL, 10), (2, 1, 20), (3, 1, 30), (4, 9, 40)")
    left = "SELECT a.id, b.n FROM t AS a LEFT JOIN t AS b ON b.id = a.boss ORDER BY a.id"
    assert run(c, left) == ((1, None), (2, 10), (3, 10), (4, None))
    assert run(c, "SELECT a.id FROM t a JOIN t b ON b.id = a.boss WHERE b.n = %s ORDER BY 1", (10,)) == ((2,), (3,))
    assert run(c, "SELECT (SELECT MAX(n) FROM t), id FROM t WHERE id IN (SELECT boss FROM t)") == ((40, 1),)
    assert run(c, "SELECT id FROM t WHERE id < 3 UNION SELECT 2 UNION SELECT 7 ORDER BY 1") == ((1,), (2,), (7,))
    columns = "SELECT column_name FROM information_schema.columns WHERE table_name = 't' ORDER BY ordinal_position"
    assert run(c, columns) == (("id",), ("boss",), ("n",))


def test_a_connection_that_breaks_frees_its_locks_at_once():
    c = fresh("id INT PRIMARY KEY, n INT")
    run(c, "INSERT INTO t VALUES (1, 0)")
    holder = connect(database="py")
    run(holder, "SELECT * FROM t WHERE id = 1 FOR UPDATE")
    waiting = connect(database="py")
    waiting._execute_command(COMMAND.COM_QUERY, "UPDATE t SET n = n + 100 WHERE id = 1")
    time.sleep(0.2)
    # Who waits for a lock goes away, and then who holds it.
    waiting._force_close()
    holder._force_close()
    begin = time.monotonic()
    assert run(c, "UPDATE t SET n = n + 1 WHERE id = 1") == 1
    assert time.monotonic() - begin < 5
    assert run(c, "SELECT n FROM t") == ((1,),)


def test_garbage_is_told_so():
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100, b"\x05\x00\x00\x01\x00\x00\x00\x00\x00"):
        with socket.create_connection(("127.0.0.1", PORT), timeout=30) as s:
            assert s.recv(4096)[4] == 10
            s.sendall(garbage)
            answer = s.recv(4096)
            assert answer[4] == 0xFF, answer
            assert s.recv(1) == b""
    assert run(connect(), "SELECT 1") == ((1,),)


def test_the_session_begins_anew():
    c = fresh("id INT PRIMARY KEY")
    c.begin()
    run(c, "INSERT INTO t VALUES (1)")
    c._execute_command(0x1F, b"")
    c._read_ok_packet()
    assert run(c, "SELECT DATABASE(), @@autocommit") == ((None, 1),)
    assert run(c, "SELECT COUNT(*) FROM py.t") == ((0,),)


if __name__ == "__main__":
    suite.run(sys.modules[__name__])
