"""A client generated from twofold.proto against a cluster, as its users write one."""

import os
import queue
import socket
import sys
import threading
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import suite
import twofold_pb2 as tf
import twofold_pb2_grpc

# As large as answers to the largest requests.
LIMITS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]
CHANNEL = grpc.insecure_channel(f"127.0.0.1:{os.environ['GRPC_PORT']}", options=LIMITS)
API = twofold_pb2_grpc.TwofoldStub(CHANNEL)
PATIENCE = 60


def text(value):
    return tf.Value(text_value=value)


def number(value):
    return tf.Value(int_value=value)


def column(name, kind, **more):
    return tf.ColumnDefinition(name=name, type=kind, **more)


def create(name):
    """A table of this name, new."""
    API.DropTable(tf.DropTableRequest(name=name, if_exists=True), timeout=PATIENCE)
    columns = [
        column("owner", tf.TEXT, max_length=20),
        column("id", tf.INT32),
        column("balance", tf.INT64),
        column("note", tf.TEXT, max_length=100, nullable=True),
    ]
    table = tf.TableDefinition(
        name=name, columns=columns, primary_key=["owner", "id"], distribution_key=["owner"]
    )
    API.CreateTable(tf.CreateTableRequest(table=table), timeout=PATIENCE)
    return name


def key(owner, id=1):
    return [text(owner), number(id)]


def row(owner, balance, id=1):
    return {"owner": text(owner), "id": number(id), "balance": number(balance)}


def insert(table, owner, balance, id=1):
    return tf.Operation(table=table, insert=tf.Insert(row=row(owner, balance, id)))


def read(table, owner, id=1, **more):
    return tf.Operation(table=table, read=tf.Read(key=key(owner, id), **more))


def add(table, owner, amount, id=1, **more):
    assignments = tf.Assignments(add={"balance": number(amount)})
    return tf.Operation(table=table, update=tf.Update(key=key(owner, id), assignments=assignments, **more))


def delete(table, owner, id=1, **more):
    return tf.Operation(table=table, delete=tf.Delete(key=key(owner, id), **more))


def execute(*operations, **more):
    return API.Execute(tf.ExecuteRequest(operations=operations, **more), timeout=PATIENCE)


def balance(table, owner, id=1):
    result = execute(read(table, owner, id)).results[0]
    return result.row.columns["balance"].int_value if result.existed else None


def refused(call, status, code):
    """The call fails with this status and Twofold's code; returns the error."""
    error = suite.raises(grpc.RpcError, call)
    said = dict(error.trailing_metadata()).get("twofold-code")
    assert (error.code(), said) == (status, code), f"{error.code()} {said}: {error.details()}"
    assert error.details().startswith(code), error.details()
    return error


class Session:
    """A stream of statements; answers by the number of their request."""

    def __init__(self):
        self.requests = queue.Queue()
        self.answers = API.Session(iter(self.requests.get, None), timeout=PATIENCE)
        self.seen = {}
        self.count = 0

    def send(self, transaction, *operations, **more):
        self.count += 1
        self.requests.put(
            tf.SessionRequest(request=self.count, transaction=transaction, operations=operations, **more)
        )
        return self.count

    def answer(self, request):
        while request not in self.seen:
            answer = next(self.answers)
            self.seen[answer.request] = answer
        return self.seen.pop(request)

    def run(self, transaction, *operations, **more):
        return self.answer(self.send(transaction, *operations, **more))

    def close(self):
        self.requests.put(None)
        assert list(self.answers) == []


def test_health_and_reflection():
    health = health_pb2_grpc.HealthStub(CHANNEL)
    for service in ["", "twofold.v1.Twofold"]:
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, service
    assert "twofold.v1.Twofold" in ProtoReflectionDescriptorDatabase(CHANNEL).get_services()


def test_tables():
    table = create("tables")
    assert table in API.ListTables(tf.ListTablesRequest(), timeout=PATIENCE).names
    described = API.DescribeTable(tf.DescribeTableRequest(name=table), timeout=PATIENCE).table
    assert [c.name for c in described.columns] == ["owner", "id", "balance", "note"]
    assert (list(described.primary_key), list(described.distribution_key)) == (["owner", "id"], ["owner"])
    again = tf.CreateTableRequest(table=described)
    refused(lambda: API.CreateTable(again, timeout=PATIENCE), grpc.StatusCode.ALREADY_EXISTS, "TF-1009")
    again.if_not_exists = True
    API.CreateTable(again, timeout=PATIENCE)
    API.DropTable(tf.DropTableRequest(name=table), timeout=PATIENCE)
    assert table not in API.ListTables(tf.ListTablesRequest(), timeout=PATIENCE).names
    refused(lambda: balance(table, "ann"), grpc.StatusCode.NOT_FOUND, "TF-1002")
    gone = tf.DropTableRequest(name=table)
    refused(lambda: API.DropTable(gone, timeout=PATIENCE), grpc.StatusCode.NOT_FOUND, "TF-1002")
    # A new one of the name has none of the rows.
    create(table)
    execute(insert(table, "ann", 1))
    create(table)
    assert balance(table, "ann") is None


