"""The API's codes: what each means, what to do about it, and whether the request may have been executed.

Codes, groups and names are the reference's; ``recovery`` and ``executed`` are the judgement that the whole
package acts on. The words are ours: written for the author of a script who has just met the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType

from .model import CodeInfo, Executed, Recovery

_RETRY, _THROTTLE, _BREAK = Recovery.RETRY, Recovery.THROTTLE, Recovery.BREAK
_REFRESH, _RESYNC, _RENEW = Recovery.REFRESH_TOKEN, Recovery.RESYNC_CLOCK, Recovery.RENEW_LISTEN_KEY
_RECONNECT, _FIX, _NONE = Recovery.RECONNECT, Recovery.FIX_REQUEST, Recovery.NONE
_NO, _UNKNOWN, _YES = Executed.NO, Executed.UNKNOWN, Executed.YES

# Three lines a row (facts, meaning, solution), so that the table reads as a table.
# fmt: off
_RECORDS: tuple[CodeInfo, ...] = tuple(
    CodeInfo(code, group, name, meaning, solution, recovery, executed)
    for group, rows in {
        "general": (
            (-1000, "Unknown error", _RETRY, _UNKNOWN,
             "The server failed in a way that it does not explain.",
             "Try again after a pause, looking an order up first; contact support if it keeps happening."),
            (-1001, "Disconnected", _RETRY, _UNKNOWN,
             "An internal fault made the server drop the connection to one of its own parts.",
             "Try again with exponential backoff; look an order up first, because it may have been placed."),
            (-1002, "Unauthorized", _REFRESH, _NO,
             "The token is missing, wrong or no longer valid.",
             "Fetch a new JWT and send the request again with it; a token source lets the adapter do so."),
            (-1003, "Rate limit exceeded", _THROTTLE, _NO,
             "More requests came from you than the API allows in this time.",
             "Wait Retry-After (60 s without one), back off exponentially and pace the script (rate_limit.rate)."),
            (-1004, "Endpoint not found", _FIX, _NO,
             "The API has no endpoint at this path.",
             "Compare the URL, its path and its version with the API's documentation."),
            (-1005, "Invalid content type", _FIX, _NO,
             "The Content-Type header is not one that the endpoint reads.",
             "Send the body as application/json (with requests: pass json= instead of data=)."),
            (-1006, "Unexpected response", _RETRY, _UNKNOWN,
             "The server got invalid data from one of its own parts and could not answer properly.",
             "Try again after a pause, looking an order up first; contact support if it keeps happening."),
            (-1007, "Timeout", _RETRY, _UNKNOWN,
             "The server stopped waiting for its own backend, which may still finish the work.",
             "Try again with a longer timeout; look an order up before you place it once more."),
            (-1008, "Server busy", _BREAK, _NO,
             "The server is overloaded for the moment and turned the request away.",
             "Wait, then try again with exponential backoff; sending more now only prolongs the overload."),
            (-1010, "Error message received", _FIX, _NO,
             "The request was refused for a reason that has no code of its own.",
             "Read the msg field of the response: it carries the details."),
        ),
        "request": (
            (-1100, "Illegal characters", _FIX, _NO,
             "A parameter holds characters that the API does not accept.",
             "Remove special characters from the parameters: spaces, quotes and control characters, say."),
            (-1101, "Too many parameters", _FIX, _NO,
             "The request carries more parameters than the endpoint takes.",
             "Send fewer parameters, and each of them once."),
            (-1102, "Mandatory parameter missing", _FIX, _NO,
             "A parameter that the endpoint requires was not sent.",
             "Add every required parameter; requests leaves out those whose value is None."),
            (-1103, "Unknown parameter", _FIX, _NO,
             "The endpoint does not know one of the parameters.",
             "Remove it, or correct its spelling (names are case-sensitive: timeInForce)."),
            (-1104, "Unread parameters", _FIX, _NO,
             "Some of the parameters were sent but not processed.",
             "Check how the parameters are formatted, and whether they belong in the query or in the body."),
            (-1105, "Parameter empty", _FIX, _NO,
             "A required parameter was sent without a value.",
             "Give the parameter a value; the script probably filled it from an empty variable."),
            (-1106, "Parameter not required", _FIX, _NO,
             "A parameter was sent that this kind of request must not have.",
             "Leave it out: a price on a MARKET order, say."),
            (-1111, "Invalid precision", _FIX, _NO,
             "A number has more decimal places than the symbol allows.",
             "Round price and quantity to the symbol's precision before you send them."),
            (-1112, "No open orders", _FIX, _NO,
             "The symbol has no open orders to act on.",
             "Query the open orders first; they may have been filled or cancelled in the meantime."),
            (-1114, "Invalid time in force", _FIX, _NO,
             "The value of timeInForce is not one that the API knows.",
             "Set timeInForce to GTC, IOC, FOK or GTX."),
            (-1115, "Invalid order type", _FIX, _NO,
             "The order's type is not one that the API knows.",
             "Set type to MARKET, LIMIT, STOP or another type that the documentation lists."),
            (-1116, "Invalid side", _FIX, _NO,
             "The order's side is not one that the API knows.",
             "Set side to BUY or SELL, in capitals."),
            (-1117, "Empty new client order id", _FIX, _NO,
             "The order carries a newClientOrderId without a value.",
             "Give newClientOrderId a valid id, or leave the parameter out."),
            (-1118, "Empty original client order id", _FIX, _NO,
             "The look-up or cancellation carries an origClientOrderId without a value.",
             "Set origClientOrderId to the valid id that the order was placed with."),
            (-1119, "Invalid interval", _FIX, _NO,
             "The kline interval is not one that the API offers.",
             "Ask for one that it has: 1m, 5m, 1h and so on."),
            (-1120, "Invalid symbol", _FIX, _NO,
             "The API trades no symbol of this name.",
             "Look the symbol's spelling up in the list that exchangeinfo returns."),
            (-1121, "Invalid symbol status", _FIX, _NO,
             "The symbol exists, but it is not being traded now.",
             "Look its status up in exchangeinfo and wait until a break or maintenance is over."),
            (-1125, "Invalid listen key", _RENEW, _NO,
             "The listen key of the WebSocket stream is not valid.",
             "Create a new listen key and use it from now on; a recovery of your own for this code can do so."),
            (-1127, "Lookup interval too large", _FIX, _NO,
             "The time between start and end is longer than the endpoint allows.",
             "Ask for a shorter time range, in several requests if need be."),
            (-1128, "Invalid combination", _FIX, _NO,
             "The parameters are not allowed together in this combination.",
             "Check in the documentation which parameters require or exclude one another."),
            (-1130, "Invalid data", _FIX, _NO,
             "A value does not have the format that its parameter calls for.",
             "Check the format of the values: numbers, booleans, times in milliseconds."),
        ),
        "signature": (
            (-1021, "Timestamp outside recv window", _RESYNC, _NO,
             "The timestamp is too old or too new: it has to be within 5000 ms (recvWindow) of the server's time.",
             "Synchronise the system's clock, or use the server's time (/api/gateway/time), and sign afresh."),
            (-1022, "Invalid signature", _FIX, _NO,
             "The server computed a different signature from the one that was sent.",
             "Sign by HMAC-SHA256, parameters in alphabetical order, values URL-encoded, with the key's own secret."),
        ),
        "order": (
            (-2010, "Insufficient balance", _FIX, _NO,
             "The account's free margin does not cover the order.",
             "Deposit funds or make the order smaller."),
            (-2011, "Order not found", _FIX, _NO,
             "The API knows no order by this id.",
             "Check the order id and the symbol; an order placed a moment ago may not be visible yet."),
            (-2012, "Order cancelled", _NONE, _NO,
             "The order had been cancelled before this request came.",
             "Nothing needs to be done: treat the order as cancelled."),
            (-2013, "Order filled", _NONE, _NO,
             "The order had been filled before this request came.",
             "Nothing needs to be done: treat the order as filled."),
            (-2014, "Invalid API key format", _FIX, _NO,
             "What was sent as the API key does not look like one.",
             "Check that the key was copied whole, without spaces or quotes."),
            (-2015, "Invalid order side", _FIX, _NO,
             "The order's side is neither BUY nor SELL.",
             "Correct the side parameter to one of the two."),
            (-2016, "No trading window", _FIX, _NO,
             "Trading is not allowed at this time.",
             "The market may be closed: place the order again when it opens."),
            (-2017, "Order archived", _FIX, _NO,
             "The order is old enough to have been moved to the history.",
             "Query the history endpoint for it instead."),
            (-2018, "Invalid quantity", _FIX, _NO,
             "The quantity lies outside the bounds of the symbol.",
             "Keep it between the symbol's minimum and maximum quantity."),
            (-2019, "Invalid price", _FIX, _NO,
             "The price lies outside the bounds of the symbol.",
             "Keep it within the symbol's price limits."),
            (-2020, "Invalid stop price", _FIX, _NO,
             "The stop price makes no sense for this order.",
             "Check on which side of the market price the stop has to be for this order's side and type."),
            (-2021, "Order would trigger immediately", _FIX, _NO,
             "The stop price is so close to the market price that the order would trigger at once.",
             "Move the stop price further away, or place a MARKET order if triggering is what you want."),
            (-2022, "Quantity too low", _FIX, _NO,
             "The quantity is smaller than the least that the symbol allows.",
             "Raise the quantity to the symbol's minimum or above."),
            (-2023, "Reduce only rejected", _FIX, _NO,
             "The order is reduce-only, and there is no position that it could reduce.",
             "Check that the position still exists and that the order points the opposite way."),
            (-2024, "Position side mismatch", _FIX, _NO,
             "The positionSide sent does not fit the account's position mode.",
             "Check whether the account is in hedge mode, and send the positionSide that goes with it."),
            (-2025, "Position side not match", _FIX, _NO,
             "The positionSide sent is not that of the position meant.",
             "Send the positionSide of the position that you mean to change."),
            (-2026, "Insufficient position", _FIX, _NO,
             "The order would close more than the position holds.",
             "Lower the quantity to what is held at most; query the position for it."),
            (-2027, "Order being processed", _RETRY, _UNKNOWN,
             "The server is still working on the order.",
             "Wait, then query the order's status; do not place it again meanwhile."),
            (-2028, "Order cancel rejected", _FIX, _NO,
             "The order cannot be cancelled.",
             "Query its status: it may be filled or cancelled already."),
        ),
        "position": (
            (-2100, "Position mode already set", _NONE, _NO,
             "The account is in the position mode asked for already.",
             "Nothing needs to be done: the setting is as wanted."),
            (-2101, "Position mode change failed", _FIX, _NO,
             "The position mode cannot be changed in the account's present state.",
             "Close every position, then change the mode."),
            (-2102, "Invalid position side", _FIX, _NO,
             "The value of positionSide is not one that the API knows.",
             "Set positionSide to LONG, SHORT or BOTH."),
            (-2103, "Position not found", _FIX, _NO,
             "There is no position such as the request names.",
             "Check the symbol, and query the positions that the account holds."),
            (-2104, "Leverage too high", _FIX, _NO,
             "The leverage is above the maximum that is allowed.",
             "Lower the leverage."),
            (-2105, "Leverage too low", _FIX, _NO,
             "The leverage is below the minimum that is allowed.",
             "Raise the leverage."),
        ),
        "margin": (
            (-2200, "Margin type already set", _NONE, _NO,
             "The symbol uses the margin type asked for already.",
             "Nothing needs to be done: the setting is as wanted."),
            (-2201, "Cannot change margin type", _FIX, _NO,
             "The margin type cannot be changed while positions are open.",
             "Close the open positions, then change the margin type."),
            (-2202, "Insufficient margin", _FIX, _NO,
             "The margin does not suffice for what was asked.",
             "Add margin, or ask for less."),
            (-2203, "Cannot add margin", _FIX, _NO,
             "There is no position to add margin to.",
             "Open the position first, then add margin to it."),
            (-2204, "Cannot remove margin", _FIX, _NO,
             "Without the margin to be removed the position would be liquidated.",
             "Remove a smaller amount."),
        ),
        "websocket": (
            (-3000, "WebSocket error", _RECONNECT, _NO,
             "The WebSocket connection failed for no more specific reason.",
             "Open the connection again and renew its subscriptions."),
            (-3001, "Invalid message", _FIX, _NO,
             "The server could not make sense of a message sent over the WebSocket.",
             "Check the message's format: a JSON object with the fields that the documentation names."),
            (-3002, "Invalid method", _FIX, _NO,
             "The message's method is not one that the stream knows.",
             "Set method to SUBSCRIBE or another one that the documentation lists."),
            (-3003, "Invalid params", _FIX, _NO,
             "The message's params are not what its method calls for.",
             "Check the format of params and the names of the streams in it."),
            (-3004, "Too many subscriptions", _FIX, _NO,
             "The connection has more subscriptions than the limit allows.",
             "Unsubscribe from streams that you do not need."),
            (-3005, "Listen key expired", _RENEW, _NO,
             "The listen key of the user data stream has expired.",
             "Create a new listen key, connect with it, and keep it alive from then on."),
            (-3006, "Connection limit", _FIX, _NO,
             "More WebSocket connections are open than the limit allows.",
             "Close the connections that are no longer used."),
        ),
        "http": (
            (200, "OK", _NONE, _YES,
             "The request was successful.",
             "Nothing needs to be done, unless the body's code says otherwise."),
            (400, "Bad Request", _FIX, _NO,
             "The parameters of the request are invalid.",
             "Correct the parameters; the body may say which."),
            (401, "Unauthorized", _REFRESH, _NO,
             "The server could not authenticate the request.",
             "Get a new token, or check the API key, and send the request again."),
            (403, "Forbidden", _FIX, _NO,
             "The credentials are not permitted to do this.",
             "Check the permissions of the API key and its list of allowed addresses."),
            (404, "Not Found", _FIX, _NO,
             "The server has no endpoint at this URL.",
             "Compare the URL with the API's documentation."),
            (429, "Too Many Requests", _THROTTLE, _NO,
             "More requests came from you than the rate limit allows.",
             "Wait as long as Retry-After says, then send more slowly."),
            (500, "Internal Server Error", _RETRY, _UNKNOWN,
             "The server failed while it handled the request.",
             "Try again with exponential backoff; look an order up first, because it may have been placed."),
            (502, "Bad Gateway", _RETRY, _UNKNOWN,
             "A gateway got no usable answer from the server behind it.",
             "Try again with exponential backoff; look an order up first, because it may have been placed."),
            (503, "Service Unavailable", _BREAK, _UNKNOWN,
             "The service, or something on the way to it, is unavailable for the moment.",
             "Wait, then try again; without a code in the body nothing says that an order was not placed."),
            (504, "Gateway Timeout", _RETRY, _UNKNOWN,
             "A gateway stopped waiting for the server behind it, which may still finish the work.",
             "Try again with exponential backoff; look an order up first, because it may have been placed."),
        ),
    }.items()
    for code, name, recovery, executed, meaning, solution in rows
)
# fmt: on

CODES: Mapping[int, CodeInfo] = MappingProxyType({info.code: info for info in _RECORDS if info.group != "http"})
"""The envelope codes of the reference."""

STATUSES: Mapping[int, CodeInfo] = MappingProxyType({info.code: info for info in _RECORDS if info.group == "http"})
"""The HTTP statuses of the reference: what judges a response whose body has no code."""

GROUPS: tuple[str, ...] = tuple(dict.fromkeys(info.group for info in _RECORDS))
"""The sections of the reference, in its order; ``http`` is that of the statuses."""

CUSTOM_GROUP = "custom"
"""The group of codes that only the settings list."""


def lookup(code: int, codes: Mapping[int, CodeInfo] = CODES) -> CodeInfo:
    """Return the record of an envelope code, or of an HTTP status given as a positive number.

    Args:
        code: the code or status.
        codes: the table of codes; the reference's, or what :func:`with_policies` made of it.

    Raises:
        KeyError: nobody lists the code.
    """
    info = codes.get(code)
    return STATUSES[code] if info is None else info


def explain(code: int) -> CodeInfo:
    """Return what the reference's table says about a code; ``str()`` of it is a text for people.

    Args:
        code: an envelope code (``-1003``) or an HTTP status (``429``).

    Raises:
        KeyError: nobody lists the code.
    """
    return lookup(code)


def with_policies(codes: Mapping[int, tuple[Recovery, Executed]]) -> Mapping[int, CodeInfo]:
    """Return the table of codes with the policies of the settings' ``codes`` laid over it.

    Args:
        codes: recovery and executed by code. One that the reference lists keeps its words; any other is
            added in the group ``custom``.
    """
    if not codes:
        return CODES
    table = dict(CODES)
    for code, (recovery, executed) in codes.items():
        known = CODES.get(code)
        if known is not None:
            table[code] = known._replace(recovery=recovery, executed=executed)
        else:
            table[code] = CodeInfo(
                code,
                CUSTOM_GROUP,
                "Custom code",
                "The reference does not list this code; the settings say how it is treated.",
                "Read the msg field of the response and the API's own documentation.",
                recovery,
                executed,
            )
    return MappingProxyType(table)


# A proxy or a load balancer may say these of its own client side while the server behind it goes on
# (RFC 9110 section 15.5.9; 499 is nginx's "client closed request").
_UNPROVEN_4XX = frozenset({408, 499})


def unlisted_status(status: int) -> CodeInfo:
    """Return a record for an HTTP status that the reference does not list: delivered at once, never repeated.

    Args:
        status: the HTTP status. From 200 to 399 it counts as executed; a 4xx is a refusal, save those that a proxy may
            answer by itself (408, 499); whatever else there is proves nothing, an interim answer (1xx) included.
    """
    try:
        name = HTTPStatus(status).phrase
    except ValueError:
        name = f"HTTP status {status}"
    if status < 200:
        meaning = "An interim answer; the one that counts did not come."
        solution = "Find out whether the request was carried out before you send it again."
        recovery, executed = Recovery.NONE, Executed.UNKNOWN
    elif status < 400:
        meaning, solution = "The server accepted the request.", "Nothing needs to be done."
        recovery, executed = Recovery.NONE, Executed.YES
    elif status < 500 and status not in _UNPROVEN_4XX:
        meaning, solution = "The server refused the request.", "Correct the request; the body may say how."
        recovery, executed = Recovery.FIX_REQUEST, Executed.NO
    else:
        meaning = "The request failed on the server's side, or on the way to it."
        solution = "Find out whether the request was carried out before you send it again."
        recovery, executed = Recovery.NONE, Executed.UNKNOWN
    return CodeInfo(status, "http", name, meaning, solution, recovery, executed)
