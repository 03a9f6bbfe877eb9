"""The table of codes: the facts of the reference, and what settings may lay over them."""

from __future__ import annotations

from collections import Counter

import pytest

from resilient_adapter.core import codes
from resilient_adapter.core.model import CodeInfo, Executed, Recovery

# code | group | name | recovery | executed
FACTS = """
-1000 | general | Unknown error | retry | unknown
-1001 | general | Disconnected | retry | unknown
-1002 | general | Unauthorized | refresh_token | no
-1003 | general | Rate limit exceeded | throttle | no
-1004 | general | Endpoint not found | fix_request | no
-1005 | general | Invalid content type | fix_request | no
-1006 | general | Unexpected response | retry | unknown
-1007 | general | Timeout | retry | unknown
-1008 | general | Server busy | break | no
-1010 | general | Error message received | fix_request | no
-1100 | request | Illegal characters | fix_request | no
-1101 | request | Too many parameters | fix_request | no
-1102 | request | Mandatory parameter missing | fix_request | no
-1103 | request | Unknown parameter | fix_request | no
-1104 | request | Unread parameters | fix_request | no
-1105 | request | Parameter empty | fix_request | no
-1106 | request | Parameter not required | fix_request | no
-1111 | request | Invalid precision | fix_request | no
-1112 | request | No open orders | fix_request | no
-1114 | request | Invalid time in force | fix_request | no
-1115 | request | Invalid order type | fix_request | no
-1116 | request | Invalid side | fix_request | no
-1117 | request | Empty new client order id | fix_request | no
-1118 | request | Empty original client order id | fix_request | no
-1119 | request | Invalid interval | fix_request | no
-1120 | request | Invalid symbol | fix_request | no
-1121 | request | Invalid symbol status | fix_request | no
-1125 | request | Invalid listen key | renew_listen_key | no
-1127 | request | Lookup interval too large | fix_request | no
-1128 | request | Invalid combination | fix_request | no
-1130 | request | Invalid data | fix_request | no
-1021 | signature | Timestamp outside recv window | resync_clock | no
-1022 | signature | Invalid signature | fix_request | no
-2010 | order | Insufficient balance | fix_request | no
-2011 | order | Order not found | fix_request | no
-2012 | order | Order cancelled | none | no
-2013 | order | Order filled | none | no
-2014 | order | Invalid API key format | fix_request | no
-2015 | order | Invalid order side | fix_request | no
-2016 | order | No trading window | fix_request | no
-2017 | order | Order archived | fix_request | no
-2018 | order | Invalid quantity | fix_request | no
-2019 | order | Invalid price | fix_request | no
-2020 | order | Invalid stop price | fix_request | no
-2021 | order | Order would trigger immediately | fix_request | no
-2022 | order | Quantity too low | fix_request | no
-2023 | order | Reduce only rejected | fix_request | no
-2024 | order | Position side mismatch | fix_request | no
-2025 | order | Position side not match | fix_request | no
-2026 | order | Insufficient position | fix_request | no
-2027 | order | Order being processed | retry | unknown
-2028 | order | Order cancel rejected | fix_request | no
-2100 | position | Position mode already set | none | no
-2101 | position | Position mode change failed | fix_request | no
-2102 | position | Invalid position side | fix_request | no
-2103 | position | Position not found | fix_request | no
-2104 | position | Leverage too high | fix_request | no
-2105 | position | Leverage too low | fix_request | no
-2200 | margin | Margin type already set | none | no
-2201 | margin | Cannot change margin type | fix_request | no
-2202 | margin | Insufficient margin | fix_request | no
-2203 | margin | Cannot add margin | fix_request | no
-2204 | margin | Cannot remove margin | fix_request | no
-3000 | websocket | WebSocket error | reconnect | no
-3001 | websocket | Invalid message | fix_request | no
-3002 | websocket | Invalid method | fix_request | no
-3003 | websocket | Invalid params | fix_request | no
-3004 | websocket | Too many subscriptions | fix_request | no
-3005 | websocket | Listen key expired | renew_listen_key | no
-3006 | websocket | Connection limit | fix_request | no
200 | http | OK | none | yes
400 | http | Bad Request | fix_request | no
401 | http | Unauthorized | refresh_token | no
403 | http | Forbidden | fix_request | no
404 | http | Not Found | fix_request | no
429 | http | Too Many Requests | throttle | no
500 | http | Internal Server Error | retry | unknown
502 | http | Bad Gateway | retry | unknown
503 | http | Service Unavailable | break | unknown
504 | http | Gateway Timeout | retry | unknown
"""
ROWS = [tuple(cell.strip() for cell in line.split("|")) for line in FACTS.strip().splitlines()]
EVERY = [*codes.CODES.values(), *codes.STATUSES.values()]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_each_code_carries_the_facts_of_the_reference(row: tuple[str, ...]) -> None:
    """Code, group, name, recovery and executed are the reference's, for every code and status it lists."""
    info = codes.lookup(int(row[0]))
    assert (str(info.code), info.group, info.name, str(info.recovery), str(info.executed)) == row


