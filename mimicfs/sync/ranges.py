"""Ranges of keys: what a listing is cut into, and where to cut.

A range is listed by one request after the other. Where the mirror knows the keys, ranges are cut at
every so many of them, at whole pages: then a listing in which nothing changed takes not one request
more than a single stream. Where it does not, a place in the middle is guessed from the letters of
the keys (`Alphabet`), and tried by listing from there: the answer is the first page of the new
range, so that only a guess behind the last key is wasted.

Pure: nothing here asks anybody. Not thread-safe.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import inf

from mimicfs.entry import LIST_MAX
from mimicfs.s3.requests.trail import Trail

# Known keys are cut into ranges of at least so many; a range that is cut while it is listed must
# have so many left.
STRIDE_MIN = 4 * LIST_MAX
# A guess may be wasted, and the end of each range costs half a page: only large ranges are cut.
GUESS_MIN = 10 * LIST_MAX
_SAMPLE = 20  # keys of a page, looked at
_COLUMNS = 64  # letters of each
_FINEST = 1e-9  # the precision of a place
_LAST = "~"  # behind all characters of usual names


@dataclass(eq=False, slots=True)
class KeyRange:
    """The keys in (*after*, *upto*] (*upto* None: to the end). *after* moves on."""

    after: str = ""
    upto: str | None = None
    expected: int | None = None  # keys, as far as the mirror knows
    token: str | None = None  # S3's, to go on with
    trail: Trail = field(default_factory=Trail)  # that its tokens lead
    start: str = ""  # where it began
    keys: int = 0
    pages: int = 0
    done: bool = False
    turn: int = 0  # answers to requests of an earlier turn are thrown away
    tries: int = 0  # of the page that is asked for
    probes: int = 0  # ranges that are being tried, and would take a part of it
    parent: KeyRange | None = None  # whose part this is, if there is anything
    kept_from: str | None = None  # behind this key deletions are held back
    late_from: str | None = None  # behind this key some deletions wait for the end

    def __post_init__(self) -> None:
        self.start = self.after

    @property
    def known_left(self) -> int:
        """Return how many keys are left, as far as the mirror knows."""
        return max(0, (self.expected or 0) - self.keys)

    @property
    def unsettled(self) -> str:
        """Return the key after which this range must be listed again if it is interrupted now."""
        places = (self.after, self.kept_from, self.late_from)
        return min(place for place in places if place is not None)

    def cut(self, at: str) -> KeyRange:
        """Give away the end of this range behind *at*."""
        end = KeyRange(at, self.upto)
        self.upto = at
        return end


class Alphabet:
    """The letters that tell the keys of a listing apart. A place where all keys have the same
    letter, as in the middle of `d0/f0`, does not count."""

    def __init__(self) -> None:
        self.letters: list[str] = []  # in order
        self._columns: list[set[str]] = []  # by place in the key: the letters seen there

    def learn(self, keys: Sequence[str], without: str = "") -> None:
        """Take in the letters of the *keys* of a page."""
        some = [key[:_COLUMNS] for key in islice(keys, 0, None, len(keys) // _SAMPLE + 1)]
        found: set[str] = set()
        for n, column in enumerate(zip(*some, strict=False)):
            if n == len(self._columns):
                self._columns.append(set())
            self._columns[n].update(column)
            if len(self._columns[n]) > 1:
                found |= self._columns[n]
        if not found <= {*self.letters}:
            self.letters = sorted({*self.letters, *found} - {*without})

    def _steady(self, n: int) -> str:
        """Return the letter that all keys have at *n*; "": they differ, or end before."""
        column = self._columns[n] if n < len(self._columns) else ()
        return next(iter(column)) if len(column) == 1 else ""

    def place(self, key: str, at: int) -> float:
        """Return where *key* is, from 0 to 1, among all that have its first *at* letters."""
        size, scale, place = max(1, len(self.letters)), 1.0, 0.0
        for n, letter in enumerate(key[at : at + _COLUMNS], at):
            steady = self._steady(n)
            if steady and letter != steady:
                return place + (scale if letter > steady else 0.0)
            if not steady:
                scale /= size
                place += bisect_left(self.letters, letter) * scale
            if scale < _FINEST:
                break
        return min(place, 1.0)

    def middle(self, low: str, high: str, share: float = 0.5) -> str:
        """Return a text about half way (or *share* of it) between *low* and *high*; "" if there
        is none."""
        if len(self.letters) < 2:
            return ""
        at = len(common(low, high))
        first, last = self.place(low, at), self.place(high, at)
        place = first + (last - first) * share
        text, found = low[:at], False
        for n in range(at, at + _COLUMNS):
            letter = self._steady(n)
            if not letter:
                place *= len(self.letters)
                digit = min(int(place), len(self.letters) - 1)
                place -= digit
                letter = self.letters[digit]
            text += letter
            if found:  # one letter more than necessary: tenths are uneven parts
                return text if text < high else text[:-1]
            found = low < text < high
        return text if found else ""

    def left(self, part: KeyRange) -> float:
        """Return about how many keys of *part* are to come, by how many there were so far."""
        if part.expected is not None and part.known_left:
            return part.known_left
        if part.upto is None:
            return inf
        if not part.keys:
            return 0
        at = len(common(part.start, part.upto))
        low, now, high = (self.place(key, at) for key in (part.start, part.after, part.upto))
        return part.keys * max(0.0, high - now) / (now - low) if now > low else inf


def guesses(part: KeyRange, first: str, alphabet: Alphabet, count: int) -> list[str]:
    """Return up to *count* places where the rest of *part* might be cut, in order. *first* is the
    first key of the listing: all keys may begin with what it has in common with the place of
    *part*."""
    if part.upto is None:
        found = common(first, part.after) + _LAST
        return [found] if found > part.after else []
    shares = [(n + 1) / (count + 1) for n in range(count)]
    places = {alphabet.middle(part.after, part.upto, share) for share in shares}
    return sorted(places - {""})


def common(one: str, other: str) -> str:
    """Return the common beginning of both texts."""
    if one == other:
        return one
    at = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    return one[:at] if at is not None else min(one, other, key=len)


def spread(candidates: Sequence[str], count: int) -> list[str]:
    """Return up to *count* of *candidates*, at even distances."""
    step = max(1.0, (len(candidates) + 1) / (count + 1))
    return [candidates[round(step * (n + 1)) - 1] for n in range(min(count, len(candidates)))]
