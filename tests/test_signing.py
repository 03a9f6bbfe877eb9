"""Signatures: what is signed is what is sent, and a script's own are made afresh only where they are proven."""

from __future__ import annotations

import copy
import hashlib
import hmac
import io
import json
import pickle
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import pytest
import requests
from hypothesis import assume, given
from hypothesis import strategies as st
from requests import PreparedRequest
from urllib3.util import parse_url

from resilient_adapter.repairs.server_clock import ServerClock
from resilient_adapter.repairs.signed import CallerSigned, caller_signature, strip_signature
from resilient_adapter.repairs.signing import HmacSigner, SigningVariant
from resilient_adapter.testing import FakeClock

KEY, SECRET = "the-key", "the-secret"
URL = "https://api.example/api/v1/order"
NOW = 1_700_000_000_000  # what FakeClock's wall clock starts at
FORM = "application/x-www-form-urlencoded"
Pairs = list[tuple[str, str]]


def mac(payload: str | bytes) -> str:
    """Return the signature of a payload, as the server computes it."""
    data = payload if isinstance(payload, bytes) else payload.encode()
    return hmac.new(SECRET.encode(), data, hashlib.sha256).hexdigest()


def signer_at(clock: FakeClock, **options: Any) -> HmacSigner:
    """Return a signer that tells the time by a clock."""
    signer = HmacSigner(KEY, SECRET, **options)
    signer.server_clock = ServerClock(clock)
    return signer


@pytest.fixture
def signer(clock: FakeClock) -> HmacSigner:
    """Return a signer for which it is NOW."""
    return signer_at(clock)


def prepared(method: str, url: str = URL, **options: Any) -> PreparedRequest:
    """Return a request as requests prepares it."""
    return requests.Request(method, url, **options).prepare()


def query_of(request: PreparedRequest) -> str:
    """Return the query that is put on the wire."""
    return (request.path_url or "").partition("?")[2]


def received(request: PreparedRequest) -> Pairs:
    """Verify a request as the server does, from the bytes on the wire; return its parameters but for the signature."""
    assert request.url is not None
    assert parse_url(request.url).url == request.url, "urllib3 would send something else than what was signed"
    body = request.body
    if request.headers.get("Content-Type", "").startswith(FORM) and body is not None:
        assert isinstance(body, (str, bytes))
        assert not query_of(request)
        wire = body if isinstance(body, bytes) else body.encode()
        assert request.headers["Content-Length"] == str(len(wire))
    else:
        wire = query_of(request).encode()
    payload, _, signature = wire.rpartition(b"&signature=")
    assert mac(payload) == signature.decode()
    assert request.headers["X-MBX-APIKEY"] == KEY
    pairs = parse_qsl(payload.decode("ascii"), keep_blank_values=True, errors="surrogateescape")
    assert [name for name, _ in pairs] == sorted(name for name, _ in pairs)
    return pairs


