"""Moves money between accounts, in one call each: both rows are changed or none, and no balance becomes negative."""

import random
from concurrent.futures import ThreadPoolExecutor

import grpc

import bank
import twofold_pb2 as tf

TABLE = "example_transfer"
TRANSFERS = 200


def transfer(api, source, target, amount):
    """Moves the amount; returns whether the source had it."""
    enough = tf.Condition(
        compare=tf.Condition.Compare(column="balance", comparator=tf.GREATER_OR_EQUAL, value=bank.number(amount))
    )
    operations = [bank.add(TABLE, source, -amount, conditions=[enough]), bank.add(TABLE, target, amount)]
    request = tf.ExecuteRequest(operations=operations)
    try:
        bank.retrying(lambda: api.Execute(request, timeout=bank.DEADLINE))
        return True
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.FAILED_PRECONDITION:
            return False
        token = dict(error.trailing_metadata() or ()).get("twofold-token-bin")
        if token is None:
            raise
        # The answer was lost, not the outcome.
        status = bank.retrying(
            lambda: api.TransactionStatus(tf.TransactionStatusRequest(token=token), timeout=bank.DEADLINE)
        )
        if status.state == tf.ABORTED:
            return transfer(api, source, target, amount)
        if status.state != tf.COMMITTED:
            raise
        return True


def main():
    api = bank.connect()
    bank.open_accounts(api, TABLE)

    def some_transfer(_):
        source, target = random.sample(range(bank.ACCOUNTS), 2)
        return transfer(api, source, target, random.randint(1, 2 * bank.OPENING_BALANCE))

    with ThreadPoolExecutor(8) as pool:
        done = sum(pool.map(some_transfer, range(TRANSFERS)))
    reads = [bank.read(TABLE, id) for id in range(bank.ACCOUNTS)]
    results = bank.retrying(lambda: api.Execute(tf.ExecuteRequest(operations=reads), timeout=bank.DEADLINE)).results
    balances = [bank.balance(result) for result in results]
    assert 0 < done < TRANSFERS and min(balances) >= 0
    print(f"{TRANSFERS} transfers tried: {sum(balances)} in all, as before")


main()