def test_each_operation():
    table = create("operations")
    assert execute(insert(table, "ann", 10)).results[0].changed
    result = execute(read(table, "ann", version=True)).results[0]
    assert result.existed and result.version.epoch > 0
    assert {name: value.WhichOneof("kind") for name, value in result.row.columns.items()} == {
        "owner": "text_value", "id": "int_value", "balance": "int_value", "note": "null_value",
    }
    result = execute(add(table, "ann", 5, return_old=tf.Columns(), return_new=tf.Columns(names=["balance"])))
    result = result.results[0]
    assert result.old_row.columns["balance"].int_value == 10
    assert dict(result.row.columns) == {"balance": number(15)}
    write = tf.Write(row={**row("ann", 7), "note": text("x")})
    execute(tf.Operation(table=table, write=write))
    write = tf.Write(row=row("ann", 1), if_exists=tf.Assignments(append={"note": text("y")}))
    execute(tf.Operation(table=table, write=write))
    result = execute(read(table, "ann", columns=tf.Columns(names=["balance", "note"]))).results[0]
    assert dict(result.row.columns) == {"balance": number(7), "note": text("xy")}
    assert execute(delete(table, "ann")).results[0].existed
    assert not execute(read(table, "ann")).results[0].existed


def test_all_or_none():
    table = create("all_or_none")
    execute(*(insert(table, f"o{i}", i) for i in range(50)))
    answer = execute(*(read(table, f"o{i}") for i in range(50)))
    assert [r.row.columns["balance"].int_value for r in answer.results] == list(range(50))
    both = [add(table, "o1", -1), add(table, "missing", 1)]
    refused(lambda: execute(*both), grpc.StatusCode.NOT_FOUND, "TF-1012")
    assert balance(table, "o1") == 1
    # Each on its own: the error is in its result.
    results = execute(*both, mode=tf.INDEPENDENT).results
    assert not results[0].HasField("error") and results[1].error.code == "TF-1012"
    assert balance(table, "o1") == 0


def test_conditions():
    table = create("conditions")
    execute(insert(table, "ann", 10))
    enough = tf.Condition(
        compare=tf.Condition.Compare(column="balance", comparator=tf.GREATER_OR_EQUAL, value=number(8))
    )
    execute(add(table, "ann", -8, conditions=[enough]))
    withdraw = add(table, "ann", -8, conditions=[enough])
    refused(lambda: execute(withdraw), grpc.StatusCode.FAILED_PRECONDITION, "TF-1013")
    version = execute(read(table, "ann", version=True)).results[0].version
    same = tf.Condition(version=tf.Condition.VersionIs(comparator=tf.EQUAL, version=version))
    execute(add(table, "ann", 1, conditions=[same]))
    stale = add(table, "ann", 1, conditions=[same])
    refused(lambda: execute(stale), grpc.StatusCode.FAILED_PRECONDITION, "TF-1013")
    assert balance(table, "ann") == 3


def test_expiry():
    table = create("expiry")
    operation = insert(table, "ann", 1)
    operation.insert.expire_in_ms = 300
    execute(operation, insert(table, "bob", 1))
    end = time.monotonic() + PATIENCE
    while balance(table, "ann") is not None:
        assert time.monotonic() < end
    assert balance(table, "bob") == 1


def test_session():
    table = create("session")
    execute(insert(table, "ann", 10), insert(table, "bob", 10))
    session = Session()
    answer = session.run(1, read(table, "ann", lock=tf.LOCK_EXCLUSIVE), begin=True)
    assert answer.state == tf.OPEN and answer.results[0].row.columns["balance"].int_value == 10
    # What is not committed is seen by nobody else.
    assert session.run(1, add(table, "ann", -3), savepoint="s").state == tf.OPEN
    assert balance(table, "ann") == 10
    assert session.run(1, add(table, "ann", -100)).state == tf.OPEN
    assert session.run(1, add(table, "bob", 3), rollback_to="s").state == tf.OPEN
    committed = session.run(1, end=tf.COMMIT)
    assert committed.state == tf.COMMITTED and committed.epoch > 0
    assert (balance(table, "ann"), balance(table, "bob")) == (7, 13)
    status = API.TransactionStatus(tf.TransactionStatusRequest(token=committed.token), timeout=PATIENCE)
    assert (status.state, status.epoch) == (tf.COMMITTED, committed.epoch), status
    session.run(2, add(table, "ann", 1), begin=True)
    assert session.run(2, end=tf.ROLLBACK).state == tf.ABORTED
    assert balance(table, "ann") == 7
    answer = session.run(3, add(table, "ann", 1))
    assert (answer.state, answer.error.code) == (tf.ABORTED, "TF-2004")
    session.close()