class TestSigning:
    def test_known_answers(self, signer: HmacSigner) -> None:
        """Signatures computed with another program, for the recipe written out by hand."""
        plain = prepared("GET", params={"symbol": "BTCUSDT", "side": "BUY"})
        signer(plain)
        assert plain.url == (
            f"{URL}?recvWindow=5000&side=BUY&symbol=BTCUSDT&timestamp=1700000000000"
            "&signature=fef44e18020a27d9488526079c41dde4350734c15d7ba968d7304df11734e237"
        )
        assert plain.body is None and plain.headers["X-MBX-APIKEY"] == KEY

        encoded = prepared("POST", data={"symbol": "比特币", "note": "a b&c"})
        signer(encoded)
        assert encoded.body == (
            "note=a+b%26c&recvWindow=5000&symbol=%E6%AF%94%E7%89%B9%E5%B8%81&timestamp=1700000000000"
            "&signature=920eea1768c93f2b1b0f0bfea3e9e9da33a3452944b26d69dccd7c5e926131b6"
        )
        assert encoded.url == URL

    @pytest.mark.parametrize(
        ("request_", "payload"),
        [
            pytest.param(prepared("GET"), "recvWindow=5000&timestamp=1700000000000", id="no parameters"),
            pytest.param(
                prepared("GET", URL + "?b=&a=2&b=1&a=1"),
                "a=2&a=1&b=&b=1&recvWindow=5000&timestamp=1700000000000",
                id="blank values stay, repeated names keep their order",
            ),
            pytest.param(
                prepared("GET", URL + "?x=a+b&y=a%20b&z=a%2Bb"),
                "recvWindow=5000&timestamp=1700000000000&x=a+b&y=a+b&z=a%2Bb",
                id="a space is a plus, a plus is %2B",
            ),
            pytest.param(
                prepared("GET", URL + "?%7A=1&y%5B%5D=2"),
                "recvWindow=5000&timestamp=1700000000000&y%5B%5D=2&z=1",
                id="sorted by the name itself, not by its encoding",
            ),
            pytest.param(
                prepared("GET", URL + "?ä=1&z=2&Z=3"),
                "Z=3&recvWindow=5000&timestamp=1700000000000&z=2&%C3%A4=1",
                id="sorted by code point",
            ),
            pytest.param(
                prepared("GET", URL + "?raw=%FF%FE&s=~"),
                "raw=%FF%FE&recvWindow=5000&s=~&timestamp=1700000000000",
                id="bytes that are no UTF-8 stay what they are",
            ),
            pytest.param(
                prepared("GET", URL + "?a&&b=1=2?3"),
                "a=&b=1%3D2%3F3&recvWindow=5000&timestamp=1700000000000",
                id="a name alone, an empty part, a value with = and ?",
            ),
            pytest.param(
                prepared("GET", URL + "?timestamp=1&a=1&signature=0&timestamp=2"),
                "a=1&recvWindow=5000&timestamp=1700000000000",
                id="what an earlier signing left is replaced",
            ),
            pytest.param(
                prepared("GET", URL + "?a=1&recvWindow=1000"),
                "a=1&recvWindow=1000&timestamp=1700000000000",
                id="the caller's own receive window stays",
            ),
            pytest.param(
                prepared("POST", URL + "?a=1", json={"z": 1}),
                "a=1&recvWindow=5000&timestamp=1700000000000",
                id="JSON: in the query",
            ),
            pytest.param(
                prepared("POST", URL + "?a=1", data=io.BytesIO(b"z=1"), headers={"Content-Type": FORM}),
                "a=1&recvWindow=5000&timestamp=1700000000000",
                id="a stream: in the query",
            ),
            pytest.param(
                prepared(
                    "POST", URL + "?a=1", data=b"\x1f\x8b", headers={"Content-Type": FORM, "Content-Encoding": "gzip"}
                ),
                "a=1&recvWindow=5000&timestamp=1700000000000",
                id="a compressed form: in the query",
            ),
            pytest.param(
                prepared("POST", URL + "?a=1", headers={"Content-Type": FORM}),
                "a=1&recvWindow=5000&timestamp=1700000000000",
                id="a form without a body: in the query",
            ),
            pytest.param(
                prepared("POST", URL + "?a=1", data="z=1"),
                "a=1&recvWindow=5000&timestamp=1700000000000",
                id="a text that does not say that it is a form: in the query",
            ),
        ],
    )
    def test_parameters_in_the_query(self, signer: HmacSigner, request_: PreparedRequest, payload: str) -> None:
        """The URL's query is the payload and its signature; a body is left alone."""
        before = request_.copy()
        signer(request_)
        assert query_of(request_) == f"{payload}&signature={mac(payload)}"
        assert request_.body is before.body
        assert request_.headers.get("Content-Length") == before.headers.get("Content-Length")

    @pytest.mark.parametrize(
        ("request_", "payload"),
        [
            pytest.param(
                prepared("POST", data=[("b", ""), ("a", "2"), ("b", "1"), ("a", "1")]),
                "a=2&a=1&b=&b=1&recvWindow=5000&timestamp=1700000000000",
                id="blank values stay, repeated names keep their order",
            ),
            pytest.param(
                prepared("POST", data=b"b=x%20y&a=1", headers={"Content-Type": FORM}),
                b"a=1&b=x+y&recvWindow=5000&timestamp=1700000000000",
                id="bytes stay bytes",
            ),
            pytest.param(
                prepared(
                    "POST", data="b=\xe4", headers={"content-type": "Application/X-WWW-Form-Urlencoded; charset=utf-8"}
                ),
                "b=%C3%A4&recvWindow=5000&timestamp=1700000000000",
                id="characters that should have been encoded are",
            ),
            pytest.param(
                prepared("POST", data=b"b=\xff", headers={"Content-Type": b"application/x-www-form-urlencoded"}),
                b"b=%FF&recvWindow=5000&timestamp=1700000000000",
                id="and so are bytes that are no text",
            ),
            pytest.param(
                prepared("DELETE", data={"timestamp": "1", "signature": "0", "recvWindow": "700"}),
                "recvWindow=700&timestamp=1700000000000",
                id="what an earlier signing left is replaced, but for the window",
            ),
            pytest.param(
                prepared("POST", URL + "?b=1&a=1", data={"b": "2"}),
                "a=1&b=1&b=2&recvWindow=5000&timestamp=1700000000000",
                id="the query's parameters go first",
            ),
            pytest.param(
                prepared("POST", data=b"", headers={"Content-Type": FORM}),
                b"recvWindow=5000&timestamp=1700000000000",
                id="an empty form",
            ),
        ],
    )
    def test_parameters_in_the_form(self, signer: HmacSigner, request_: PreparedRequest, payload: str | bytes) -> None:
        """A form body is the payload and its signature, and says how long it is; nothing is left in the query."""
        if request_.body is None:  # requests drops an empty body
            request_.body = b""
        signer(request_)
        signature = f"&signature={mac(payload)}"
        assert request_.body == payload + (signature.encode() if isinstance(payload, bytes) else signature)  # type: ignore[operator]
        assert request_.url == URL
        assert request_.headers["Content-Length"] == str(len(request_.body))

    @pytest.mark.parametrize("body", [None, "a=1"])
    def test_a_fragment_stays_behind_the_query(self, signer: HmacSigner, body: str | None) -> None:
        """The URL's fragment is neither signed nor lost."""
        request = prepared("POST", URL + "?b=1#part?x=y", data=body, headers={"Content-Type": FORM})
        signer(request)
        assert request.url is not None and request.url.endswith("#part?x=y")
        assert dict(received(request))["b"] == "1"

    @given(
        query=st.lists(st.tuples(st.text(), st.text()), max_size=5),
        form=st.none() | st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=5),
        kind=st.sampled_from(["text", "bytes", "json"]),
    )
    def test_what_is_signed_is_what_is_sent(self, query: Pairs, form: Pairs | None, kind: str) -> None:
        """Whatever the parameters, the bytes on the wire verify, and the caller's values are read from them."""
        signer = signer_at(FakeClock())
        if form is None:
            request = prepared("POST", params=query)
        elif kind == "json":
            request = prepared("POST", params=query, json=form)
            form = None
        else:
            body = urlencode(form)
            request = prepared(
                "POST", params=query, data=body if kind == "text" else body.encode(), headers={"Content-Type": FORM}
            )
        given_ = [pair for pair in query + (form or []) if pair[0] not in ("timestamp", "signature")]
        if not any(name == "recvWindow" for name, _ in given_):
            given_.append(("recvWindow", "5000"))
        signer(request)
        assert received(request) == sorted([*given_, ("timestamp", str(NOW))], key=lambda pair: pair[0])

    @given(pairs=st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=5), form=st.booleans())
    def test_signing_again_changes_the_timestamp_and_nothing_else(self, pairs: Pairs, form: bool) -> None:
        """At the same moment a second signing changes nothing; later, the timestamp and with it the signature."""
        clock = FakeClock()
        signer = signer_at(clock)
        request = prepared("POST", data=pairs) if form else prepared("GET", params=pairs)
        signer(request)
        once = (request.url, request.body, dict(request.headers))
        signer(request)
        assert (request.url, request.body, dict(request.headers)) == once
        before = received(request)
        clock.advance(1.5)
        signer(request)
        after = received(request)
        assert [(n, v) for n, v in before if n != "timestamp"] == [(n, v) for n, v in after if n != "timestamp"]
        assert ("timestamp", str(NOW + 1500)) in after

    def test_the_time_is_the_servers(self, clock: FakeClock) -> None:
        """The timestamp follows what the server's clock has learned."""
        signer = signer_at(clock)
        signer.server_clock.learn(NOW + 60_000, clock.monotonic(), clock.monotonic())
        request = prepared("GET")
        signer(request)
        assert ("timestamp", str(NOW + 60_000)) in received(request)

    def test_a_signer_alone_tells_the_local_time(self) -> None:
        """Without anybody who hands it a clock, a signer still signs."""
        request = prepared("GET")
        HmacSigner(KEY, SECRET, recv_window=700)(request)
        parameters = dict(received(request))
        assert parameters["recvWindow"] == "700"
        assert int(parameters["timestamp"]) > NOW

    def test_the_key_goes_into_the_header_that_was_asked_for(self, clock: FakeClock) -> None:
        """In place of one that is there already."""
        request = prepared("GET", headers={"x-api-key": "stale"})
        signer_at(clock, key_header="X-API-Key")(request)
        assert request.headers["X-API-Key"] == KEY
        assert "X-MBX-APIKEY" not in request.headers


