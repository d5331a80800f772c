"""PyMySQL against a cluster: indexes that come and go while others read and write."""

import random
import sys
import threading
import time

import pymysql

import suite
from sql_client import connect, fresh, number, run

ROWS = 20_000


def filled(columns="id INT PRIMARY KEY, a INT, b VARCHAR(30)"):
    c = fresh(columns)
    for first in range(0, ROWS, 1000):
        rows = ", ".join(f"({n}, {n * 7919 % 1000}, 'row {n % 97}')" for n in range(first, first + 1000))
        run(c, f"INSERT INTO t VALUES {rows}")
    return c


def plan(c, query):
    return " ".join(str(value) for value in run(c, f"EXPLAIN {query}")[0])


class Others:
    """Connections that go on doing something until the end of a block, each on its own thread."""

    def __init__(self, *actions):
        self.actions, self.ending, self.failures, self.done, self.longest = actions, False, [], 0, 0.0

    def _loop(self, action):
        c = connect(database="py", autocommit=True)
        while not self.ending:
            start = time.monotonic()
            try:
                action(c)
                self.done += 1
            except pymysql.MySQLError as error:
                self.failures.append(error.args)
            self.longest = max(self.longest, time.monotonic() - start)
        c.close()

    def __enter__(self):
        self.threads = [threading.Thread(target=self._loop, args=(action,)) for action in self.actions]
        [thread.start() for thread in self.threads]
        return self

    def __exit__(self, *_):
        self.ending = True
        [thread.join() for thread in self.threads]


def write(c):
    n = random.randrange(2 * ROWS)
    run(c, "INSERT INTO t VALUES (%s, %s, 'x') ON DUPLICATE KEY UPDATE a = a + 1", (n, n % 1000))
    run(c, "UPDATE t SET a = %s WHERE id = %s", (random.randrange(1000), random.randrange(ROWS)))
    run(c, "DELETE FROM t WHERE id = %s", (random.randrange(2 * ROWS),))


def test_an_index_is_built_while_writes_go_on():
    c = filled()
    query = "SELECT id FROM t WHERE a = 5 ORDER BY id"
    assert "by_a" not in plan(c, query)
    with Others(write, write) as others:
        time.sleep(0.2)
        run(c, "CREATE INDEX by_a ON t (a)")
        assert "by_a" in plan(c, query)
        time.sleep(0.2)
    assert not others.failures and others.done > 20, (others.failures[:3], others.done)
    print(f"{others.done} times three writes, the longest took {others.longest * 1000:.0f} ms", file=sys.stderr)
    # What the index has is what the table has.
    for a in range(0, 1000, 37):
        assert run(c, "SELECT id FROM t WHERE a = %s ORDER BY id", (a,)) == run(
            c, "SELECT id FROM t WHERE a + 0 = %s ORDER BY id", (a,)
        )
    count = run(c, "SELECT COUNT(*) FROM t")
    assert run(c, "SELECT COUNT(*) FROM t WHERE a >= 0") == count
    names = {row[2] for row in run(c, "SHOW INDEX FROM t")}
    assert names == {"PRIMARY", "by_a"} and "KEY `by_a` (`a`)" in run(c, "SHOW CREATE TABLE t")[0][1]
    run(c, "DROP INDEX by_a ON t")
    assert "by_a" not in plan(c, query) and len(run(c, "SHOW INDEX FROM t")) == 1


def test_alter_table_changes_indexes():
    c = fresh("id INT PRIMARY KEY, a INT, b VARCHAR(30), KEY old (b)")
    run(c, "INSERT INTO t VALUES (1, 2, 'x')")
    run(c, "ALTER TABLE t ADD INDEX (a), ADD KEY ab (a, b), DROP KEY old, ALGORITHM=INPLACE, LOCK=NONE")
    assert [row[2] for row in run(c, "SHOW INDEX FROM t")] == ["PRIMARY", "a", "ab", "ab"]
    assert number(lambda: run(c, "CREATE INDEX a ON t (b)")) == 1061
    assert number(lambda: run(c, "DROP INDEX old ON t")) == 1091
    assert number(lambda: run(c, "CREATE INDEX n ON t (nothing)")) == 1072
    assert number(lambda: run(c, "CREATE INDEX n ON nothing (a)")) == 1146
    assert number(lambda: run(c, "ALTER TABLE t DROP PRIMARY KEY")) == 1235


def test_statements_do_not_notice_that_indexes_come_and_go():
    c = filled()
    prepared = "SELECT id FROM t WHERE a = %s ORDER BY a, id LIMIT 5"

    def read(other):
        a = random.randrange(1000)
        rows = run(other, prepared, (a,))
        assert [row[0] for row in rows] == sorted(row[0] for row in rows)

    def change(other):
        other.begin()
        run(other, "UPDATE t SET b = 'y' WHERE a = %s LIMIT 3", (random.randrange(1000),))
        run(other, "SELECT COUNT(*) FROM t WHERE a BETWEEN 3 AND 5")
        other.commit()

    with Others(read, read, change) as others:
        for _ in range(10):
            run(c, "CREATE INDEX by_a ON t (a)")
            run(c, "DROP INDEX by_a ON t")
    unexpected = [failure for failure in others.failures if failure[0] not in (1205, 1213)]
    assert not unexpected and others.done > 10, (unexpected[:3], others.done)


def test_statements_that_meet_another_table_of_the_name():
    c = filled()

    def read(other):
        run(other, "SELECT COUNT(*) FROM t WHERE id < 5")

    with Others(read, read) as others:
        for columns in ("id INT PRIMARY KEY", "x INT, id INT PRIMARY KEY") * 5:
            run(c, "DROP TABLE t")
            run(c, f"CREATE TABLE t ({columns})")
    unexpected = [failure for failure in others.failures if failure[0] != 1146]
    assert not unexpected and others.done > 10, (unexpected[:3], others.done)


if __name__ == "__main__":
    suite.run(sys.modules[__name__])
