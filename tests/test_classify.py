"""From what came back to what it means: every code, every status, every way to fail in transport."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_adapter.core.classify import Outcome, Rules, classify_failure, classify_response
from resilient_adapter.core.codes import CODES, STATUSES, with_policies
from resilient_adapter.core.model import Executed, Failure, Health, Recovery

DEFAULTS: dict[str, Any] = {
    "table": CODES,
    "success_codes": frozenset({0, 200}),
    "circuit_codes": frozenset({-1008}),
    "circuit_statuses": frozenset({503}),
}
METHODS = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "POST", "PATCH"]


def judged(method: str = "GET", status: int = 200, code: int | None = None, **rules: Any) -> Outcome:
    """Return the outcome of a response under the default settings, save those given."""
    return classify_response(Rules(**(DEFAULTS | rules)), method=method, status=status, code=code, msg=None)


def verdict(outcome: Outcome) -> tuple[str, str, str, bool]:
    """Return the four answers that everything else goes by."""
    return str(outcome.recovery), str(outcome.executed), str(outcome.health), outcome.error


# --- codes

# recovery | executed | health | the codes of which that is said. Each is an error, with the exceptions further down.
CODE_TABLE = """
retry            | unknown | neutral | -1000 -1001 -1006 -1007 -2027
throttle         | no      | neutral | -1003
break            | no      | failure | -1008
refresh_token    | no      | success | -1002
resync_clock     | no      | success | -1021
renew_listen_key | no      | success | -1125 -3005
reconnect        | no      | success | -3000
none             | no      | success | -2012 -2013
none             | yes     | success | -2100 -2200
fix_request      | no      | success | -1004 -1005 -1010
fix_request      | no      | success | -1100 -1101 -1102 -1103 -1104 -1105 -1106 -1111 -1112 -1114 -1115 -1116 -1117
fix_request      | no      | success | -1118 -1119 -1120 -1121 -1127 -1128 -1130 -1022
fix_request      | no      | success | -2010 -2011 -2014 -2015 -2016 -2017 -2018 -2019 -2020 -2021 -2022 -2023 -2024
fix_request      | no      | success | -2025 -2026 -2028 -2101 -2102 -2103 -2104 -2105 -2201 -2202 -2203 -2204
fix_request      | no      | success | -3001 -3002 -3003 -3004 -3006
"""
CODE_ROWS = [
    (int(code), recovery, executed, health)
    for recovery, executed, health, codes in (
        (cell.strip() for cell in row.split("|")) for row in CODE_TABLE.split("\n")[1:-1]
    )
    for code in codes.split()
]
ALREADY_SO = {-2100, -2200}


def test_every_code_has_its_row() -> None:
    """A code that is added to the reference's table fails here until somebody says what it means."""
    assert sorted(code for code, *_ in CODE_ROWS) == sorted(CODES)
    assert len(CODES) == 70


@pytest.mark.parametrize(("code", "recovery", "executed", "health"), CODE_ROWS)
def test_a_code_means_the_same_under_any_status(code: int, recovery: str, executed: str, health: str) -> None:
    """The envelope's code outranks the HTTP status, errors under HTTP 200 included, and whatever the method."""
    expected = (recovery, executed, health, code not in ALREADY_SO)
    for status in (200, 201, 302, 400, 401, 404, 418, 429, 500, 502, 503, 504):
        for method in METHODS:
            if (code, method) != (-2012, "DELETE"):
                outcome = judged(method, status, code)
                assert verdict(outcome) == expected
                assert (outcome.status, outcome.code, outcome.failure) == (status, code, None)
                assert outcome.info is CODES[code]


@pytest.mark.parametrize(
    ("code", "method", "already"),
    [
        (-2100, "POST", True),
        (-2100, "GET", True),
        (-2100, "DELETE", True),
        (-2200, "POST", True),
        (-2200, "PUT", True),
        (-2012, "DELETE", True),
        (-2012, "POST", False),
        (-2012, "GET", False),
        (-2012, "PUT", False),
        (-2013, "DELETE", False),  # filled: what was to be cancelled has happened
        (-2011, "DELETE", False),  # not found: nobody knows why
        (-2101, "POST", False),
        (-2201, "POST", False),
    ],
)
def test_what_already_is_as_asked_for_is_no_error(code: int, method: str, already: bool) -> None:
    """-2100 and -2200, and -2012 for a DELETE, say that the state asked for holds."""
    outcome = judged(method, 400, code)
    assert outcome.error is not already
    assert (outcome.executed is Executed.YES) is already
    assert outcome.info is CODES[code]


