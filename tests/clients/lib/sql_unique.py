"""PyMySQL against a cluster: unique keys, alone, in transactions and under concurrency; rows that are placed by some columns."""

import random
import sys
import threading

import pymysql

import suite
from sql_client import connect, fresh, number, run

COLUMNS = "id INT PRIMARY KEY, mail VARCHAR(30) UNIQUE, a INT, b INT, n INT NOT NULL DEFAULT 0, UNIQUE KEY ab (a, b)"


def plan(c, query):
    return " ".join(str(value) for value in run(c, f"EXPLAIN {query}")[0])


def test_no_two_rows_have_the_same():
    c = fresh(COLUMNS)
    run(c, "INSERT INTO t (id, mail, a, b) VALUES (1, 'x', 1, 1), (2, 'y', 1, 2), (3, NULL, 1, NULL), (4, NULL, 1, NULL)")
    error = suite.raises(pymysql.IntegrityError, lambda: run(c, "INSERT INTO t (id, mail) VALUES (5, 'x')"))
    assert error.args == (1062, "Duplicate entry 'x' for key 't.mail'"), error.args
    error = suite.raises(pymysql.IntegrityError, lambda: run(c, "UPDATE t SET b = 1 WHERE id = 2"))
    assert error.args == (1062, "Duplicate entry '1-1' for key 't.ab'"), error.args
    assert number(lambda: run(c, "UPDATE t SET mail = 'z'")) == 1062
    assert run(c, "SELECT id, mail FROM t ORDER BY id") == ((1, "x"), (2, "y"), (3, None), (4, None))
    # A value that was given up may be taken, also by the same statement.
    run(c, "UPDATE t SET mail = 'w' WHERE mail = 'x'")
    run(c, "INSERT INTO t (id, mail) VALUES (5, 'x')")
    assert run(c, "UPDATE t SET b = 3 - b WHERE a = 1 AND b IS NOT NULL") == 2
    assert run(c, "SELECT id FROM t WHERE a = 1 AND b = 2") == ((1,),)


def test_inserts_that_meet_rows():
    c = fresh(COLUMNS)
    run(c, "INSERT INTO t (id, mail, a, b) VALUES (1, 'x', 1, 1), (2, 'y', 2, 2)")
    assert run(c, "INSERT IGNORE INTO t (id, mail) VALUES (3, 'x'), (4, 'z')") == 1
    assert run(c, "SHOW WARNINGS") == (("Warning", 1062, "Duplicate entry 'x' for key 't.mail'"),)
    assert run(c, "INSERT INTO t (id, mail) VALUES (9, 'y') ON DUPLICATE KEY UPDATE n = n + 5") == 2
    assert run(c, "SELECT n FROM t WHERE mail = 'y'") == ((5,),)
    # One row in the place of two.
    assert run(c, "REPLACE INTO t (id, mail, a, b) VALUES (7, 'x', 2, 2)") == 3
    assert run(c, "SELECT id, mail, a FROM t ORDER BY id") == ((4, "z", None), (7, "x", 2))


def test_transactions():
    c = fresh(COLUMNS)
    run(c, "INSERT INTO t (id, mail) VALUES (1, 'x')")
    c.begin()
    run(c, "DELETE FROM t WHERE mail = 'x'")
    run(c, "INSERT INTO t (id, mail) VALUES (2, 'x')")
    assert run(c, "SELECT id FROM t WHERE mail = 'x'") == ((2,),)
    assert number(lambda: run(c, "INSERT INTO t (id, mail) VALUES (3, 'x')")) == 1062
    c.rollback()
    assert run(c, "SELECT id FROM t WHERE mail = 'x'") == ((1,),)
    c.begin()
    run(c, "SELECT * FROM t WHERE mail = 'y' FOR UPDATE")
    other = connect(database="py", autocommit=True)
    thread = threading.Thread(target=lambda: run(other, "INSERT INTO t (id, mail) VALUES (5, 'y')"))
    thread.start()
    # Who comes waits for the value that is missing and locked; or takes the lock, if it is older.
    run(c, "INSERT INTO t (id, mail) VALUES (6, 'w')")
    c.commit()
    thread.join()
    assert run(c, "SELECT id FROM t ORDER BY id") == ((1,), (5,), (6,))


def test_one_of_many_gets_the_value():
    c = fresh("id INT PRIMARY KEY, u INT UNIQUE, n INT NOT NULL DEFAULT 0")
    failures = []

    def work(first):
        other = connect(database="py", autocommit=True)
        for step in range(150):
            u = random.randrange(12)
            try:
                if step % 3 == 0:
                    run(other, "INSERT INTO t (id, u) VALUES (%s, %s) ON DUPLICATE KEY UPDATE n = n + 1", (first + step, u))
                elif step % 3 == 1:
                    run(other, "UPDATE t SET u = %s WHERE u = %s", (u, random.randrange(12)))
                else:
                    run(other, "DELETE FROM t WHERE u = %s", (u,))
            except pymysql.MySQLError as error:
                if error.args[0] not in (1062, 1205, 1213):
                    failures.append(error.args)
        other.close()

    threads = [threading.Thread(target=work, args=(1000 * place,)) for place in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not failures, failures[:3]
    rows = run(c, "SELECT u, id FROM t WHERE u + 0 >= 0")
    assert len({u for u, _ in rows}) == len(rows), rows
    for u in range(12):
        assert run(c, "SELECT u, id FROM t WHERE u = %s", (u,)) == tuple(row for row in rows if row[0] == u)


def test_what_is_told():
    c = fresh(COLUMNS)
    made = run(c, "SHOW CREATE TABLE t")[0][1]
    assert "UNIQUE KEY `mail` (`mail`)" in made and "UNIQUE KEY `ab` (`a`,`b`)" in made, made
    assert [row[1] for row in run(c, "SHOW INDEX FROM t")] == [0, 0, 0, 0]
    assert "by unique index ab" in plan(c, "SELECT * FROM t WHERE a = 1 AND b IN (1, 2)")
    assert number(lambda: run(c, "CREATE UNIQUE INDEX u ON t (n)")) == 1235


def test_rows_are_placed_by_some_columns():
    c = fresh("a INT, b INT, PRIMARY KEY (a, b)")
    run(c, "DROP TABLE t")
    run(c, "CREATE TABLE t (a INT, b INT, n INT, PRIMARY KEY (a, b), UNIQUE (n)) PARTITION BY KEY (b)")
    assert run(c, "SHOW CREATE TABLE t")[0][1].endswith("PARTITION BY KEY (`b`)")
    for first in range(10):
        run(c, "INSERT INTO t VALUES " + ", ".join(f"({first}, {b}, {10 * first + b})" for b in range(10)))
    assert "in one partition" in plan(c, "SELECT * FROM t WHERE b = 3")
    assert run(c, "SELECT COUNT(*), SUM(n) FROM t WHERE b = 3") == ((10, 480),)
    assert run(c, "SELECT a, b FROM t WHERE n = 57") == ((5, 7),)


if __name__ == "__main__":
    suite.run(sys.modules[__name__])
