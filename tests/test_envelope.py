"""Reading the code and message of an envelope, whatever the bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resilient_adapter.core.envelope import first_code, read_envelope
from resilient_adapter.core.model import Envelope

NOTHING = Envelope(None, None)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.just("code"), inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(st.text() | st.sampled_from(["code", "msg", "data"]), values, max_size=6)
whitespace = st.text(" \t\r\n", max_size=4)
# Of msgspec's own number of levels and json's: whichever gives up, nothing may come out but an envelope.
ABYSS = b"[" * 1_000_000


@pytest.mark.parametrize(
    ("body", "envelope"),
    [
        (b'{"code":0,"msg":"success","data":{}}', (0, "success")),
        (b'{"code":-1001,"msg":"Disconnected from server"}', (-1001, "Disconnected from server")),
        (b'{"code":"-1003","msg":"slow down"}', (-1003, "slow down")),
        (b'{"data":{"code":-1},"msg":"m","code":200}', (200, "m")),
        (b' \r\n\t{ "code" :\n-1003 , "msg" : null }\n', (-1003, None)),
        (b'{"c\\u006fde":7,"msg":"\\u00e9"}', (7, "é")),
        (b'{"code":"\\u002d7"}', (-7, None)),
        (b'{"code":-0}', (0, None)),
        (b'{"code":1,"code":2,"msg":"a","msg":"b"}', (2, "b")),
        (b'{"code":1,"code":null}', (None, None)),
        (b'{"code":123456789012345678901234567890}', (123456789012345678901234567890, None)),
        (b'{"msg":"no code"}', (None, "no code")),
        (b'{"code":1,"msg":5}', (1, None)),
        (b'{"code":1,"msg":{"text":"x"}}', (1, None)),
        (b"{}", (None, None)),
    ],
)
def test_an_object_yields_its_own_code_and_message(body: bytes, envelope: tuple[int | None, str | None]) -> None:
    """The top-level integer (or integer in a string) and the top-level string are read, the last of each."""
    assert read_envelope(body) == envelope


@pytest.mark.parametrize(
    "code",
    [
        "5.0", "1e3", "-1003.0", "true", "false", "null", "[1]", '{"code":1}', "[]",
        '"+5"', '" 5"', '"5 "', '"05"', '"-05"', '"5.0"', '"1e3"', '"0x10"', '"1_000"', '"--5"', '"-"', '""', '"five"',
        '"\\u0665"', '"\u0665"', '"²"', '"5\\n"', '"5\\u0000"', '"' + "9" * 19 + '"', '"' + "9" * 5000 + '"', "1e400",
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ['{"code":%s,"msg":"m"}', '{"msg":"m","code":%s}'])
def test_what_is_no_integer_is_no_code(code: str, form: str) -> None:
    """Floats, booleans, null, nested values and strings that are not plainly an integer do not count."""
    body = (form % code).encode()
    assert read_envelope(body) == (None, "m")
    assert first_code(body) is None


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"\xef\xbb\xbf", b"\xff\xfe", b"null", b"0", b'"code"', b'[{"code":-1003}]', b"<html>502</html>",
        b"{", b'{"code"', b'{"code":0', b'{"code":01}', b'{"code":+5}', b'{"code":.5}', b'{"code":-}', b'{code:5}',
        b"{'code':5}", b'{"code":5,}', b'{"code":5} trailing', b'{"code":5}{"code":6}', b'{"code":5}\x00',
        b'\x00{"code":5}', b'{"code":5,"msg":"a\nb"}',
        b'{"code":' + b"9" * 5000 + b"}", b'\x1f\x8b{"code":5}', b'{"code":5,"d":' + ABYSS, b'{"code":' + ABYSS,
        b'{"code":5,"d":' + ABYSS + b"]" * len(ABYSS) + b"}", b'{"\x00c\x00o', b"\x00\x00\xfe\xff{",
    ],
    ids=lambda body: repr(body[:30]),
)  # fmt: skip
def test_what_is_no_json_object_has_no_code(body: bytes) -> None:
    """Not an object, cut, followed by more, too deep, or not JSON at all: nothing is read and nothing raised."""
    assert read_envelope(body) == NOTHING


@pytest.mark.parametrize(
    "body",
    [
        b'\xef\xbb\xbf{"code":-1003,"msg":"m"}',
        b'\xef\xbb\xbf \n{"code":-1003,"msg":"m"}',
        b'{"code":-1003,"msg":"m","data":NaN}',
        b'{"code":-1003,"msg":"m","data":[Infinity,-Infinity]}',
        b'{"code":-1003,"msg":"m","data":"\\ud800"}',
        b'{"code":-1003,"msg":"m","data":"\xff\xfe"}',
        b'\xef\xbb\xbf{"code":-1003,"msg":"m","data":"\xff\xfe"}',
        b'{"code":-1003,"msg":"m","data":1e999}',
    ],
)
def test_what_requests_would_accept_is_read(body: bytes) -> None:
    """Python's JSON is laxer than the standard, and so is the reader: a BOM, NaN, lone surrogates, broken UTF-8."""
    assert read_envelope(body) == (-1003, "m")