def test_session_pipelined():
    table = create("pipelined")
    execute(*(insert(table, f"o{i}", 0) for i in range(20)))
    session = Session()
    sent = []
    for i in range(200):
        # Two statements of each, sent before anything is answered.
        sent.append(session.send(i, add(table, f"o{i % 20}", 1), begin=True))
        sent.append(session.send(i, end=tf.COMMIT))
    committed = [session.answer(request) for request in sent][1::2]
    outcomes = [answer.state == tf.COMMITTED for answer in committed]
    # Older transactions may have the younger ones aborted; what is not committed is not there.
    for i in range(20):
        assert balance(table, f"o{i}") == sum(outcomes[i::20]), i
    assert any(outcomes)
    session.close()


def test_session_open_transactions_end_with_it():
    table = create("left_open")
    execute(insert(table, "ann", 1))
    session = Session()
    assert session.run(1, add(table, "ann", 1), begin=True).state == tf.OPEN
    session.close()
    # Its lock is gone too.
    execute(add(table, "ann", 10))
    assert balance(table, "ann") == 11


def test_deadlock_is_broken():
    table = create("deadlock")
    execute(insert(table, "ann", 0), insert(table, "bob", 0))
    session = Session()
    assert session.run(1, add(table, "ann", 1), begin=True).state == tf.OPEN
    assert session.run(2, add(table, "bob", 1), begin=True).state == tf.OPEN
    crossed = [session.send(1, add(table, "bob", 1)), session.send(2, add(table, "ann", 1))]
    older, younger = [session.answer(request) for request in crossed]
    assert older.state == tf.OPEN and not older.HasField("error"), older
    assert younger.state == tf.ABORTED and younger.error.temporary, younger
    assert session.run(1, end=tf.COMMIT).state == tf.COMMITTED
    # Tried again, with the age of the first attempt.
    assert session.run(2, add(table, "bob", 1), add(table, "ann", 1), begin=True, age=younger.age, end=tf.COMMIT).state == tf.COMMITTED
    assert (balance(table, "ann"), balance(table, "bob")) == (2, 2)
    session.close()


def test_transaction_status():
    table = create("status")
    answer = execute(insert(table, "ann", 1))
    status = API.TransactionStatus(tf.TransactionStatusRequest(token=answer.token), timeout=PATIENCE)
    # Its client has been answered: it may have been forgotten already.
    assert status.state in (tf.COMMITTED, tf.FINISHED)
    assert status.epoch in (answer.epoch, 0)
    wrong = tf.TransactionStatusRequest(token=b"nonsense")
    refused(lambda: API.TransactionStatus(wrong, timeout=PATIENCE), grpc.StatusCode.INVALID_ARGUMENT, "TF-1001")


def test_scan():
    table = create("scan")
    count = 3000
    for start in range(0, count, 500):
        execute(*(insert(table, f"o{i}", i, i % 7) for i in range(start, start + 500)))
    answers = list(API.Scan(tf.ScanRequest(table=table, batch_rows=100), timeout=PATIENCE))
    assert all(len(answer.rows) <= 100 for answer in answers)
    columns = list(answers[0].columns)
    assert columns == ["owner", "id", "balance", "note"]
    rows = [dict(zip(columns, r.values)) for answer in answers for r in answer.rows]
    assert sorted(r["balance"].int_value for r in rows) == list(range(count))
    few = tf.Condition(compare=tf.Condition.Compare(column="balance", comparator=tf.LESS, value=number(10)))
    request = tf.ScanRequest(table=table, filter=[few], columns=tf.Columns(names=["balance"]))
    answers = list(API.Scan(request, timeout=PATIENCE))
    assert sorted(r.values[0].int_value for a in answers for r in a.rows) == list(range(10))
    answers = list(API.Scan(tf.ScanRequest(table=table, limit=5), timeout=PATIENCE))
    assert sum(len(answer.rows) for answer in answers) == 5
    missing = tf.ScanRequest(table="missing")
    refused(lambda: list(API.Scan(missing, timeout=PATIENCE)), grpc.StatusCode.NOT_FOUND, "TF-1002")


class Neighbour:
    """Another client, who must notice nothing."""

    def __init__(self, table):
        self.table = table
        self.stop = threading.Event()
        self.rounds = 0
        self.error = None
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            while not self.stop.is_set():
                self.rounds += 1
                execute(add(self.table, "neighbour", 1))
                assert balance(self.table, "neighbour") == self.rounds
        except Exception as error:
            self.error = error

    def __enter__(self):
        execute(insert(self.table, "neighbour", 0))
        self.thread.start()

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        assert self.error is None and self.rounds > 0, self.error


