"""What the examples share: a connection, a table of accounts, and when to try again."""

import os
import random
import time

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

import twofold_pb2 as tf
import twofold_pb2_grpc

ACCOUNTS = 100
OPENING_BALANCE = 1000
DEADLINE = 5  # seconds, for each call
ATTEMPTS = 20
# Nothing was applied, and the same call may succeed if it is made again.
RETRY = {grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}


def connect():
    """The API, at the address in TWOFOLD_API."""
    channel = grpc.insecure_channel(os.environ.get("TWOFOLD_API", "127.0.0.1:50051"))
    return twofold_pb2_grpc.TwofoldStub(channel)


def number(value):
    return tf.Value(int_value=value)


def open_accounts(api, table):
    """A table with ACCOUNTS rows of OPENING_BALANCE each, whatever was in it before."""
    columns = [tf.ColumnDefinition(name="id", type=tf.INT32), tf.ColumnDefinition(name="balance", type=tf.INT64)]
    definition = tf.TableDefinition(name=table, columns=columns, primary_key=["id"])
    api.CreateTable(tf.CreateTableRequest(table=definition, if_not_exists=True), timeout=60)
    rows = [{"id": number(id), "balance": number(OPENING_BALANCE)} for id in range(ACCOUNTS)]
    writes = [tf.Operation(table=table, write=tf.Write(row=row)) for row in rows]
    retrying(lambda: api.Execute(tf.ExecuteRequest(operations=writes), timeout=DEADLINE))


def read(table, id, **more):
    return tf.Operation(table=table, read=tf.Read(key=[number(id)], **more))


def add(table, id, amount, **more):
    change = tf.Assignments(add={"balance": number(amount)})
    return tf.Operation(table=table, update=tf.Update(key=[number(id)], assignments=change, **more))


def balance(result):
    return result.row.columns["balance"].int_value


def retrying(call):
    """Makes a call, and makes it again while its error says that this may help."""
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() not in RETRY or attempt + 1 == ATTEMPTS:
                raise
            time.sleep(retry_delay(error) + random.uniform(0, 0.001 * 2 ** min(attempt, 6)))


def retry_delay(error):
    """How long the server asks to wait, in seconds; mostly it does not."""
    status = rpc_status.from_call(error)
    info = error_details_pb2.RetryInfo()
    for detail in status.details if status else []:
        if detail.Unpack(info):
            return info.retry_delay.ToTimedelta().total_seconds()
    return 0
