"""Finding out what became of a request whose outcome is unknown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from requests import PreparedRequest, Response

from .clock import Clock
from .errors import JournalError, ResilienceError, told_of
from .outgoing import Outgoing
from .story import Story
from .telemetry.events import EventName

if TYPE_CHECKING:
    from .repairs.orders import Submission


class Lookup:
    """What a reconciler is given to send other requests with.

    They go through the same origin with its token, signature and retries, but past an open circuit: finding out what
    became of an order must not wait for the order's server to be well.

    Attributes:
        clock: the clock that every wait is to go by.
        deadline: monotonic instant at which the call ends; infinity for never.
        sent_at: monotonic instant until which the request whose outcome is unknown may have been on its way.
        recv_window: milliseconds for which the server takes what our signer signs; None without one.
    """

    def __init__(
        self,
        send: Callable[[PreparedRequest], Response],
        *,
        clock: Clock,
        deadline: float,
        sent_at: float,
        recv_window: int | None,
    ) -> None:
        self._send = send
        self.clock = clock
        self.deadline = deadline
        self.sent_at = sent_at
        self.recv_window = recv_window

    def __call__(self, request: PreparedRequest) -> Response:
        """Send a request and return its response, read whole."""
        return self._send(request)


Reconciler = Callable[[PreparedRequest, Lookup], Response | None]


class Inquiry:
    """Asks the reconciler what became of a call's request, or waits for another call that asks.

    Args:
        reconciler: finds out, or None.
        lookup: makes what the reconciler sends with, given the instant until which the request may have been on its
            way.
        outgoing: what was sent.
        submission: the order that was sent, or None where it is none.
        story: told of what is found out.
        deadline: monotonic instant at which the call ends; infinity for never.
    """

    def __init__(
        self,
        reconciler: Reconciler | None,
        lookup: Callable[[float], Lookup],
        outgoing: Outgoing,
        submission: Submission | None,
        story: Story,
        deadline: float,
    ) -> None:
        self._reconciler = reconciler
        self._lookup = lookup
        self._outgoing = outgoing
        self._submission = submission
        self._story = story
        self._deadline = deadline

    def find_out(self, why: str, sent_at: float) -> Response | None:
        """Find out about the request that may have been on its way until an instant.

        Returns a response: it was executed, and this is its state; None: it was not.

        Raises:
            Exception: what became of it is still unknown.
        """
        story = self._story
        story.emit(EventName.RECONCILE, detail=why)
        try:
            if self._submission is None:
                found = self._ask(sent_at)
            else:
                found = self._submission.settle(self._ask, self._deadline)
        except Exception as error:
            story.emit(EventName.RECONCILED, detail=f"still unknown: {told_of(error)}")
            raise
        story.emit(EventName.RECONCILED, detail="not executed" if found is None else "executed")
        return found

    def _ask(self, sent_at: float) -> Response | None:
        if self._reconciler is None:
            from .repairs.reconcile import StillUnknownError

            raise StillUnknownError("there is no reconciler to find out")
        found: object = self._reconciler(self._outgoing.base, self._lookup(sent_at))
        if found is not None and not isinstance(found, Response):
            # A False or a dict proves nothing either way.
            raise TypeError(f"a reconciler returns a requests.Response or None, not a {type(found).__name__}")
        if found is not None:
            _ = found.content  # what cannot be read tells nothing
        return found

    def meet_doubt(self, submission: Submission, sent_at: float) -> Response | None:
        """Find out first about an earlier send of the same order, where that is in doubt.

        Returns its state where it was executed; None where the order may be sent.

        Raises:
            OutcomeUnknownError: it is still unknown whether it was executed.
            ResilienceError: there are too many doubts already.
            JournalError: the journal could not be read.
        """
        try:
            doubtful = submission.in_doubt()
        except JournalError:
            raise
        except ResilienceError as error:
            raise self._story.told(error) from None
        self._outgoing.base = submission.identified(self._outgoing.base)
        if not doubtful:
            return None
        try:
            return self.find_out("the same order is in doubt", sent_at)
        except JournalError:
            raise
        except Exception as error:
            raise self._story.still_in_doubt() from error