def test_wrong_requests_that_others_do_not_notice():
    table = create("wrong")
    with Neighbour(table):
        wrong_requests(table)


def wrong_requests(table):
    execute(insert(table, "ann", 1))
    wrong, unknown = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    refused(lambda: execute(insert(table, "ann", 1)), grpc.StatusCode.ALREADY_EXISTS, "TF-1011")
    refused(lambda: execute(read("missing", "ann")), unknown, "TF-1002")
    error = refused(lambda: execute(insert(table, "bob", 1), add(table, "eve", 1)), unknown, "TF-1012")
    assert "table" in error.details(), error.details()
    refused(lambda: execute(), wrong, "TF-1001")
    refused(lambda: execute(tf.Operation(table=table)), wrong, "TF-1001")
    bad_type = insert(table, "bob", 1)
    bad_type.insert.row["balance"].CopyFrom(text("much"))
    error = refused(lambda: execute(bad_type), wrong, "TF-1008")
    assert "balance" in error.details(), error.details()
    bad_column = insert(table, "bob", 1)
    bad_column.insert.row["colour"].CopyFrom(text("red"))
    error = refused(lambda: execute(bad_column), wrong, "TF-1007")
    assert "colour" in error.details(), error.details()
    twice = add(table, "ann", 1)
    twice.update.assignments.set["balance"].CopyFrom(number(3))
    refused(lambda: execute(twice), wrong, "TF-1007")
    too_long = insert(table, "x" * 21, 1)
    refused(lambda: execute(too_long), wrong, "TF-1008")
    short_key = tf.Operation(table=table, read=tf.Read(key=[text("ann")]))
    error = suite.raises(grpc.RpcError, lambda: execute(short_key))
    assert error.code() == wrong, error
    # More operations than a request may have.
    many = [read(table, "ann")] * 16_385
    refused(lambda: execute(*many), wrong, "TF-1004")
    # More bytes than a message may have: said before it is read.
    huge = insert(table, "bob", 1)
    huge.insert.row["note"].CopyFrom(text("x" * (63 << 20)))
    error = suite.raises(grpc.RpcError, lambda: execute(huge))
    assert error.code() in (grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.RESOURCE_EXHAUSTED), error
    bad_table = tf.TableDefinition(
        name="twice", columns=[column("a", tf.INT32), column("a", tf.INT32)], primary_key=["a"]
    )
    request = tf.CreateTableRequest(table=bad_table)
    error = suite.raises(grpc.RpcError, lambda: API.CreateTable(request, timeout=PATIENCE))
    assert error.code() == wrong and "a" in error.details(), error
    assert balance(table, "ann") == 1


def test_large_rows():
    API.DropTable(tf.DropTableRequest(name="large", if_exists=True), timeout=PATIENCE)
    columns = [column("id", tf.INT32), column("data", tf.BINARY, max_length=2 << 20)]
    definition = tf.TableDefinition(name="large", columns=columns, primary_key=["id"])
    API.CreateTable(tf.CreateTableRequest(table=definition), timeout=PATIENCE)

    def put(size):
        values = {"id": number(1), "data": tf.Value(bytes_value=b"z" * size)}
        return execute(tf.Operation(table="large", write=tf.Write(row=values)))

    put(1 << 20)
    result = execute(tf.Operation(table="large", read=tf.Read(key=[number(1)]))).results[0]
    assert result.row.columns["data"].bytes_value == b"z" * (1 << 20)
    refused(lambda: put(2 << 20), grpc.StatusCode.INVALID_ARGUMENT, "TF-1005")


def test_memcached_items_are_rows():
    with socket.create_connection(("127.0.0.1", int(os.environ["MEMCACHED_PORT"])), timeout=PATIENCE) as items:
        items.sendall(b"set from-memcached 5 0 5\r\nhello\r\n")
        assert items.recv(100) == b"STORED\r\n"
        result = execute(tf.Operation(table="memcached", read=tf.Read(key=[tf.Value(bytes_value=b"from-memcached")])))
        row = result.results[0].row.columns
        assert result.results[0].existed
        assert row["value"].bytes_value == b"hello", row
        assert 5 in (row["flags"].uint_value, row["flags"].int_value), row
        # And the other way.
        values = {"key": tf.Value(bytes_value=b"from-grpc"), "value": tf.Value(bytes_value=b"hi")}
        execute(tf.Operation(table="memcached", write=tf.Write(row=values)))
        items.sendall(b"get from-grpc\r\n")
        assert items.recv(100) == b"VALUE from-grpc 0 2\r\nhi\r\nEND\r\n"


if __name__ == "__main__":
    suite.run(sys.modules[__name__])
