"""Reads all rows for which a condition holds, as a stream: the server sends no faster than they are read."""

import bank
import twofold_pb2 as tf

TABLE = "example_scan"

api = bank.connect()
bank.open_accounts(api, TABLE)
bank.retrying(
    lambda: api.Execute(
        tf.ExecuteRequest(operations=[bank.add(TABLE, id, id) for id in range(bank.ACCOUNTS)]), timeout=bank.DEADLINE
    )
)
rich = tf.Condition(
    compare=tf.Condition.Compare(
        column="balance", comparator=tf.GREATER_OR_EQUAL, value=bank.number(bank.OPENING_BALANCE + 50)
    )
)
request = tf.ScanRequest(table=TABLE, columns=tf.Columns(names=["id", "balance"]), filter=[rich])


def scan():
    """The rows; all of them anew if the scan is cut short."""
    rows = {}
    for response in api.Scan(request, timeout=60):
        for row in response.rows:
            id, balance = row.values
            rows[id.int_value] = balance.int_value
    return rows


rows = bank.retrying(scan)
print(f"{len(rows)} accounts are rich: {sum(rows.values())} in all")
