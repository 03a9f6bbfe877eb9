"""A request's parameters, wherever they are: in its query, its form or its JSON body."""

from __future__ import annotations

import json
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, urlsplit

from requests import PreparedRequest


def parameters(request: PreparedRequest, names: Iterable[str]) -> list[tuple[str, str]]:
    """Return the named parameters of a request, as ``(name, value)``: the query's first, then the body's.

    What cannot be read (a stream, a compressed body, JSON that is none) has no parameters.

    Args:
        request: the request; it is not changed.
        names: the parameters that are asked for.
    """
    wanted = frozenset(names)
    pairs: list[tuple[str, object]] = list(parse_qsl(urlsplit(request.url or "").query, keep_blank_values=True))
    body = request.body
    # Bodies may be megabytes, and parsing takes a while: first see whether there is anything to find.
    if isinstance(body, (str, bytes)) and body and any(_holds(body, name) for name in wanted):
        kind = _kind(request)
        try:
            if kind == "json":
                document = json.loads(body)
                if isinstance(document, dict):
                    pairs.extend(document.items())
            elif kind == "form":
                pairs.extend(parse_qsl(body if isinstance(body, str) else body.decode(), keep_blank_values=True))
        except (ValueError, RecursionError):
            pass  # not for us to judge: it has no parameters that we could read
    return [(name, _text(value)) for name, value in pairs if name in wanted and value is not None]


def add_parameter(request: PreparedRequest, name: str, value: str) -> bool:
    """Add a parameter to a request, in place, where its others are; the rest stays as it is, byte for byte.

    Args:
        request: a copy of the caller's.
        name: the parameter's name.
        value: its value; no character of it may need escaping.

    Returns whether there was a place for it: in a form, a JSON object or the query, in this order. A body of another
    kind leaves it to the query, where there is one.
    """
    body = request.body
    pair = f"{quote(name, safe='')}={value}"
    if isinstance(body, (str, bytes)) and body:
        kind = _kind(request)
        if kind == "form":
            _set_body(request, _join(body, "&" + pair))
            return True
        if kind == "json":
            longer = _with_member(body, f"{json.dumps(name)}: {json.dumps(value)}")
            if longer is not None:
                _set_body(request, longer)
                return True
    url, mark, fragment = (request.url or "").partition("#")
    query = urlsplit(url).query
    if body and not query:
        return False
    request.url = f"{url.rstrip('?')}{'&' if query else '?'}{pair}{mark}{fragment}"
    return True


def holds_many(request: PreparedRequest) -> bool:
    """Return whether a request asks for several things at once: a list of objects, by itself or in a parameter."""
    body = request.body
    values: list[object] = [value for _, value in parse_qsl(urlsplit(request.url or "").query)]
    if isinstance(body, (str, bytes)) and body:
        if _kind(request) == "form":
            values += [value for _, value in parse_qsl(body if isinstance(body, str) else body.decode("latin-1"))]
        else:
            document = _json(body)
            values += list(document.values()) if isinstance(document, dict) else [document]
    return any(_is_list_of_objects(value) for value in values)


def _is_list_of_objects(value: object) -> bool:
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        value = _json(value)
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _json(text: str | bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _with_member(body: str | bytes, member: str) -> str | bytes | None:
    """Return a JSON object with one more member; None where the body is no such thing.

    The text is extended rather than written anew: that would round numbers with more digits than a float has.
    """
    try:
        text = body if isinstance(body, str) else body.decode()
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    end = text.rindex("}")
    longer = f"{text[:end]}{', ' if document else ''}{member}{text[end:]}"
    return longer if isinstance(body, str) else longer.encode()


def _set_body(request: PreparedRequest, body: str | bytes) -> None:
    request.body = body
    request.headers["Content-Length"] = str(len(body.encode() if isinstance(body, str) else body))


def _join(body: str | bytes, more: str) -> str | bytes:
    return body + more if isinstance(body, str) else body + more.encode()


def _holds(body: str | bytes, name: str) -> bool:
    return name in body if isinstance(body, str) else name.encode() in body


def _kind(request: PreparedRequest) -> str:
    if request.headers.get("Content-Encoding"):
        return ""
    media = request.headers.get("Content-Type", "")
    media = (media.decode("latin-1") if isinstance(media, bytes) else media).partition(";")[0].strip().lower()
    if media == "application/json" or media.endswith("+json"):
        return "json"
    if media in ("", "text/plain"):
        # ``data=json.dumps(order)`` says no more of itself, and is understood all the same.
        body = request.body
        start = body.lstrip()[:1] if isinstance(body, (str, bytes)) else ""
        return "json" if start in ("{", b"{") else ""
    return "form" if media == "application/x-www-form-urlencoded" else ""


def _text(value: object) -> str:
    # JSON's own spelling: "True" is Python's.
    return value if isinstance(value, str) else json.dumps(value)