class TestSignersAsValues:
    OTHERS = (
        {"api_key": "other"},
        {"secret": "other"},
        {"recv_window": 1},
        {"key_header": "X-Key"},
        {"time_url": "https://api.example/time"},
        {"origins": ("https://api.example",)},
        {"paths": ("/api/*",)},
    )

    @pytest.mark.parametrize("change", OTHERS)
    def test_signers_are_equal_by_value(self, change: dict[str, Any]) -> None:
        """Equal arguments make equal signers; each of the arguments counts."""
        same = {"api_key": KEY, "secret": SECRET}
        one, two, other = HmacSigner(**same), HmacSigner(**same), HmacSigner(**{**same, **change})
        assert one == two and hash(one) == hash(two)
        assert one != other

    def test_the_servers_clock_is_no_part_of_the_value(self, clock: FakeClock) -> None:
        """Two signers that tell different times are equal; a signer equals nothing else."""
        assert signer_at(clock) == HmacSigner(KEY, SECRET)
        assert HmacSigner(KEY, SECRET) != (KEY, SECRET)

    @pytest.mark.parametrize("change", OTHERS)
    def test_signers_pickle_and_copy(self, clock: FakeClock, change: dict[str, Any]) -> None:
        """They come out equal, with a clock of their own."""
        signer = HmacSigner(**{"api_key": KEY, "secret": SECRET, **change})
        signer.server_clock = ServerClock(clock, pytest.fail)
        for twin in (pickle.loads(pickle.dumps(signer)), copy.copy(signer), copy.deepcopy(signer)):
            assert twin == signer
            assert twin.server_clock is not signer.server_clock
            twin(prepared("GET"))

    def test_neither_key_nor_secret_is_shown(self) -> None:
        """The repr tells all that is no secret; a time URL may hold one."""
        shown = repr(HmacSigner(KEY, SECRET, origins=["https://API.example:443/"], time_url="https://h/?token=tok"))
        assert shown == (
            "HmacSigner(api_key=***, secret=***, recv_window=5000, key_header='X-MBX-APIKEY', "
            "origins=('https://api.example',), paths=('*',))"
        )

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"api_key": ""}, ValueError),
            ({"api_key": "hush\n"}, ValueError),
            ({"api_key": " hush"}, ValueError),
            ({"api_key": "hush\x00"}, ValueError),
            ({"api_key": "hüsh"}, ValueError),
            ({"secret": ""}, ValueError),
            ({"recv_window": 0}, ValueError),
            ({"recv_window": -1}, ValueError),
            ({"recv_window": 5000.0}, ValueError),
            ({"recv_window": True}, ValueError),
            ({"key_header": ""}, ValueError),
            ({"key_header": "X Key"}, ValueError),
            ({"key_header": "X-Key\r\n"}, ValueError),
            ({"origins": ["api.example"]}, ValueError),
            ({"origins": ["https://api.example/path"]}, ValueError),
            ({"origins": "https://api.example"}, TypeError),
            ({"paths": "/api/*"}, TypeError),
        ],
    )
    def test_arguments_that_cannot_be_used_are_refused(self, arguments: dict[str, Any], error: type[Exception]) -> None:
        """At once, and without a word of what is secret."""
        with pytest.raises(error) as raised:
            HmacSigner(**{"api_key": KEY, "secret": SECRET, **arguments})
        for secret in (KEY, SECRET, "hush", "hüsh"):
            assert secret not in str(raised.value)

    @pytest.mark.parametrize(
        ("options", "origin", "path", "covered"),
        [
            ({}, "https://api.example", "/any", True),
            ({}, "https://elsewhere.example", "/any", True),  # the adapter's own origins decide
            ({"origins": ["HTTPS://API.example:443/"]}, "https://api.example", "/any", True),
            ({"origins": ["https://api.example"]}, "http://api.example", "/any", False),
            ({"origins": ["https://api.example"]}, "https://api.example:8443", "/any", False),
            ({"origins": ["https://api.example"]}, "https://api.example.evil", "/any", False),
            ({"origins": ["https://a", "https://b"]}, "https://b", "/any", True),
            ({"paths": ["/api/*"]}, "https://api.example", "/api/v1/order", True),
            ({"paths": ["/api/*"]}, "https://api.example", "/public/time", False),
            ({"paths": ["/api/*"]}, "https://api.example", "/API/v1/order", False),
            ({"paths": ["/a", "/b"]}, "https://api.example", "/b", True),
            ({"paths": []}, "https://api.example", "/any", False),
            ({"origins": ["https://a"], "paths": ["/b"]}, "https://a", "/a", False),
        ],
    )
    def test_what_a_signer_covers(self, options: dict[str, Any], origin: str, path: str, covered: bool) -> None:
        """Its own origins, where it has any, and of them the paths that match a pattern."""
        assert HmacSigner(KEY, SECRET, **options).covers(origin, path) is covered


