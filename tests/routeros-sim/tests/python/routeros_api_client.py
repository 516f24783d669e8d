"""Drives the simulator with routeros_api, unchanged, as its users do. Arguments: port, user, password."""

import sys

import routeros_api
from routeros_api.exceptions import RouterOsApiCommunicationError

port, user, password = int(sys.argv[1]), sys.argv[2], sys.argv[3]


def connect(password):
    pool = routeros_api.RouterOsApiPool(
        "127.0.0.1", username=user, password=password, port=port, plaintext_login=True
    )
    return pool, pool.get_api()


def refusal(call):
    try:
        call()
    except RouterOsApiCommunicationError as error:
        return error.original_message.decode()
    raise AssertionError("it was not refused")


assert refusal(lambda: connect("wrong")) == "invalid user name or password (6)"

pool, api = connect(password)
entries = api.get_resource("/ip/firewall/address-list")
assert entries.get() == []

# What the script behind fail2ban does today, to the letter.
spammer = dict(
    list="spammer",
    address="212.11.64.212",
    timeout="00:30:00",
    comment="fail2ban: 3 failures",
    disabled="no",
)
added = entries.add(**spammer)
assert added.done_message == {"ret": "*1"}, added.done_message
assert refusal(lambda: entries.add(**spammer)) == "failure: already have such entry"

(entry,) = entries.get(list="spammer")
assert entry["address"] == "212.11.64.212", entry
assert entry["timeout"] in ("30m", "29m59s", "29m58s", "29m57s"), entry
assert (entry["dynamic"], entry["disabled"]) == ("true", "false"), entry
assert entry["comment"] == "fail2ban: 3 failures", entry

# A value that is empty goes without its second equals sign.
entries.add(list="other", address="198.51.100.7/24", comment="")
(other,) = entries.get(list="other")
assert other["address"] == "198.51.100.0/24" and "comment" not in other, other
assert entries.get(list="none") == []

entries.set(id=entry["id"], timeout="1h", comment="longer")
(entry,) = entries.get(id=entry["id"])
assert entry["comment"] == "longer" and entry["timeout"].startswith(("1h", "59m")), entry

count = entries.call("print", {"count-only": ""})
assert count.done_message["ret"] == "2", count.done_message

wide = api.get_resource("/ipv6/firewall/address-list")
wide.add(list="spammer", address="2001:db8::1", timeout="30m")
assert wide.get(list="spammer")[0]["address"] == "2001:db8::1/128"

entries.remove(id=entry["id"])
assert refusal(lambda: entries.remove(id=entry["id"])).startswith("no such item")
assert [left["list"] for left in entries.get()] == ["other"]
assert api.get_resource("/system/identity").get()[0]["name"] == "edge"
pool.disconnect()
print("ok")
