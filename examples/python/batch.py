"""Reads many rows by key: each on its own, all in one call. What fails for a moment is asked for again, the rest is not."""

import time

import bank
import twofold_pb2 as tf

TABLE = "example_batch"
BATCH = 64


def read_all(api, ids):
    """The balance of each account that there is."""
    found, left, attempts = {}, list(ids), 0
    while left:
        batch, left = left[:BATCH], left[BATCH:]
        reads = [bank.read(TABLE, id, columns=tf.Columns(names=["balance"])) for id in batch]
        request = tf.ExecuteRequest(operations=reads, mode=tf.INDEPENDENT)
        results = bank.retrying(lambda: api.Execute(request, timeout=bank.DEADLINE)).results
        for id, result in zip(batch, results):
            if result.HasField("error"):
                attempts += 1
                if not result.error.temporary or attempts > bank.ATTEMPTS:
                    raise RuntimeError(result.error.message)
                time.sleep(result.error.retry_delay_ms / 1000)
                left.append(id)
            elif result.existed:
                found[id] = bank.balance(result)
    return found


api = bank.connect()
bank.open_accounts(api, TABLE)
asked = range(0, 2 * bank.ACCOUNTS)
found = read_all(api, asked)
print(f"{len(asked)} keys asked for: {len(found)} rows, {sum(found.values())} in all")