# How scripts sign: each takes parameters and returns the request that such a script would send.
def script_appends(parameters: Pairs) -> PreparedRequest:
    """Signs urlencode() of the parameters as they come, and appends the signature to the URL."""
    query = urlencode(parameters)
    return prepared("GET", f"{URL}?{query}&signature={mac(query)}")


def script_reference(parameters: Pairs) -> PreparedRequest:
    """Signs them sorted, and sends them through requests as they came."""
    payload = urlencode(sorted(parameters))
    return prepared("GET", params=[*parameters, ("signature", mac(payload))])


def script_plain(parameters: Pairs) -> PreparedRequest:
    """Signs name=value without any encoding, sorted, and posts a form."""
    payload = "&".join(f"{name}={value}" for name, value in sorted(parameters))
    return prepared("POST", data=[*parameters, ("signature", mac(payload))])


def script_percent(parameters: Pairs) -> PreparedRequest:
    """Signs with %20 for a space, and posts a form, the signature first."""
    payload = urlencode(parameters, quote_via=quote)
    return prepared("POST", data=[("signature", mac(payload)), *parameters])


def script_bytes(parameters: Pairs) -> PreparedRequest:
    """Posts the form as bytes."""
    body = urlencode(parameters)
    return prepared("POST", data=f"{body}&signature={mac(body)}".encode(), headers={"Content-Type": FORM})


