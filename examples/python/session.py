"""A transaction of several statements: reads two rows with locks, decides, writes, commits. Who loses against an older one
tries again with its age, and so wins in the end."""

import queue

import bank
import twofold_pb2 as tf

TABLE = "example_session"


class Aborted(Exception):
    """The transaction is to be run again, with this age."""

    def __init__(self, error, age):
        super().__init__(error.message)
        self.age = age


class Session:
    """A stream of statements, of which this waits for one at a time."""

    def __init__(self, api):
        self.requests = queue.Queue()
        self.answers = api.Session(iter(self.requests.get, None))

    def run(self, *operations, **more):
        self.requests.put(tf.SessionRequest(transaction=1, operations=operations, **more))
        answer = next(self.answers)
        if answer.HasField("error"):
            if answer.state == tf.ABORTED and answer.error.temporary:
                raise Aborted(answer.error, answer.age)
            raise RuntimeError(answer.error.message)
        return answer

    def close(self):
        """Ends the stream, and waits until the other side has too: a program that ends before its streams may hang."""
        self.requests.put(None)
        for answer in self.answers:
            raise RuntimeError(f"nobody asked for {answer}")


def even_out(session, one, other, age):
    """Gives two accounts the same balance, as far as that goes."""
    locked = [bank.read(TABLE, id, lock=tf.LOCK_EXCLUSIVE) for id in (one, other)]
    answer = session.run(*locked, begin=True, age=age)
    balances = [bank.balance(result) for result in answer.results]
    amount = (balances[0] - balances[1]) // 2
    session.run(bank.add(TABLE, one, -amount), bank.add(TABLE, other, amount), end=tf.COMMIT)
    return amount


api = bank.connect()
bank.open_accounts(api, TABLE)
bank.retrying(
    lambda: api.Execute(tf.ExecuteRequest(operations=[bank.add(TABLE, 1, 500)]), timeout=bank.DEADLINE)
)
session, age = Session(api), 0
for attempt in range(bank.ATTEMPTS):
    try:
        moved = even_out(session, 1, 2, age)
        break
    except Aborted as aborted:
        age = aborted.age
else:
    raise RuntimeError("the transaction has been aborted too often")
session.close()
print(f"{moved} moved")