def test_broken_utf8_in_the_message_is_replaced() -> None:
    """The code is not lost because the message holds bytes that are not UTF-8."""
    assert read_envelope(b'{"code":-1003,"msg":"caf\xe9!"}') == (-1003, "caf�!")


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
@pytest.mark.parametrize("before", ["", " \n\t"])
def test_every_unicode_encoding_is_read(encoding: str, before: str) -> None:
    """The encodings that JSON parsers detect are read, with or without a byte order mark."""
    body = f'{before}{{"code":-1003,"msg":"zu schnell: 太快, é"}}'.encode(encoding)
    assert read_envelope(body) == (-1003, "zu schnell: 太快, é")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"code":0,"msg":"success"}', 0),
        (b' \r\n\t{ "code"\t: -1003\n}', -1003),
        (b'{"code":"200","data":1}', 200),
        (b'{"code":999999999999999999}', 999999999999999999),
        (b'{"code":0,"data":', 0),
        (b'{"code":0,"code":-1003}', 0),
        (b'{"msg":"m","code":0}', None),
        (b'{"data":{"code":0}}', None),
        (b'[{"code":0}]', None),
        (b'{"code":0', None),
        (b'{"code":0 1}', None),
        (b'{"code":"0}', None),
        (b'{"code":0"}', None),
        (b'{"code":9999999999999999999}', None),
        (b'{"Code":0}', None),
        (b'\xef\xbb\xbf{"code":0}', None),
        (b'\x0b{"code":0}', None),
        (b'"{"code":0}', None),
        (b"", None),
    ],
)
def test_the_first_bytes_tell_a_code_that_comes_first(body: bytes, code: int | None) -> None:
    """The very first key is read without a look at what follows; in any other case nothing is decided."""
    assert first_code(body) == code


@given(objects, st.integers(), st.booleans())
def test_an_integer_code_is_what_json_says(document: dict[str, Any], code: int, ascii_only: bool) -> None:
    """For any object with an integer code, wherever it stands, code and message are json.loads' own."""
    document["code"] = code
    body = json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    expected = json.loads(body)
    msg = expected.get("msg")
    assert read_envelope(body) == (code, msg if isinstance(msg, str) else None)


@given(objects)
def test_a_nested_code_never_counts(document: dict[str, Any]) -> None:
    """An object without a top-level code has none, whatever is inside it."""
    document.pop("code", None)
    body = json.dumps(document).encode()
    assert read_envelope(body).code is None
    assert first_code(body) is None


@given(objects, whitespace, whitespace, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32-be"]))
def test_layout_and_encoding_change_nothing(document: dict[str, Any], before: str, between: str, encoding: str) -> None:
    """Whitespace, the order of keys and the encoding do not matter."""
    plain = json.dumps(document)
    turned = dict(reversed(document.items()))
    laid_out = before + json.dumps(turned, separators=(between + "," + between, between + ":" + between)) + before
    assert read_envelope(laid_out.encode(encoding)) == read_envelope(plain.encode())


@given(values | st.from_regex(r"[-+ ]?[0-9]{0,3}[.e]?[0-9]", fullmatch=True), objects)
def test_the_first_bytes_agree_with_the_whole(code: Any, rest: dict[str, Any]) -> None:
    """Where the first bytes give a code, the whole body (valid, no key twice) gives the same."""
    body = json.dumps({"code": code, **{key: value for key, value in rest.items() if key != "code"}}).encode()
    assert first_code(body) in (None, read_envelope(body).code)


@given(st.integers(-(10**18) + 1, 10**18 - 1), st.booleans(), whitespace, objects)
def test_a_leading_code_is_always_seen(code: int, quoted: bool, space: str, rest: dict[str, Any]) -> None:
    """An integer of up to 18 digits, bare or in quotes, is told by the first bytes whatever comes after it."""
    value = f'"{code}"' if quoted else str(code)
    tail = "".join(f",{json.dumps(key)}:{json.dumps(value)}" for key, value in rest.items() if key != "code")
    body = f'{space}{{{space}"code"{space}:{space}{value}{space}{tail}}}{space}'.encode()
    assert first_code(body) == read_envelope(body).code == code


@given(
    st.sampled_from([b"", b"{", b'{"code":', b'{"code":"', b"\xff\xfe{\0", b"\0{", b"\xef\xbb\xbf{", b"\0\0\xfe\xff"]),
    st.binary(),
)
@example(b"{", b'"code":1,"msg":"\xed\xa0\x80"}')
def test_no_bytes_ever_raise(start: bytes, rest: bytes) -> None:
    """Whatever comes in, an envelope comes out, and a code only as an int."""
    envelope = read_envelope(start + rest)
    assert envelope.code is None or type(envelope.code) is int
    assert envelope.msg is None or isinstance(envelope.msg, str)
    assert first_code(start + rest) is None or type(first_code(start + rest)) is int


@given(objects.filter(lambda document: document), st.data())
def test_a_cut_body_has_no_code(document: dict[str, Any], data: st.DataObject) -> None:
    """A body that ends before its last brace is no JSON, so its code is not believed."""
    document["code"] = -1003
    body = json.dumps(document).encode()
    assert read_envelope(body[: data.draw(st.integers(0, len(body) - 1))]) == NOTHING