def script_split(parameters: Pairs) -> PreparedRequest:
    """Signs query and body, one behind the other, with nothing in between."""
    query, body = urlencode(parameters[:1]), urlencode(parameters[1:])
    return prepared(
        "POST", f"{URL}?{query}", data=f"{body}&signature={mac(query + body)}", headers={"Content-Type": FORM}
    )


def script_merged(parameters: Pairs) -> PreparedRequest:
    """Signs all parameters together, sorted, and sends some in the query and some in the form."""
    signature = mac(urlencode(sorted(parameters)))
    return prepared("POST", params=parameters[:1], data=[*parameters[1:], ("signature", signature)])


def script_json(parameters: Pairs) -> PreparedRequest:
    """Signs the query and the JSON behind it."""
    body = json.dumps({"side": "BUY"})
    query = urlencode(parameters)
    return prepared(
        "POST", f"{URL}?{query}&signature={mac(query + body)}", data=body, headers={"Content-Type": "application/json"}
    )


SCRIPTS = [
    script_appends,
    script_reference,
    script_plain,
    script_percent,
    script_bytes,
    script_split,
    script_merged,
    script_json,
]
ORDER = [("symbol", "BTCUSDT"), ("quantity", "1.5"), ("note", "a b+c/ä"), ("timestamp", str(NOW))]


