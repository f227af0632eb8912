"""Other programs' words: each is answered, and the page for their users has it."""

import re
from pathlib import Path

from mimicfs.config import peers
from mimicfs.config.options import BY_NAME

PAGE = (Path(__file__).parents[2] / "docs/coming-from.md").read_text()


def test_the_page_for_their_users_has_the_words_that_are_answered():
    rows = re.findall(r"^\| (`.*?`) \|", PAGE, re.MULTILINE)
    assert {word for row in rows for word in re.findall(r"`(\w+)`", row)} == peers.WORDS


def test_what_is_advised_is_an_option():
    advised = {name for word in peers.WORDS for name in re.findall(r"(\w+)=", peers.advice(word))}
    known = {option.word for option in BY_NAME.values()}
    assert advised - known == {"parts"}  # server_can='copy-parts=no'
