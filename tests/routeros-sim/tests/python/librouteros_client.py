"""Drives the simulator with librouteros, unchanged. Arguments: port, user, password, login method."""

import sys

from librouteros import connect
from librouteros.exceptions import TrapError
from librouteros.login import plain, token
from librouteros.query import And, Key, Or

port, user, password = int(sys.argv[1]), sys.argv[2], sys.argv[3]
method = {"plain": plain, "token": token}[sys.argv[4]]


def log_in(password):
    return connect("127.0.0.1", user, password, port=port, login_method=method)


def refusal(call):
    try:
        call()
    except TrapError as error:
        return error.message
    raise AssertionError("it was not refused")


assert refusal(lambda: log_in("wrong")) == "invalid user name or password (6)"

api = log_in(password)
entries = api.path("ip", "firewall", "address-list")
assert tuple(entries) == ()

first = entries.add(list="spammer", address="192.0.2.1", timeout="00:30:00", comment="one", disabled=False)
second = entries.add(list="spammer", address="192.0.2.2", comment="two")
third = entries.add(list="other", address="192.0.2.1")
assert (first, second, third) == ("*1", "*2", "*3"), (first, second, third)
assert refusal(lambda: entries.add(list="other", address="192.0.2.1/32")) == "failure: already have such entry"

name, address, comment = Key("list"), Key("address"), Key("comment")
found = tuple(entries.select(address, Key("disabled")).where(name == "spammer"))
assert found == ({"address": "192.0.2.1", "disabled": False}, {"address": "192.0.2.2", "disabled": False}), found
found = tuple(entries.select(Key(".id")).where(And(name == "spammer", comment != "one")))
assert found == ({".id": "*2"},), found
found = tuple(entries.select(Key(".id")).where(Or(name == "other", comment == "one")))
assert [row[".id"] for row in found] == ["*1", "*3"], found
found = tuple(entries.select(Key(".id")).where(comment.In("one", "two", "three")))
assert len(found) == 2, found
assert tuple(entries.select(Key(".id")).where(name == "none")) == ()

entries.update(**{".id": first, "timeout": "2h", "comment": "longer"})
(row,) = entries.select(comment, Key("timeout")).where(Key(".id") == first)
assert row["comment"] == "longer" and row["timeout"].startswith(("2h", "1h59m")), row

(count,) = api("/ip/firewall/address-list/print", **{"count-only": ""})
assert count == {"ret": 3}, count

entries.remove(first, second)
assert [row["list"] for row in entries] == ["other"]
assert refusal(lambda: entries.remove(first)).startswith("no such item")
assert refusal(lambda: tuple(api("/no/such/print"))) == "no such command prefix"
api.close()
print("ok")