def order_at(ms: int) -> Pairs:
    """Return the order with another timestamp."""
    return [*ORDER[:-1], ("timestamp", str(ms))]


def legacy(query: Pairs, form: Pairs | None, variant: SigningVariant) -> str | None:
    """Return what a script signs by a variant, None where it makes no sense."""
    encode: Any = {
        "sent": urlencode,
        "percent": lambda pairs: urlencode(pairs, quote_via=quote),
        "plain": lambda pairs: "&".join(f"{name}={value}" for name, value in pairs),
    }[variant.encoding]

    def text(pairs: Pairs) -> str:
        return encode(sorted(pairs, key=lambda pair: pair[0]) if variant.ordered else pairs)

    return {
        "query": text(query),
        "body": text(form or []),
        "query+body": text(query) + text(form or []),
        "query&body": None if form is None else text(query + form),
    }[variant.over] or None


# Hypothesis is to find names that sort differently once encoded, and values that every encoding treats in its own way.
PARAMETERS = st.lists(st.tuples(st.text("aZ~ä[_ +", min_size=1), st.text()), max_size=4)


class TestCallersOwn:
    @pytest.mark.parametrize("script", SCRIPTS)
    def test_a_scripts_own_signature_is_made_afresh_in_its_own_form(
        self, clock: FakeClock, signer: HmacSigner, script: Any
    ) -> None:
        """The repeat is, byte for byte, what the script itself would have sent a minute later."""
        request = script(ORDER)
        variant = signer.reproduces(request)
        assert variant is not None
        clock.advance(60)
        signer.resign(request, variant)
        later = script(order_at(NOW + 60_000))
        assert (request.url, request.body, dict(request.headers)) == (later.url, later.body, dict(later.headers))
        assert signer.reproduces(request) == variant

    @given(
        query=PARAMETERS,
        form=st.none() | PARAMETERS.filter(bool),
        stamp=st.tuples(st.booleans(), st.integers(0, 4)),
        mark=st.tuples(st.booleans(), st.integers(0, 5)),
        variant=st.builds(
            SigningVariant,
            st.sampled_from(["query", "body", "query+body", "query&body"]),
            st.booleans(),
            st.sampled_from(["sent", "percent", "plain"]),
        ),
        flip=st.tuples(st.integers(0, 63), st.sampled_from("0123456789abcdef")),
    )
    def test_every_recipe_is_recognised_and_no_other_signature_is(
        self,
        query: Pairs,
        form: Pairs | None,
        stamp: tuple[bool, int],
        mark: tuple[bool, int],
        variant: SigningVariant,
        flip: tuple[int, str],
    ) -> None:
        """Whatever was signed by a recipe can be signed afresh by it; with one digit changed it cannot."""

        def send(ms: int, digits: Any) -> tuple[PreparedRequest, str | None]:
            parts: list[Pairs] = [list(query), list(form or [])]
            in_form, at = stamp
            parts[in_form and form is not None].insert(at, ("timestamp", str(ms)))
            payload = legacy(parts[0], None if form is None else parts[1], variant)
            in_form, at = mark
            parts[in_form and form is not None].insert(at, ("signature", digits(payload or "")))
            body = None if form is None else urlencode(parts[1])
            return prepared("POST", params=parts[0], data=body, headers={"Content-Type": FORM}), payload

        request, payload = send(NOW, mac)
        assume(payload is not None)
        clock = FakeClock()
        signer = signer_at(clock)
        found = signer.reproduces(request)
        assert found is not None
        clock.advance(1)
        signer.resign(request, found)
        expected, _ = send(NOW + 1000, mac)
        assert (request.url, request.body) == (expected.url, expected.body)

        at, digit = flip
        signature = mac(payload or "")
        assume(signature[at] != digit)
        forged, _ = send(NOW, lambda _: signature[:at] + digit + signature[at + 1 :])
        assert signer.reproduces(forged) is None

    def test_seconds_stay_seconds(self, clock: FakeClock, signer: HmacSigner) -> None:
        """A script that sends its timestamp in seconds gets seconds, rounded down."""
        request = script_appends(order_at(1_700_000_000))
        variant = signer.reproduces(request)
        assert variant is not None
        clock.advance(1.75)
        signer.resign(request, variant)
        assert request.url == script_appends(order_at(1_700_000_001)).url

    def test_a_fragment_and_odd_separators_stay(self, clock: FakeClock, signer: HmacSigner) -> None:
        """All but the two values is left byte for byte, whether it makes sense or not."""
        payload = "b=%7a&&a&timestamp=1700000000000"
        request = prepared("GET")
        request.url = f"{URL}?{payload}&signature={mac(payload)}&#part"
        variant = signer.reproduces(request)
        assert variant is None  # the separator at the end was not signed
        request.url = f"{URL}?{payload}&signature={mac(payload)}#part"
        variant = signer.reproduces(request)
        assert variant is not None
        clock.advance(5)
        signer.resign(request, variant)
        later = "b=%7a&&a&timestamp=1700000005000"
        assert request.url == f"{URL}?{later}&signature={mac(later)}#part"

    @pytest.mark.parametrize("header", [None, KEY, KEY.encode()])
    def test_the_callers_key_may_be_ours(self, signer: HmacSigner, header: str | bytes | None) -> None:
        """In the header that we know, as text or bytes, or somewhere that we do not know; it stays there."""
        request = script_appends(ORDER)
        if header is not None:
            request.headers["X-MBX-APIKEY"] = header  # type: ignore[assignment]
        variant = signer.reproduces(request)
        assert variant is not None
        signer.resign(request, variant)
        assert request.headers.get("X-MBX-APIKEY") == header

    @pytest.mark.parametrize("header", ["other-key", b"other-key", "\xff", ""])
    def test_another_key_proves_nothing(self, signer: HmacSigner, header: str | bytes) -> None:
        """Even where the secret is the same."""
        request = script_appends(ORDER)
        request.headers["X-MBX-APIKEY"] = header  # type: ignore[assignment]
        assert signer.reproduces(request) is None

    @pytest.mark.parametrize("script", SCRIPTS)
    def test_another_secret_proves_nothing(self, script: Any) -> None:
        """Whichever way the script signs."""
        assert HmacSigner(KEY, "another-secret").reproduces(script(ORDER)) is None

    @pytest.mark.parametrize(
        "payload",
        [
            "symbol=BTCUSDT",
            "timestamp=",
            "timestamp=0",
            "timestamp=-1700000000000",
            "timestamp=1700000000.5",
            "timestamp=1700000000123456",
            "timestamp=2023-11-14T22%3A13%3A20Z",
            "timestamp=%D9%A1",
            "timestamp=1700000000000&timestamp=1700000000001",
        ],
    )
    def test_a_timestamp_that_cannot_be_replaced_for_certain(self, signer: HmacSigner, payload: str) -> None:
        """None, two, or one in a unit that is not known: rightly signed, and still not to be signed afresh."""
        request = prepared("GET", f"{URL}?{payload}&signature={mac(payload)}")
        assert signer.reproduces(request) is None
        with pytest.raises(ValueError, match="no signature of its caller"):
            signer.resign(request, SigningVariant("query", False, "sent"))

    @pytest.mark.parametrize("signatures", ["", "&signature=", "&signature=%C3%A4", "&signature=%FF"])
    def test_a_signature_that_is_none(self, signer: HmacSigner, signatures: str) -> None:
        """Missing, empty, or no hexadecimal digits at all."""
        assert signer.reproduces(prepared("GET", f"{URL}?timestamp={NOW}{signatures}")) is None

    def test_two_signatures_prove_nothing(self, signer: HmacSigner) -> None:
        """Which of them the server verifies is not known."""
        request = script_appends(ORDER)
        request.url = f"{request.url}&signature=0"
        assert signer.reproduces(request) is None
        with pytest.raises(ValueError, match="no signature of its caller"):
            signer.resign(request, SigningVariant("query", False, "sent"))

    def test_a_digest_in_capitals_is_not_ours(self, signer: HmacSigner) -> None:
        """Byte for byte means just that."""
        payload = f"timestamp={NOW}"
        assert signer.reproduces(prepared("GET", f"{URL}?{payload}&signature={mac(payload).upper()}")) is None

    def test_a_variant_of_another_request_is_refused(self, signer: HmacSigner) -> None:
        """There is no form whose parameters could have been signed; the request is left as it was."""
        request = script_appends(ORDER)
        before = request.url
        with pytest.raises(ValueError, match="not signed in this way"):
            signer.resign(request, SigningVariant("query&body", True, "sent"))
        assert request.url == before