@pytest.mark.parametrize("status", [200, 201, 302, 400, 401, 404, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("code", [0, 200])
def test_a_success_code_is_no_error_whatever_the_status(code: int, status: int) -> None:
    """A success code outranks even a 500."""
    outcome = judged("POST", status, code)
    assert verdict(outcome) == ("none", "yes", "success", False)
    assert (outcome.status, outcome.code) == (status, code)


def test_success_codes_are_a_setting() -> None:
    """A code is a success where the settings say so, and 0 is an unlisted code where they do not."""
    successes = frozenset({1, -1003})
    assert verdict(judged("POST", 500, 1, success_codes=successes)) == ("none", "yes", "success", False)
    listed = judged("POST", 429, -1003, success_codes=successes)
    assert verdict(listed) == ("none", "yes", "success", False)
    assert listed.info is CODES[-1003]
    assert verdict(judged("POST", 200, 0, success_codes=successes)) == ("none", "unknown", "success", False)
    assert verdict(judged("POST", 500, 0, success_codes=successes)) == ("retry", "unknown", "neutral", True)


# --- statuses: a body without a code

STATUS_ROWS = [
    # status, recovery, executed, health, error
    (200, "none", "yes", "success", False),
    (400, "fix_request", "no", "success", True),
    (401, "refresh_token", "no", "success", True),
    (403, "fix_request", "no", "success", True),
    (404, "fix_request", "no", "success", True),
    (429, "throttle", "no", "neutral", True),
    (500, "retry", "unknown", "neutral", True),
    (502, "retry", "unknown", "neutral", True),
    (503, "break", "unknown", "failure", True),  # without an envelope nothing says that it was not executed
    (504, "retry", "unknown", "neutral", True),
    # Other statuses are delivered at once.
    (201, "none", "yes", "success", False),
    (204, "none", "yes", "success", False),
    (301, "none", "yes", "success", False),
    (302, "none", "yes", "success", False),
    (304, "none", "yes", "success", False),
    (307, "none", "no", "success", False),  # "ask there instead": nothing was done here
    (308, "none", "no", "success", False),
    (399, "none", "yes", "success", False),
    (402, "fix_request", "no", "success", True),
    (405, "fix_request", "no", "success", True),
    (408, "none", "unknown", "success", True),  # a proxy may say it while the server goes on
    (409, "fix_request", "no", "success", True),
    (418, "fix_request", "no", "success", True),
    (499, "none", "unknown", "success", True),
    (501, "none", "unknown", "neutral", True),
    (505, "none", "unknown", "neutral", True),
    (520, "none", "unknown", "neutral", True),
    (599, "none", "unknown", "neutral", True),
]


def test_every_status_has_its_row() -> None:
    """A status that is added to the reference's table fails here until somebody says what it means."""
    assert set(STATUSES) <= {status for status, *_ in STATUS_ROWS}
    assert len(STATUSES) == 10


@pytest.mark.parametrize(("status", "recovery", "executed", "health", "error"), STATUS_ROWS)
def test_a_body_without_a_code_is_judged_by_its_status(
    status: int, recovery: str, executed: str, health: str, error: bool
) -> None:
    """Without an integer code the status decides, whatever the method."""
    for method in METHODS:
        outcome = judged(method, status)
        assert verdict(outcome) == (recovery, executed, health, error)
        assert (outcome.status, outcome.code) == (status, None)
        assert outcome.info is not None and outcome.info.code == status


@pytest.mark.parametrize("code", [-1999, -1, -1009, -4000, 1, 1003, 429, 503])
@pytest.mark.parametrize(("status", "recovery", "executed", "health", "error"), STATUS_ROWS)
def test_a_code_that_nobody_lists_is_judged_by_the_status(
    code: int, status: int, recovery: str, executed: str, health: str, error: bool
) -> None:
    """Only one thing differs from a body without a code: under a good status, nobody knows what was executed."""
    outcome = judged("POST", status, code)
    assert verdict(outcome) == (recovery, executed if error else "unknown", health, error)
    assert outcome.code == code
    assert (outcome.info and outcome.info.code) == (status if error else None)  # "OK" would contradict the code


# --- what the settings add


@pytest.mark.parametrize(
    ("recovery", "executed"),
    [(Recovery.RETRY, Executed.UNKNOWN), (Recovery.THROTTLE, Executed.NO), (Recovery.NONE, Executed.YES)],
)
@pytest.mark.parametrize("code", [-1999, -2010])
def test_a_policy_of_the_settings_judges_its_code(code: int, recovery: Recovery, executed: Executed) -> None:
    """A code the reference lacks, or another policy for one it has: the settings' word counts, whatever the status."""
    table = with_policies({code: (recovery, executed)})
    for status in (200, 400, 503):
        outcome = judged("POST", status, code, table=table)
        assert (outcome.recovery, outcome.executed, outcome.error) == (recovery, executed, True)
        assert outcome.info is table[code]


@pytest.mark.parametrize("code", [-1000, -1002, -1003, -1007, -2010, -2027])
def test_circuit_codes_are_a_setting(code: int) -> None:
    """circuit.codes says which codes are failures, whatever the status."""
    for status in (200, 400, 500):
        assert judged("GET", status, code).health is not Health.FAILURE
        assert judged("GET", status, code, circuit_codes=frozenset({code})).health is Health.FAILURE


def test_a_circuit_code_may_be_one_that_the_table_lacks() -> None:
    """What circuit.codes names is a failure: the setting needs no second entry in codes."""
    for status in (200, 400, 500):
        assert judged("GET", status, -1999).health is not Health.FAILURE
        assert judged("GET", status, -1999, circuit_codes=frozenset({-1999})).health is Health.FAILURE


def test_a_circuit_code_that_was_taken_off_the_list_counts_no_more() -> None:
    """-1008 is a failure by default only: where the settings leave it out, it says nothing of the server's health."""
    assert judged(code=-1008).health is Health.FAILURE
    assert judged(code=-1008, circuit_codes=frozenset()).health is Health.NEUTRAL


@pytest.mark.parametrize("status", [404, 429, 500, 502, 504, 520])
@pytest.mark.parametrize("code", [None, -1999])
def test_circuit_statuses_are_a_setting(status: int, code: int | None) -> None:
    """circuit.statuses says which statuses are failures, where the status is what judges."""
    mine = frozenset({status})
    assert judged("GET", status, code).health is not Health.FAILURE
    assert judged("GET", status, code, circuit_statuses=mine).health is Health.FAILURE
    assert judged("GET", 503, code, circuit_statuses=mine).health is Health.NEUTRAL
    assert judged("GET", status, -2010, circuit_statuses=mine).health is Health.SUCCESS
    assert judged("GET", status, 0, circuit_statuses=mine).health is Health.SUCCESS


@pytest.mark.parametrize("code", [None, 0, -1003, -1008, -1999])
def test_the_message_and_the_wait_asked_for_are_handed_on(code: int | None) -> None:
    """The envelope's message and Retry-After are part of the outcome, whoever judged it."""
    rules = Rules(**DEFAULTS)
    outcome = classify_response(rules, method="GET", status=503, code=code, msg="why", retry_after=7.0)
    assert (outcome.msg, outcome.retry_after) == ("why", 7.0)
    outcome = classify_response(rules, method="GET", status=503, code=code, msg=None)
    assert (outcome.msg, outcome.retry_after) == (None, None)


@given(
    st.sampled_from(METHODS),
    st.integers(100, 999),
    st.none() | st.sampled_from([*CODES]) | st.integers(),
    st.frozensets(st.integers(-3, 3)),
)
def test_success_and_error_exclude_each_other(
    method: str, status: int, code: int | None, successes: frozenset[int]
) -> None:
    """A success code is never an error, a status of 400 or more without one always is, short of the state asked for."""
    outcome = judged(method, status, code, success_codes=successes)
    if code in successes:
        assert verdict(outcome) == ("none", "yes", "success", False)
    elif outcome.executed is not Executed.YES and status >= 400:
        assert outcome.error
    if outcome.error:
        assert outcome.executed is not Executed.YES


# --- failures in transport

FAILURE_ROWS = [
    # failure, recovery, executed, health, health where a caller's timeout shorter than ours ended it
    (Failure.REFUSED, "retry", "no", "failure", "failure"),
    (Failure.CONNECT_TIMEOUT, "retry", "no", "failure", "neutral"),
    (Failure.NOT_SENT, "retry", "no", "neutral", "neutral"),
    (Failure.PROXY_REFUSED, "retry", "no", "neutral", "neutral"),
    (Failure.PROXY, "retry", "unknown", "neutral", "neutral"),
    (Failure.CERTIFICATE, "none", "no", "neutral", "neutral"),
    (Failure.INVALID, "none", "no", "neutral", "neutral"),
    (Failure.READ_TIMEOUT, "retry", "unknown", "failure", "neutral"),
    (Failure.RESET, "retry", "unknown", "neutral", "neutral"),
    (Failure.CUT_BODY, "retry", "unknown", "neutral", "neutral"),
    (Failure.UNREADABLE, "none", "unknown", "success", "success"),
    (Failure.OTHER, "none", "unknown", "neutral", "neutral"),
]


def test_every_failure_has_its_row() -> None:
    """A failure that is added fails here until somebody says what it means."""
    assert [failure for failure, *_ in FAILURE_ROWS] == list(Failure)


@pytest.mark.parametrize(("failure", "recovery", "executed", "health", "hasty"), FAILURE_ROWS)
def test_a_failure_in_transport(failure: Failure, recovery: str, executed: str, health: str, hasty: str) -> None:
    """Each says how to recover, whether it may have been executed, and whether the circuit counts it.

    A timeout shorter than ours says more of the caller's patience than of the server.
    """
    assert verdict(classify_failure(failure)) == (recovery, executed, health, True)
    assert verdict(classify_failure(failure, patient=False)) == (recovery, executed, hasty, True)


@pytest.mark.parametrize("failure", Failure)
def test_a_failure_has_no_code_to_judge_by(failure: Failure) -> None:
    """What failed in transport has neither code nor record; a status only where the head of a response had come."""
    for status in (None, 200, 503):
        outcome = classify_failure(failure, status=status)
        assert (outcome.status, outcome.failure) == (status, failure)
        assert (outcome.code, outcome.msg, outcome.info, outcome.retry_after) == (None, None, None, None)
        assert outcome[5:9] == classify_failure(failure)[5:9]