def test_nothing_beside_the_reference_is_listed() -> None:
    """The two tables hold the codes and statuses of the reference, in its order, and no others."""
    assert [str(info.code) for info in EVERY] == [row[0] for row in ROWS]
    assert all(code == info.code for code, info in [*codes.CODES.items(), *codes.STATUSES.items()])


def test_the_groups_are_the_sections_of_the_reference() -> None:
    """Each section has as many codes as the reference gives it, in its order."""
    assert dict(Counter(info.group for info in EVERY)) == {
        "general": 10, "request": 21, "signature": 2, "order": 19,
        "position": 6, "margin": 5, "websocket": 7, "http": 10,
    }  # fmt: skip
    assert codes.GROUPS == ("general", "request", "signature", "order", "position", "margin", "websocket", "http")


@pytest.mark.parametrize("info", EVERY, ids=lambda info: str(info.code))
def test_meaning_and_solution_are_sentences(info: CodeInfo) -> None:
    """Each is one line that begins with a capital and ends with a full stop, and they differ."""
    for text in (info.meaning, info.solution):
        assert text[0].isupper() and text.endswith(".") and "\n" not in text and text == text.strip()
    assert info.meaning != info.solution


def test_no_two_codes_mean_the_same() -> None:
    """A meaning is written for one code: two codes with one meaning could not be told apart."""
    assert [text for text, n in Counter(info.meaning for info in EVERY).items() if n > 1] == []


@pytest.mark.parametrize(
    ("code", "facts"),
    [
        (-1002, ["JWT"]),
        (-1003, ["Retry-After", "60 s", "exponentially"]),
        (-1005, ["application/json"]),
        (-1010, ["msg"]),
        (-1021, ["5000 ms", "/api/gateway/time"]),
        (-1022, ["HMAC-SHA256", "alphabetical", "URL-encoded"]),
        (-1114, ["GTC", "IOC", "FOK", "GTX"]),
        (-1115, ["MARKET", "LIMIT", "STOP"]),
        (-1116, ["BUY", "SELL"]),
        (-1117, ["newClientOrderId"]),
        (-1118, ["origClientOrderId"]),
        (-1119, ["1m", "5m", "1h"]),
        (-1120, ["exchangeinfo"]),
        (-2024, ["hedge mode"]),
        (-2102, ["LONG", "SHORT", "BOTH"]),
        (-3002, ["SUBSCRIBE"]),
    ],
)
def test_the_words_keep_the_facts_one_needs(code: int, facts: list[str]) -> None:
    """Limits, algorithms, headers and allowed values that the reference names are in the text."""
    text = str(codes.explain(code))
    assert [fact for fact in facts if fact not in text] == []