class TestReceiveWindow:
    @pytest.mark.parametrize(
        ("query", "expires_at"),
        [
            ("timestamp=1700000000000", 1_700_000_005.0),
            ("timestamp=1700000000000&recvWindow=250", 1_700_000_000.25),
            ("recvWindow=60000&timestamp=1700000000000", 1_700_000_060.0),
            ("timestamp=1700000000", 1_700_000_005.0),
            ("timestamp=1700000000000&recvWindow=9000&recvWindow=1000", 1_700_000_001.0),
            # Not read for certain: no window at all, or long over.
            ("timestamp=1700000000000&recvWindow=", 1_700_000_000.0),
            ("timestamp=1700000000000&recvWindow=-5", 1_700_000_000.0),
            ("timestamp=1700000000000&recvWindow=1e9", 1_700_000_000.0),
            ("timestamp=1700000000123456", 0.0),
            ("timestamp=tomorrow", 0.0),
            ("timestamp=", 0.0),
            ("timestamp=1700000000000&timestamp=1700000000001", 0.0),
        ],
    )
    @pytest.mark.parametrize("place", ["query", "form", "both"])
    def test_until_when_it_is_valid(self, query: str, expires_at: float, place: str) -> None:
        """From its timestamp on as long as its own window, else 5000 ms, wherever the parameters are."""
        form = {"Content-Type": FORM}
        request = {
            "query": prepared("POST", f"{URL}?{query}&signature=0"),
            "form": prepared("POST", data=f"{query}&signature=0", headers=form),
            "both": prepared("POST", f"{URL}?{query}", data="signature=0", headers=form),
        }[place]
        assert caller_signature(request) == CallerSigned(expires_at)

    @pytest.mark.parametrize(
        "request_",
        [
            prepared("GET"),
            prepared("GET", URL + "?signature=0"),
            prepared("GET", URL + "?timestamp=1700000000000"),
            prepared("GET", URL + "?timestamps=1&signatures=0"),
            prepared("GET", URL + "#?timestamp=1&signature=0"),
            prepared("POST", json={"timestamp": 1, "signature": "0"}),
            prepared("POST", data=io.BytesIO(b"timestamp=1&signature=0"), headers={"Content-Type": FORM}),
            PreparedRequest(),
        ],
    )
    def test_what_is_not_signed_by_its_caller(self, request_: PreparedRequest) -> None:
        """Both parameters have to be there, in the query or in a form."""
        if request_.headers is None:
            request_.headers = requests.structures.CaseInsensitiveDict()
        assert caller_signature(request_) is None

    def test_our_own_signatures_have_a_window_too(self, signer: HmacSigner) -> None:
        """So that whoever looks an order up knows for how long it may still be accepted."""
        request = prepared("POST", data={"symbol": "BTCUSDT"})
        signer(request)
        assert caller_signature(request) == CallerSigned(1_700_000_005.0)

    @pytest.mark.parametrize(
        ("query", "rest"),
        [
            ("", ""),
            ("timestamp=1&signature=0", ""),
            ("b=1&timestamp=1&a=%20+&signature=0", "b=1&a=%20+"),
            ("b=1&&a&time%73tamp=1", "b=1&a"),
            ("timestamps=1&Signature=0&recvWindow=5", "timestamps=1&Signature=0&recvWindow=5"),
        ],
    )
    def test_what_is_left_without_timestamp_and_signature(self, query: str, rest: str) -> None:
        """Everything else, in its order and its encoding."""
        assert strip_signature(query) == rest
