"""What two settings cannot both mean: contradictions between keys that were given, and keys that need another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING

from ..core.model import Executed, Recovery
from ..errors import SettingsError
from .kinds import DEFAULT, Given, Tree
from .values import leaves, merge

if TYPE_CHECKING:
    from .schema import Settings

_AT_MOST = (
    ("retry.base", "retry.max_wait"),
    ("rate_limit.wait", "rate_limit.max_wait"),
    ("circuit.reset_timeout", "circuit.reset_max"),
    ("orders.settle", "orders.give_up"),
)
_NO_REPEAT = frozenset({Recovery.RECONNECT, Recovery.FIX_REQUEST, Recovery.NONE})


def check(settings: Settings, tree: Tree) -> None:
    """Check settings against the tree of what was given for them, and so for each origin of ``per_origin``.

    Defaults contradict nothing: where only one of two keys was given, it holds.

    Raises:
        SettingsError: two keys that were both given contradict each other, or one lacks another that it needs.
    """
    _raise_first(_problems(settings, tree))
    everywhere = {name: branch for name, branch in tree.items() if name != "per_origin"}
    for origin, overrides in tree.get("per_origin", {}).items():
        own = settings.for_origin(origin)
        _raise_first(chain(_problems(own, merge(everywhere, overrides)), _out_of_reach(origin, own, overrides)))


def _raise_first(problems: Iterable[str]) -> None:
    for problem in problems:
        raise SettingsError(problem)


def _given(tree: Tree, key: str) -> Given | None:
    """Return what was given for a key, unless it is none."""
    for part in key.split("."):
        if not isinstance(tree, Mapping) or part not in tree:
            return None
        tree = tree[part]
    return tree if isinstance(tree, Given) and tree.value is not None else None


def _problems(settings: Settings, tree: Tree) -> Iterator[str]:
    for low, high in _AT_MOST:
        less, more = _given(tree, low), _given(tree, high)
        if less and more and less.value > more.value:
            yield _contradiction(less, more, f"{less.value:g} is more than {more.value:g}")
    for problems in (_token, _signing, _orders, _shared, _codes):
        yield from problems(settings, tree)


def _token(settings: Settings, tree: Tree) -> Iterator[str]:
    url, source = _given(tree, "token.url"), _given(tree, "token.source")
    if url and source:
        yield _contradiction(url, source, "a token has one source")
    if source and not settings.token_origins:
        yield _need(source, "token.origins or origins: a token is given to known origins only")
    own, receivers = _given(tree, "origins"), _given(tree, "token.origins")
    if own and own.value and receivers and not set(receivers.value) <= set(own.value):
        yield _contradiction(receivers, own, "an origin beside these gets plain requests, and so no token")


def _signing(settings: Settings, tree: Tree) -> Iterator[str]:
    key, secret = _given(tree, "signing.api_key"), _given(tree, "signing.secret")
    if key and not secret:
        yield _need(key, "signing.secret")
    if secret and not key:
        yield _need(secret, "signing.api_key")
    if key and not settings.origins:
        yield _need(key, "origins: requests to known origins only are signed")


def _orders(settings: Settings, tree: Tree) -> Iterator[str]:
    absent, success = _given(tree, "orders.not_found"), _given(tree, "success_codes")
    both = set(absent.value) & set(settings.success_codes) if absent else set()
    if absent and both:
        # Whichever of the two is a default: an order that was found would be sent once more.
        why = "a code says that there is an order or that there is none"
        yield _contradiction(absent, success or Given("success_codes", None, DEFAULT), why)
    adds = _given(tree, "orders.add_client_id")
    if adds and adds.value and not (settings.orders.paths or settings.orders.query_path):
        yield _need(adds, "orders.paths or orders.query_path: what else an order is, its client id shows")


def _shared(settings: Settings, tree: Tree) -> Iterator[str]:
    tokens = _given(tree, "shared.tokens")
    if tokens and tokens.value and settings.shared.token_key is None:
        yield _need(tokens, "shared.token_key: tokens are kept encrypted only")
    if tokens and tokens.value and settings.shared.url is None:
        yield _need(tokens, "shared.url: there is nowhere to keep them")


def _codes(settings: Settings, tree: Tree) -> Iterator[str]:
    success, failures = _given(tree, "success_codes"), _given(tree, "circuit.codes")
    if success and failures and set(success.value) & set(failures.value):
        yield _contradiction(failures, success, "a code is a success or a failure")
    for code, branch in tree.get("codes", {}).items():
        recovery, executed = settings.codes[code]
        for policy in leaves(branch):
            if success and code in success.value:
                yield _contradiction(policy, success, "a success needs no recovery")
            if executed is Executed.YES and recovery not in _NO_REPEAT:
                yield f'{policy.key} ({policy.where}): "{recovery}" would repeat what was executed = "yes"'


def _out_of_reach(origin: str, own: Settings, overrides: Tree) -> Iterator[str]:
    """Yield what was given for an origin alone and would still not be used there."""
    login = _given(overrides, "token.url") or _given(overrides, "token.source")
    if login and origin not in own.token_origins:
        yield _need(login, f"{origin} in token.origins or origins: the token would go elsewhere")
    key = _given(overrides, "signing.api_key")
    if key and origin not in own.origins:
        yield _need(key, f"{origin} in origins: its requests would not be signed")


def _contradiction(one: Given, other: Given, why: str) -> str:
    return f"{one.key} ({one.where}) contradicts {other.key} ({other.where}): {why}"


def _need(given: Given, what: str) -> str:
    return f"{given.key} ({given.where}) needs {what}"
