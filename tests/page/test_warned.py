"""The warnings of the log that the page shows."""

import logging

from mimicfs.page.warned import RecentWarnings


def test_a_log_call_with_wrong_arguments_fails_nobody_and_the_next_one_is_heard(capsys):
    notes, log = RecentWarnings(), logging.Logger("of its own")
    log.addHandler(notes)
    log.warning("%d files", "three")
    log.warning("%d files", 4)
    assert [each.text for each in notes.latest()] == ["4 files"]
    assert "Message: '%d files'" in capsys.readouterr().err
