"""What a call went through, as ``response.resilience`` tells it."""

from __future__ import annotations

import pickle

from resilient_adapter.core.codes import CODES
from resilient_adapter.core.model import Recovery
from resilient_adapter.core.report import Attempt, Resilience

FIRST = Attempt(1, None, None, "reset", Recovery.RETRY, 0.0, 0.25)
SECOND = Attempt(2, 200, -1008, None, Recovery.BREAK, 1.5, 0.125)


def test_an_attempt_has_the_fields_of_the_contract() -> None:
    """Each has number, status, code, error, recovery, wait and elapsed, in this order."""
    assert " ".join(Attempt._fields) == "number status code error recovery wait elapsed"


def test_a_story_has_the_fields_of_the_contract() -> None:
    """Beside the attempts: code, info, elapsed and outcome_unknown, which is False unless said."""
    assert " ".join(Resilience._fields) == "attempts code info elapsed outcome_unknown"
    assert Resilience((), None, None, 0.0).outcome_unknown is False


def test_a_recovery_reads_as_in_the_table() -> None:
    """Scripts compare it with the table's word, and print it."""
    assert SECOND.recovery == "break" and f"{SECOND.recovery}" == "break"


def test_a_story_is_a_value_that_pickles() -> None:
    """Two alike are equal, and it crosses processes with the response's exception."""
    story = Resilience((FIRST, SECOND), -1008, CODES[-1008], 1.875, True)
    assert pickle.loads(pickle.dumps(story)) == story
    assert story != story._replace(outcome_unknown=False)
