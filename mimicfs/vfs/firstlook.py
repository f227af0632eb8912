"""True at the first look: S3 is asked what is stored with objects (mode, owner, times, a link)
before anybody is shown their attributes. A listing does not say it.

Most buckets have nothing of the kind, so a directory is *sampled* first. Four HEADs, all at the
same time, ask about the name that somebody looks at, the directory's marker, and the other names
that tell most. If nothing is stored with any of them, the directory is *plain*, and the other names
are believed to be like them. Otherwise it is *rich*, and every name is asked about before it is
shown; the more names of a directory somebody looks at, the more are asked about ahead. The store
notes which of the two the directory is. (An old note does no harm: a plain directory is looked at
again for new names.) The answer to a HEAD stays with the version of its object.

An object that appears in a plain directory later may be of another kind: then the newest ones are
asked about. What mounts and programs of this store have written there is known, and tells nothing
about the others: it leaves the directory plain. After _MANY plain directories and no rich one,
other directories of the bucket without a marker object (mounts make one with each directory) are
believed to be plain as well: a `find` over a data lake does not cost a request for each directory.
Until then, the directories that a walk comes to next are sampled together with the one that it is
in, so that the walk waits a few times and not for each.

Threading: any thread; `needs` and `check` wait only for the store. If several threads want to know
the same directory, one asks.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import NamedTuple

from mimicfs.config.values import Buckets
from mimicfs.entry import KEPT, LISTED, NS, OBJECT, PAGE, Difference, Entry, pages
from mimicfs.errors import NOTHING_SAID, Interrupted, MimicError, S3Error, Unlearned, Unlisted
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import S3
from mimicfs.sync import heads, ranges
from mimicfs.vfs.sampling import DirectorySample, Verdict, any_rich, found_plain, sample

log = logging.getLogger(__name__)

_ALL = "look"  # the note that says how many were found plain, or that one is rich
_MANY = 64  # plain directories, after which others of the bucket are believed to be like them
_AGAIN_S = 10.0  # after S3 could not be asked, it is asked again
_AHEAD = 1024  # names that are asked about at once, at most
_FASTER = 8  # each time so many times as many as before
_SCANNED = 20_000  # entries of a directory that are searched for a sample
_REMEMBERED = 100_000  # directories, and objects that S3 does not tell about
_NEWS_MAX = 100  # keys of a directory that are remembered as new
_WALK = 3  # after so many directories in order, a reader is taken to walk the tree
_FAR = 16  # where a server is asked: the most of them, and of entries to search
_WIDER = 4  # each time so many times as many directories are sampled ahead

_Where = tuple[str, str]  # bucket and directory


class _Way(NamedTuple):
    """A way through the tree below *top*: of *run* directories in order, *last* was the last. *top*
    has them all below it; it may have no object, and then nobody looks at it."""

    top: str
    last: str
    run: int


class FirstLook:
    """Knows of which names the attributes can be shown, and asks about the others."""

    def __init__(self, mimicdb: Mirror, s3: S3, buckets: Buckets) -> None:
        self._mimicdb = mimicdb
        self._s3 = s3
        self._buckets = buckets
        self._lock = threading.Lock()  # protects writing to all below
        self._verdicts: dict[_Where, Verdict | None] = {}  # None: nothing is noted
        # Directories that are plain, though new objects in them may not be: these keys, and those
        # that came while nobody looked. True: S3 has shown that something is stored with the key.
        self._doubtful: dict[_Where, dict[str, bool]] = {}
        self._unsampled: dict[_Where, float] = {}  # when S3 could not be asked (time.monotonic)
        self._plain: dict[str, int] = {}  # by bucket: directories found plain; -1: one is rich
        self._ahead: dict[_Where, int] = {}  # how many were asked about at once the last time
        self._ways: dict[str, _Way] = {}  # by bucket: the latest
        self._asking: dict[_Where, Future[None]] = {}
        # The objects about which S3 tells us nothing: bucket, key, ETag.
        self._refused: set[tuple[str, str, str]] = set()
        self._warned: set[str] = set()  # buckets

    # Quick

    def needs(self, bucket: str, directory: str) -> bool:
        """Whether anything in *directory* may have to be asked before it is shown."""
        wish = self._buckets.of(bucket).metadata
        if wish != "auto" or not bucket:
            return wish == "always" and bool(bucket)
        where = (bucket, directory)
        tried_s = self._unsampled.get(where) if self._unsampled else None
        if tried_s is not None:
            return time.monotonic() - tried_s > _AGAIN_S
        verdict = self._verdict(where)
        return verdict is None or verdict.rich or where in self._doubtful

    def knows(self, bucket: str, key: str, entry: Entry | None) -> bool:
        """Whether what is stored with *key* is known; *entry* is what the mirror has of it."""
        if entry is not None and (entry.meta is not None or entry.kind == KEPT):
            return True
        if self._refused and self._is_refused(bucket, key, entry):
            return True
        is_object = entry is not None and entry.kind == OBJECT
        # A listing of the directory would have shown a marker.
        return not is_object and (not key or self._mimicdb.covered(bucket, key))

    def _is_refused(self, bucket: str, key: str, entry: Entry | None) -> bool:
        return (bucket, key, entry.etag if entry is not None else "") in self._refused

    def check(self, bucket: str, directory: str, key: str, entry: Entry | None) -> None:
        """Raise Unlearned if *key*, in *directory*, must be asked before it is shown."""
        if entry is not None and entry.meta is not None:
            return
        if self.needs(bucket, directory) and not self.knows(bucket, key, entry):
            raise Unlearned(bucket, directory, key)

    def changed(self, bucket: str, difference: Difference | None) -> None:
        """Take note of *difference*, which the mirror has learned of and announces."""
        if difference is None:
            with self._lock:
                self._verdicts.clear()
                for where in self._asking:
                    self._doubtful.setdefault(where, {})
            return
        if not (self._verdicts or self._asking):
            return
        for key in (*difference.added, *difference.changed):
            where = (bucket, _directory_of(key))
            verdict = believed = self._verdicts.get(where)
            if verdict is None and where in self._asking:
                verdict = Verdict(False)  # as may be found now, from what was there before
            if verdict is None or verdict.rich:
                continue
            # A listing may bring a million keys, of which no more are read than are remembered.
            if difference.asked or len(self._doubtful.get(where, ())) < _NEWS_MAX:
                with suppress(MimicError):  # a store that does not answer now
                    shows = self._doubt(where, key, verdict, difference.asked)
                    if shows and believed is not None:
                        self._distrust(where)

    def _doubt(self, where: _Where, key: str, verdict: Verdict, asked: bool) -> bool:
        """Note that *where*, which is plain, may be rich because of *key*; unless somebody wrote it
        and told the store what is stored with it. *asked*: S3 has said it. Return whether *key* is
        the first that shows it."""
        bucket, _ = where
        shows = False
        with suppress(MimicError):  # a store that does not answer now
            entry = self._mimicdb.entry(bucket, key)
            if entry is not None and (entry.meta is not None or entry.kind == KEPT):
                # What is older than the sample was there then: it was not written since.
                old = entry.mtime_ns // NS < verdict.newest_ns // NS
                shows = (asked or old) and any_rich([entry])
                if not shows:
                    return False
        with self._lock:
            news = self._doubtful.setdefault(where, {})
            first = shows and not any(news.values())
            if shows or len(news) < _NEWS_MAX:  # several threads may be here
                news[key] = shows
        return first

    def _verdict(self, where: _Where) -> Verdict | None:
        bucket, _ = where
        try:
            known = self._verdicts[where]
        except KeyError:
            found = Verdict.of(self._mimicdb.note_of(*where))
        else:
            if known is not None or self._found_plain(bucket) < _MANY:
                return known
            found = None  # there are enough plain ones since
        if found is not None and not found.rich:
            with self._lock:
                self._doubtful.setdefault(where, {})  # it may have been listed since
        if found is None and self._is_like_the_others(where):
            found = Verdict(False)
        self._remember(where, found)
        return found

    def _is_like_the_others(self, where: _Where) -> bool:
        bucket, directory = where
        if self._found_plain(bucket) < _MANY:
            return False
        marker = self._mimicdb.entry(bucket, directory) if directory else None
        return marker is None or marker.kind != OBJECT

    def _found_plain(self, bucket: str) -> int:
        count = self._plain.get(bucket)
        if count is None:
            count = self._set_plain(bucket, found_plain(self._mimicdb.note(bucket, _ALL)))
        return count

    def _set_plain(self, bucket: str, count: int) -> int:
        """Remember *count*, unless it is known that one is rich; return what is remembered."""
        with self._lock:
            if self._plain.get(bucket, 0) >= 0:
                self._plain[bucket] = count
            return self._plain[bucket]

    def _remember(self, where: _Where, verdict: Verdict | None) -> None:
        with self._lock:
            if len(self._verdicts) >= _REMEMBERED:
                self._verdicts.clear()
                self._ahead.clear()
            self._verdicts[where] = verdict

    # Asking

    def learn(self, missing: Unlearned, cancellation: Cancellation) -> None:
        """Ask about what is *missing*. Raises S3Error, Interrupted."""
        where = (missing.bucket, missing.directory)
        mine: Future[None] = Future()
        with self._lock:
            theirs = self._asking.setdefault(where, mine)
        if theirs is not mine:
            try:
                cancellation.wait(theirs)
            except Interrupted:
                cancellation.check()
            return
        error: BaseException | None = None
        try:
            self._learn(where, missing.key, cancellation)
        except BaseException as exc:
            error = exc
            raise
        finally:
            with self._lock:
                del self._asking[where]
            if error is None:
                mine.set_result(None)
            else:
                mine.set_exception(error)

    def _learn(self, where: _Where, key: str, cancellation: Cancellation) -> None:
        bucket, _ = where
        samples = self._buckets.of(bucket).metadata == "auto"
        if samples and not self._is_rich(where, key, cancellation):
            return
        if not self.knows(bucket, key, self._mimicdb.entry(bucket, key)):
            self._ask(where, self._window(where, key), cancellation)

    def _is_rich(self, where: _Where, key: str, cancellation: Cancellation) -> bool:
        """Return whether *where* is rich, by a sample if that is not known, or is doubtful."""
        verdict = self._verdict(where)
        with self._lock:
            unsampled = self._unsampled.pop(where, None)
        certain = verdict is not None and unsampled is None
        if verdict is not None and (verdict.rich or (certain and where not in self._doubtful)):
            return verdict.rich
        asked = self._sample_of(where, key, verdict)
        with self._coming(where if verdict is None and asked.keys else None) as ahead:
            keys = [each for sample in (asked, *ahead) for each in sample.keys]
            if keys and not self._sampled(where, keys, cancellation):
                return False
            for sample in ahead:
                self._conclude(sample)
        rich = self._conclude(asked)
        if rich and (unsampled or verdict is not None):
            self._distrust(where)
        return rich

    def _distrust(self, where: _Where) -> None:
        """Have those names of *where* looked at again about which nothing is known: they were shown
        as if nothing were stored with them."""
        bucket, directory = where
        try:
            for page in pages(lambda after: self._mimicdb.children(bucket, directory, after)):
                if shown := [entry.key for entry in page if entry.meta is None]:
                    self._mimicdb.announce(bucket, Difference([], shown, [], 0))
        except MimicError:  # nobody can say which names were shown
            self._mimicdb.announce(bucket, None)

    def _sample_of(self, where: _Where, key: str, verdict: Verdict | None) -> DirectorySample:
        """Return what to ask about to learn what *where* is; *verdict* was known of it. Somebody
        looks at *key*; "": somebody will look at its first name."""
        bucket, directory = where
        with self._lock:  # a change from here on is for the next sample
            news = self._doubtful.pop(where, {})
        entries = self._scanned(where)
        if any(news.values()) or (verdict is None and any_rich(entries)):
            return DirectorySample(where, verdict, entries, [], True)
        newest_ns = verdict.newest_ns if verdict is not None else -1
        newer = {each.key: each for each in (verdict.news(entries) if verdict else entries)}
        late = (self._mimicdb.entry(bucket, each) for each in news if each not in newer)
        unknown = self._unknown(where, [*newer.values(), *(each for each in late if each)])
        if not key:
            key = next((entry.key for entry in unknown if entry.key != directory), "")
        wanted = verdict is None or any(entry.key == key for entry in unknown)
        keys = sample(key if wanted else "", directory, unknown)
        newest_ns = max([newest_ns, *(entry.mtime_ns for entry in unknown)])
        return DirectorySample(where, verdict, entries, keys, False, newest_ns)

    def _unknown(self, where: _Where, entries: list[Entry]) -> list[Entry]:
        """Return the *entries* of which nobody knows what is stored with them. A store that must be
        asked is asked once, not for each directory."""
        bucket, directory = where
        listed: set[str] | None = None
        if self._mimicdb.asks:
            places = [each.key for each in entries if each.kind == LISTED and each.meta is None]
            listed = set(self._mimicdb.listed(bucket, [it for it in places if it != directory]))

        def is_known(entry: Entry) -> bool:
            is_listed = entry.kind == LISTED and entry.meta is None and entry.key != directory
            if listed is None or not is_listed:
                return self.knows(bucket, entry.key, entry)
            return entry.key in listed or self._is_refused(bucket, entry.key, entry)

        return [each for each in entries if not is_known(each)]

    def _conclude(self, sample: DirectorySample) -> bool:
        """Return whether the directory of *sample* is rich, and remember it."""
        (bucket, _), entries = sample.where, sample.entries
        asked = (self._mimicdb.entry(bucket, key) for key in sample.keys)
        rich = sample.rich or any_rich(entry for entry in asked if entry is not None)
        found = sample.verdict(rich=rich)
        if rich or not self._refused or self._is_said(bucket, entries, sample.keys):
            self._decide(sample.where, found, sample.before)
        else:  # what S3 does not say may be anything: note nothing
            self._remember(sample.where, found)
        return rich

    @contextmanager
    def _coming(self, where: _Where | None) -> Iterator[list[DirectorySample]]:
        """Within, sample the directories that a walk comes to behind *where*, for the threads that
        will look at them."""
        mine: dict[_Where, Future[None]] = {}
        with self._lock:
            way = self._way_of(*where) if where is not None else None
        if where is not None and way is not None and way.run >= _WALK:
            bucket, _ = where
            places = [(bucket, each) for each in self._behind(bucket, way)]
            with self._lock:
                mine = {each: Future() for each in places if each not in self._asking}
                self._asking |= mine
        try:
            samples = (self._sample_of(each, "", None) for each in mine if not self._verdict(each))
            # A directory of directories, about which nothing is asked, tells nothing.
            yield [each for each in samples if each.keys or each.rich]
        finally:
            with self._lock:
                for each in mine:
                    del self._asking[each]
            for done in mine.values():
                done.set_result(None)  # a thread that has waited looks again

    def _way_of(self, bucket: str, directory: str) -> _Way:
        """Return the way of the reader that looks at *directory* now."""
        way = self._ways.get(bucket)
        if way is None or directory <= way.last:
            way = _Way(directory, directory, 1)
        else:
            top = _directory_of(ranges.common(way.top, directory) + "-")
            way = _Way(top, directory, way.run + 1)
        self._ways[bucket] = way
        return way

    def _behind(self, bucket: str, way: _Way) -> list[str]:
        """Return the listed directories that *way* comes to next, as far as one page shows them,
        but no more than are needed until the others count as plain."""
        plain = self._found_plain(bucket)
        most = min(_WIDER ** (way.run - _WALK + 1), _MANY - plain - 1)
        if plain < 0 or most <= 0:
            return []
        limit = PAGE
        if self._mimicdb.asks:  # on the way, each directory is a question
            most, limit = min(most, _FAR), _FAR
        page = self._mimicdb.scan_at_hand(bucket, way.top, way.last, limit)
        found = {entry.key[: entry.key.rfind("/") + 1] for entry in page}
        behind = sorted(each for each in found if each > way.last)
        return self._mimicdb.listed_at_hand(bucket, behind)[:most]

    def _sampled(self, where: _Where, sample: list[str], cancellation: Cancellation) -> bool:
        """Ask about *sample*. Return False if S3 cannot be asked now: then, for a while, names of
        the directory about which nothing is known are shown with the mode and owner of the
        mount."""
        try:
            self._ask(where, sample, cancellation)
        except NOTHING_SAID as exc:
            log.warning("s3://%s/%s is shown without modes and owners: %s", *where, exc)
            with self._lock:
                self._unsampled[where] = time.monotonic()
            return False
        return True

    def _is_said(self, bucket: str, entries: list[Entry], sample: list[str]) -> bool:
        """Whether S3 has answered everything that it was asked about these."""
        known = {entry.key: entry for entry in entries}
        found = [(key, known.get(key) or self._mimicdb.entry(bucket, key)) for key in sample]
        return not any(self._is_refused(bucket, *each) for each in [*known.items(), *found])

    def _decide(self, where: _Where, verdict: Verdict, before: Verdict | None) -> None:
        self._remember(where, verdict)
        if verdict == before:
            return
        if not self._mimicdb.asks:
            self._note(where, verdict, before)
            return
        with suppress(RuntimeError):  # the mount ends
            self._s3.pool.submit(self._note, where, verdict, before).add_done_callback(_tell)

    def _note(self, where: _Where, verdict: Verdict, before: Verdict | None) -> None:
        """Note *verdict* in the store, for this mount and others. If another mount has found that
        something is stored with its objects, it is so."""
        bucket, _ = where
        theirs = None if verdict.rich else Verdict.of(self._mimicdb.note_of_still(*where))
        if theirs is not None and theirs.rich:
            self._remember(where, theirs)
            self._distrust(where)
            return
        self._mimicdb.set_note_of(*where, verdict.text)
        if verdict.rich or before is None:
            self._count(bucket, verdict.rich)

    def _count(self, bucket: str, rich: bool) -> None:
        """Note that one more directory of *bucket* was found plain, or that one is *rich*, which
        stays: other threads and mounts note it, too."""
        count, done = self._found_plain(bucket), False
        note = str(count) if count > 0 else None
        while not done and count >= 0 and (rich or count < _MANY):
            after = Verdict(True).text if rich else str(count + 1)
            done, note = self._mimicdb.swap_note(bucket, _ALL, note, after)
            count = found_plain(note)
        self._set_plain(bucket, count)

    def _ask(self, where: _Where, keys: list[str], cancellation: Cancellation) -> None:
        bucket, _ = where
        since = self._mimicdb.seq_lately(bucket)
        refused = heads.learn(self._mimicdb, self._s3, bucket, keys, cancellation, since)
        if refused:
            self._refuse(bucket, refused)

    def _refuse(self, bucket: str, refused: dict[str, S3Error]) -> None:
        """Note that S3 does not say what is stored with these: they are shown as if nothing
        were."""
        entries = [(key, self._mimicdb.entry(bucket, key)) for key in refused]
        versions = {(bucket, key, each.etag if each is not None else "") for key, each in entries}
        with self._lock:
            first = bucket not in self._warned
            self._warned.add(bucket)
            if len(self._refused) >= _REMEMBERED:
                self._refused.clear()
            self._refused |= versions
        if first:
            error = next(iter(refused.values()))
            log.warning(
                "mode, owner and times are not known; the defaults of the mount are shown: %s",
                error,
            )

    # What to ask

    def _scanned(self, where: _Where) -> list[Entry]:
        """Return the entries of a directory, its own first, as far as they are searched."""
        bucket, directory = where
        found: list[Entry] = []
        try:
            while len(found) < _SCANNED:
                after = found[-1].key if found else ""
                page = self._mimicdb.children(bucket, directory, after, PAGE)
                found += page
                if len(page) < PAGE:
                    break
        except Unlisted:  # the mirror knows only some names
            log.debug("s3://%s/%s is not listed", bucket, directory)
        own = self._mimicdb.entry(bucket, directory) if directory else None
        return [own, *found] if own is not None else found

    def _window(self, where: _Where, key: str) -> list[str]:
        """Return *key* and the unknown names behind it that are asked about together with it."""
        bucket, directory = where
        with self._lock:
            count = min(_AHEAD, self._ahead.get(where, 0) * _FASTER or 1)
            self._ahead[where] = count
        found = dict.fromkeys([key])
        try:
            for after in (key, ""):  # behind the key, and from the beginning
                room = count - len(found)
                page = self._mimicdb.children(bucket, directory, after, 4 * room) if room else []
                unknown = [each.key for each in page if not self.knows(bucket, each.key, each)]
                found |= dict.fromkeys(unknown[:room])
        except Unlisted:
            log.debug("s3://%s/%s is not listed", bucket, directory)
        return list(found)


def _tell(noted: Future[None]) -> None:
    if (exc := noted.exception()) is not None:
        log.debug("what a directory is like was not noted: %s", exc)


def _directory_of(key: str) -> str:
    return key[: key.rstrip("/").rfind("/") + 1]
