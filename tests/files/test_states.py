"""The states of an open file: what the table says is what a file does."""

from __future__ import annotations

import pytest

from mimicfs.files.states import Event, State, after


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([Event.CHANGED, Event.STORED], State.CLEAN),
        ([Event.CHANGED, Event.LEAVES, Event.STAYS], State.DIRTY),
        ([Event.LEAVES, Event.CHANGED, Event.STAYS], State.DIRTY),
        ([Event.LEAVES, Event.STAYS], State.CLEAN),
        ([Event.LEAVES, Event.REPLACED], State.DETACHED),
        ([Event.REPLACED, Event.STAYS], State.EXPIRED),
        ([Event.DELETED, Event.LEAVES], State.VANISHED),
        ([Event.CHANGED, Event.DELETED, Event.REFUSED], State.LOST),
        ([Event.CHANGED, Event.CLOSED, Event.REPLACED], State.CLOSED),
    ],
)
def test_a_clean_file_ends_in_the_state_that_the_table_says(events, state):
    found = State.CLEAN
    for event in events:
        found = after(found, event)
    assert found is state


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (State.CLEAN, Event.REFUSED),
        (State.EXPIRED, Event.CHANGED),
        (State.UNSAVED, Event.STORED),
        (State.CLOSED, Event.CHANGED),
    ],
)
def test_what_is_not_in_the_table_cannot_happen(state, event):
    with pytest.raises(ValueError, match=f"{event.name} cannot happen"):
        after(state, event)


def test_nothing_leads_away_from_a_closed_file_and_nothing_else_is_the_end():
    for state in State:
        assert after(state, Event.CLOSED) is State.CLOSED
    later = (Event.LEAVES, Event.STAYS, Event.REPLACED, Event.DELETED, Event.CLOSED)
    assert {after(State.CLOSED, event) for event in later} == {State.CLOSED}


def test_a_file_that_is_apart_never_becomes_its_object_but_by_staying():
    for state in (each for each in State if each.apart):
        for event in set(Event) - {Event.STAYS}:
            try:
                found = after(state, event)
            except ValueError:
                continue
            assert found.apart or found is State.CLOSED
