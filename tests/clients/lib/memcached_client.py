"""pymemcache against a cluster: every classic command, as its users call it; meta commands by hand."""

import os
import socket
import sys
import time

from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheClientError, MemcacheServerError

import suite

PORT = int(os.environ["MEMCACHED_PORT"])


def client():
    return Client(("127.0.0.1", PORT), timeout=30, default_noreply=False)


def fresh():
    """A connection, and nothing stored."""
    c = client()
    assert c.flush_all()
    return c


def eventually(condition):
    """Waits for what comes with time; fails after long enough."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it has not come"
        time.sleep(0.02)


def test_set_and_get():
    c = fresh()
    assert c.get("a") is None
    assert c.set("a", b"1", flags=7)
    assert c.get("a") == b"1"
    assert c.set("a", b"")
    assert c.get("a") == b""
    blob = bytes(range(256)) * 100 + b"\r\nEND\r\n"
    assert c.set("blob", blob)
    assert c.get("blob") == blob


def test_get_many_and_set_many():
    c = fresh()
    items = {f"k{i}": str(i).encode() for i in range(500)}
    assert c.set_many(items) == []
    assert c.get_many([*items, "missing"]) == items
    assert c.delete_many(list(items))
    assert c.get_many(list(items)) == {}


def test_add_and_replace():
    c = fresh()
    assert not c.replace("a", b"1")
    assert c.add("a", b"1")
    assert not c.add("a", b"2")
    assert c.replace("a", b"3")
    assert c.get("a") == b"3"


def test_append_and_prepend():
    c = fresh()
    assert not c.append("a", b"x")
    assert not c.prepend("a", b"x")
    c.set("a", b"middle")
    assert c.append("a", b">")
    assert c.prepend("a", b"<")
    assert c.get("a") == b"<middle>"


def test_gets_and_cas():
    c = fresh()
    assert c.gets("a") == (None, None)
    assert c.cas("a", b"x", b"1") is None
    c.set("a", b"1")
    value, unique = c.gets("a")
    assert value == b"1"
    assert c.cas("a", b"2", unique) is True
    assert c.cas("a", b"3", unique) is False
    assert c.gets("a")[0] == b"2"
    assert c.gets("a")[1] != unique
    assert c.gets_many(["a", "b"]).keys() == {"a"}


def test_delete():
    c = fresh()
    assert not c.delete("a")
    c.set("a", b"1")
    assert c.delete("a")
    assert c.get("a") is None


def test_incr_and_decr():
    c = fresh()
    assert c.incr("n", 1) is None
    c.set("n", b"5")
    assert c.incr("n", 10) == 15
    assert c.decr("n", 20) == 0
    c.set("n", b"18446744073709551615")
    assert c.incr("n", 1) == 0
    c.set("n", b"word")
    error = suite.raises(MemcacheClientError, lambda: c.incr("n", 1))
    assert "cannot increment or decrement non-numeric value" in str(error)


def test_expiry():
    c = fresh()
    c.set("gone", b"1", expire=-1)
    assert c.get("gone") is None
    c.set("soon", b"1", expire=1)
    c.set("absolute", b"1", expire=int(time.time()) + 2)
    c.set("later", b"1", expire=3600)
    c.set("kept", b"1", expire=1)
    assert c.touch("kept", 3600)
    assert not c.touch("missing", 3600)
    # pymemcache has no methods for these two.
    assert c.raw_command(b"gat 1 later", b"END\r\n") == b"VALUE later 0 1\r\n1\r\n"
    answer = c.raw_command(b"gats 3600 kept", b"END\r\n")
    unique = c.gets("kept")[1]
    assert answer == b"VALUE kept 0 1 " + unique + b"\r\n1\r\n", answer
    eventually(lambda: c.get_many(["soon", "absolute", "later"]) == {})
    assert c.get("kept") == b"1"


def test_flush_all():
    c = fresh()
    c.set("a", b"1")
    assert c.flush_all()
    assert c.get("a") is None
    c.set("a", b"1")
    assert c.flush_all(delay=1)
    eventually(lambda: c.get("a") is None)


def test_noreply():
    c = fresh()
    c.set("a", b"1", noreply=True)
    c.append("a", b"2", noreply=True)
    c.add("b", b"3", noreply=True)
    c.incr("b", 4, noreply=True)
    c.set("c", b"x", noreply=True)
    c.delete("c", noreply=True)
    assert c.get_many(["a", "b", "c"]) == {"a": b"12", "b": b"7"}


def test_version_verbosity_and_stats():
    c = fresh()
    assert c.version()
    assert c.raw_command(b"verbosity 1") == b"OK"
    before = c.stats()
    assert int(before[b"pid"]) > 0
    c.set("a", b"1")
    c.get("a")
    c.get("missing")
    after = c.stats()
    for counter in [b"cmd_set", b"cmd_get", b"get_hits", b"get_misses"]:
        assert int(after[counter]) > int(before[counter]), counter
    assert b"maxconns" in c.stats("settings")


def test_oversized_and_malformed():
    c = fresh()
    error = suite.raises(MemcacheServerError, lambda: c.set("big", b"x" * ((1 << 20) + 1)))
    assert "object too large for cache" in str(error)
    assert c.get("big") is None
    largest = b"y" * ((1 << 20) - 512)
    assert c.set("big", largest)
    assert c.get("big") == largest
    key = "k" * 250
    assert c.set(key, b"1")
    assert c.get(key) == b"1"
    # What the client itself would refuse.
    error = suite.raises(MemcacheClientError, lambda: c.raw_command(b"get " + b"k" * 251))
    assert "bad command line format" in str(error)
    assert c.get(key) == b"1"


def meta(*lines):
    """What meta commands are answered, up to the answer to an mn behind them."""
    # pymemcache has no methods for these, and its raw_command loses what comes in more than one piece.
    with socket.create_connection(("127.0.0.1", PORT), timeout=30) as connection:
        connection.sendall(b"\r\n".join([*lines, b"mn", b""]))
        answer = b""
        while not answer.endswith(b"MN\r\n"):
            piece = connection.recv(1 << 16)
            assert piece, answer
            answer += piece
    return answer.split(b"\r\n")[:-2]


def test_meta_commands():
    c = fresh()
    assert meta(b"mg a v") == [b"EN"]
    assert meta(b"ms a 3 T100 F5 k Oxy", b"abc") == [b"HD ka Oxy"]
    assert meta(b"mg a v s f t k q", b"mg b v q") == [b"VA 3 s3 f5 t100 ka", b"abc"]
    assert c.get("a") == b"abc"
    assert meta(b"ms AP8= 1 b", b"x", b"mg AP8= b k v", b"md AP8= b q") == [b"HD", b"VA 1 kAP8= b", b"x"]
    assert meta(b"ms a 1 ME", b"x", b"ms a 1 MA s", b"d", b"mg a v") == [b"NS", b"HD s4", b"VA 4", b"abcd"]
    assert meta(b"ma n N0 J5 v", b"ma n MD D9 v", b"ma n D7 q", b"mg n v") == [b"VA 1", b"5", b"VA 1", b"0", b"VA 1", b"7"]
    assert meta(b"md a", b"md a", b"md a q") == [b"HD", b"NF", b"NF"]
    assert meta(b"mg a y", b"ms a 1 MX", b"x")[0] == b"CLIENT_ERROR invalid flag"


def test_meta_uniques_and_winners():
    c = fresh()
    unique = meta(b"ms a 1 c", b"x")[0].split(b" c")[1]
    assert c.gets("a") == (b"x", unique)
    assert meta(b"mg a v C" + unique, b"ms a 1 c C1", b"y") == [b"HD", b"EX c0"]
    assert c.cas("a", b"y", unique) is True
    assert meta(b"ms a 1 E7 C" + c.gets("a")[1], b"z", b"mg a c v") == [b"HD", b"VA 1 c7", b"z"]
    assert meta(b"md a I T50", b"mg a v c")[1].endswith(b" X W")
    # The winner's «cas unique» stays good until it stores.
    assert meta(b"mg a v t") == [b"VA 1 t50 Z X", b"z"]
    unique = c.gets("a")[1]
    assert meta(b"ms a 3 C" + unique, b"new", b"mg a v") == [b"HD", b"VA 3", b"new"]
    won = [meta(b"mg missing N30 v")[0] for _ in range(5)]
    assert won == [b"VA 0 W"] + [b"VA 0 Z"] * 4


def test_many_connections():
    fresh()
    clients = [client() for _ in range(200)]
    for i, c in enumerate(clients):
        assert c.set(f"c{i}", str(i).encode())
    for i, c in enumerate(reversed(clients)):
        assert c.get(f"c{199 - i}") == str(199 - i).encode()
        assert c.get(f"c{i}") == str(i).encode()
        c.quit()


if __name__ == "__main__":
    suite.run(sys.modules[__name__])