@pytest.mark.parametrize("code", [0, -1, -1009, -1999, -4000, 1003, 418, 999, 10**30])
def test_a_code_that_nobody_lists_is_a_key_error(code: int) -> None:
    """Neither explain nor lookup invents a record."""
    with pytest.raises(KeyError):
        codes.explain(code)
    with pytest.raises(KeyError):
        codes.lookup(code)


def test_the_tables_cannot_be_changed() -> None:
    """What one adapter lays over the table must not be seen by another."""
    for table in (codes.CODES, codes.STATUSES, codes.with_policies({-1999: (Recovery.RETRY, Executed.NO)})):
        with pytest.raises(TypeError):
            table[-1] = codes.explain(-1000)  # type: ignore[index]


def test_no_policies_leave_the_reference_table() -> None:
    """Without policies the table is the reference's own."""
    assert codes.with_policies({}) is codes.CODES


def test_a_policy_replaces_recovery_and_executed_of_a_known_code() -> None:
    """The words and the place of a known code stay; only what is done about it changes."""
    table = codes.with_policies({-1008: (Recovery.RETRY, Executed.UNKNOWN)})
    old, new = codes.CODES[-1008], table[-1008]
    assert (new.recovery, new.executed) == (Recovery.RETRY, Executed.UNKNOWN)
    assert (new.group, new.name, new.meaning, new.solution) == (old.group, old.name, old.meaning, old.solution)
    assert list(table) == list(codes.CODES)
    assert old.recovery is Recovery.BREAK


def test_a_policy_adds_a_code_that_the_reference_lacks() -> None:
    """A code of the settings alone is found in the table it was laid over, and only there."""
    table = codes.with_policies({-1999: (Recovery.RETRY, Executed.UNKNOWN)})
    info = codes.lookup(-1999, table)
    assert (info.code, info.group, info.recovery, info.executed) == (
        -1999, codes.CUSTOM_GROUP, Recovery.RETRY, Executed.UNKNOWN,
    )  # fmt: skip
    assert info.name and info.meaning.endswith(".") and info.solution.endswith(".")
    assert -1999 not in codes.CODES
    assert codes.lookup(429, table) is codes.STATUSES[429]


@pytest.mark.parametrize(
    ("status", "name", "recovery", "executed"),
    [
        (201, "Created", Recovery.NONE, Executed.YES),
        (302, "Found", Recovery.NONE, Executed.YES),
        (399, "HTTP status 399", Recovery.NONE, Executed.YES),
        (405, "Method Not Allowed", Recovery.FIX_REQUEST, Executed.NO),
        (407, "Proxy Authentication Required", Recovery.FIX_REQUEST, Executed.NO),
        (498, "HTTP status 498", Recovery.FIX_REQUEST, Executed.NO),
        (408, "Request Timeout", Recovery.NONE, Executed.UNKNOWN),
        (499, "HTTP status 499", Recovery.NONE, Executed.UNKNOWN),
        (501, "Not Implemented", Recovery.NONE, Executed.UNKNOWN),
        (520, "HTTP status 520", Recovery.NONE, Executed.UNKNOWN),
        (999, "HTTP status 999", Recovery.NONE, Executed.UNKNOWN),
    ],
)
def test_a_status_that_the_reference_lacks(status: int, name: str, recovery: Recovery, executed: Executed) -> None:
    """It is never repeated; a 4xx proves that nothing was executed unless a proxy may have said it."""
    info = codes.unlisted_status(status)
    assert (info.code, info.group, info.name, info.recovery, info.executed) == (
        status, "http", name, recovery, executed,
    )  # fmt: skip
    assert info.meaning.endswith(".") and info.solution.endswith(".")


def test_a_record_prints_everything_it_knows() -> None:
    """str() of a record is the text that the command line prints."""
    assert str(codes.explain(-1116)) == (
        "-1116  Invalid side  (request)\n"
        "  meaning   The order's side is not one that the API knows.\n"
        "  solution  Set side to BUY or SELL, in capitals.\n"
        "  recovery  fix_request\n"
        "  executed  no, it was not executed"
    )
