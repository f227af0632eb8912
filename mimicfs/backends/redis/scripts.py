"""The scripts, in Lua, that read or change a directory: one script is one step, all or nothing.
Several scripts go out in one round trip, and commands with them (`together`); a cluster is asked
one after the other.

`transactions.py` does the same where scripts are denied; the tests of the promises run over both.

While a cluster moves the keys of a bucket to another node, some are here and some are there. A node
lets a script run all the same if none of the keys that the script was given is at the other node.
So each script is given two: the tag, which is no key, and TAG:meta. Whichever node is asked, one of
these is missing there, and the node answers TRYAGAIN until all keys have moved.

Threading: like the client of redis-py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.cluster import RedisCluster
from redis.exceptions import ClusterDownError, ClusterError, NoScriptError, ResponseError

from mimicfs.backends import NoteSwap
from mimicfs.backends.loglines import WIDE_CHANGE
from mimicfs.backends.pending import fresh
from mimicfs.backends.redis.layout import FULL, LOG_MAX, ChangeBatch, RedisCommand
from mimicfs.errors import LogTrimmed

_MOVES_S = 5.0  # how long a script waits for keys that move

_Call = tuple[Any, tuple[Any, ...]]  # a script, and its arguments

# The part that the scripts share. KEYS[1] is the tag of the bucket. No script compares names by
# Lua's `<`, which goes by the collation of the server's locale.
_LIBRARY = """
local tag = KEYS[1]
local function split(key)  -- a directory into its parent and its name there
  local first = string.find(string.sub(key, 1, -2), '/[^/]*$')
  if first then return string.sub(key, 1, first), string.sub(key, first + 1) end
  return '', key
end
local function place(dir, name)  -- the chunk that has a name or would have it; its first name
  local index = tag .. ':i:' .. dir
  local start = redis.call('ZREVRANGEBYLEX', index, '[' .. name, '-', 'LIMIT', 0, 1)[1]
  if start then return tag .. ':c:' .. dir .. start, start end
  return tag .. ':d:' .. dir
end
local function exists(dir)
  return redis.call('EXISTS', tag .. ':d:' .. dir, tag .. ':i:' .. dir) > 0
end
local function divide(dir, chunk, newest)  -- names that come in order fill their chunks
  local sorted = tag .. ':sorted'
  for _, name in ipairs(redis.call('HKEYS', chunk)) do redis.call('ZADD', sorted, 0, name) end
  local names = redis.call('ZRANGE', sorted, 0, -1)
  redis.call('DEL', sorted)
  local first = math.floor(#names / 2) + 1
  if names[#names] == newest then first = #names end
  for n = first, #names do
    redis.call('HSET', tag .. ':c:' .. dir .. names[first], names[n],
               redis.call('HGET', chunk, names[n]))
    redis.call('HDEL', chunk, names[n])
  end
  redis.call('ZADD', tag .. ':i:' .. dir, 0, names[first])
end
local function add(dir, name, record)
  local chunk = place(dir, name)
  redis.call('HSET', chunk, name, record)
  if redis.call('HLEN', chunk) > FULL then divide(dir, chunk, name) end
end
local function remove(dir, name)
  local chunk, start = place(dir, name)
  redis.call('HDEL', chunk, name)
  if start and redis.call('EXISTS', chunk) == 0 then
    redis.call('ZREM', tag .. ':i:' .. dir, start)
  end
end
local rows = tag .. ':k'
local function ended(key, token, generation, unsure)  -- pending.py says what it is
  local text = redis.call('HGET', rows, key)
  local row = text and cjson.decode(text)
  local tokens = row and row[3] or {}
  local known = tokens[token]
  tokens[token] = nil
  if known and not row[2] and not unsure then
    redis.call('HDEL', rows, key)
    return true
  end
  redis.call('HSET', rows, key, cjson.encode({generation, true, tokens}))
  return false
end
local function append(origin, lines)
  local seq = redis.call('HINCRBY', tag .. ':meta', 'seq', #lines) - #lines
  for _, line in ipairs(lines) do
    seq = seq + 1
    redis.call('XADD', tag .. ':log', 'MAXLEN', '~', LOG_MAX, string.format('%d-0', seq),
               'f', line[1], 'l', line[2], 'o', origin)
  end
end
""".replace("LOG_MAX", str(LOG_MAX)).replace("FULL", str(FULL))

# ARGV: origin, since or '', wide, number of puts, the first and the last key of all, the token
# and the generation of the IntentStep, a new generation, then
# DIR NAME RECORD for each put and DIR NAME for each deletion. Returns whether the bucket is known,
# and the keys left alone; or an error LOGTRIMMED.
_APPLY = """
local function behind(a, b)
  for n = 1, math.min(#a, #b) do
    local x, y = string.byte(a, n), string.byte(b, n)
    if x ~= y then return x > y end
  end
  return #a > #b
end
local origin, since, wide, puts = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local single, ranges, left, changed = {}, {}, {}, {}
local count, size = 0, 0
if since ~= '' then
  local last = tonumber(redis.call('HGET', tag .. ':meta', 'seq') or '0')
  if tonumber(since) ~= last then
    local lines = redis.call('XRANGE', tag .. ':log', string.format('(%s-0', since), '+')
    if tonumber(since) > last or #lines ~= last - tonumber(since) then
      return redis.error_reply('LOGTRIMMED')
    end
    for _, line in ipairs(lines) do
      local f, l = line[2][2], line[2][4]
      if f == l then single[f] = true
      elseif not behind(f, ARGV[6]) and not behind(ARGV[5], l) then ranges[#ranges + 1] = {f, l} end
    end
  end
end
local function guarded(key)
  if single[key] then return true end
  for _, range in ipairs(ranges) do
    if not behind(range[1], key) and not behind(key, range[2]) then return true end
  end
  return false
end
local token, expected, generation = ARGV[7], ARGV[8], ARGV[9]
local open = token ~= '' or redis.call('EXISTS', rows) == 1
local function admitted(key)
  local late = guarded(key)
  if token ~= '' then return ended(key, token, generation, late) end
  local text = open and redis.call('HGET', rows, key)
  local row = text and cjson.decode(text)
  if expected ~= '' then
    if not row or row[1] ~= expected then return false end
    if next(row[3]) == nil then redis.call('HDEL', rows, key) return true end
    redis.call('HSET', rows, key, cjson.encode({generation, row[2], row[3]}))
    return true
  end
  if row and not late then
    redis.call('HSET', rows, key, cjson.encode({generation, true, row[3]}))
  end
  return not late
end
local function counted(record, sign)
  if record and record ~= '' then
    local kind, bytes = struct.unpack('<bi8', record)
    if kind % 16 == 0 then count = count + sign; size = size + sign * bytes end
  end
end
local function prune(dir)  -- directories that are implied by nothing any more
  while dir ~= '' and not exists(dir) do
    local parent, name = split(dir)
    if redis.call('HGET', place(parent, name), name) ~= '' then return end
    remove(parent, name)
    dir = parent
  end
end
local at = 10
for n = 1, puts do
  local dir, name, record = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  at = at + 3
  local key = dir .. name
  if not admitted(key) then left[#left + 1] = key else
    counted(redis.call('HGET', place(dir, name), name), -1)
    counted(record, 1)
    add(dir, name, record)
    while dir ~= '' do
      local parent, sub = split(dir)
      if redis.call('HEXISTS', place(parent, sub), sub) == 1 then break end
      add(parent, sub, '')
      dir = parent
    end
    changed[#changed + 1] = key
  end
end
while at < #ARGV do
  local dir, name = ARGV[at], ARGV[at + 1]
  at = at + 2
  local key = dir .. name
  if not admitted(key) then left[#left + 1] = key else
    local old = redis.call('HGET', place(dir, name), name)
    counted(old, -1)
    if old then
      if string.sub(name, -1) == '/' and exists(key) then
        add(dir, name, '')
      else
        remove(dir, name)
        prune(dir)
      end
    end
    changed[#changed + 1] = key
  end
end
if #changed > 0 then
  redis.call('HINCRBY', tag .. ':meta', 'objects', count)
  redis.call('HINCRBY', tag .. ':meta', 'bytes', size)
  local lines = {}
  if #changed > wide then
    lines[1] = {ARGV[5], ARGV[6]}
  else
    for n, key in ipairs(changed) do lines[n] = {key, key} end
  end
  append(origin, lines)
end
return {redis.call('HEXISTS', tag .. ':meta', 'known'), left}
"""

# ARGV: token, how long it lasts, a new generation, KEY ... Returns whether the bucket is known.
_BEGIN = """
if redis.replicate_commands then redis.replicate_commands() end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for n = 4, #ARGV do
  local text = redis.call('HGET', rows, ARGV[n])
  local row = text and cjson.decode(text)
  local tokens = row and row[3] or {}
  tokens[ARGV[1]] = {now, now + tonumber(ARGV[2])}
  redis.call('HSET', rows, ARGV[n], cjson.encode({ARGV[3], row and true or false, tokens}))
end
return redis.call('HEXISTS', tag .. ':meta', 'known')
"""

# ARGV: token, '1' if unsure, a new generation, KEY ... Returns the keys that are contended.
_END = """
local contended = {}
for n = 4, #ARGV do
  if not ended(ARGV[n], ARGV[1], ARGV[3], ARGV[2] == '1') then
    contended[#contended + 1] = ARGV[n]
  end
end
return contended
"""

# ARGV: DIR, NAME ... Returns their records.
_RECORDS = """
local found = {}
for n = 2, #ARGV do found[n - 1] = redis.call('HGET', place(ARGV[1], ARGV[n]), ARGV[n]) end
return found
"""

# ARGV: DIR, LOW, HIGH, limit. Returns names and records in turn, in no order: those of the
# chunks that have the first *limit* names from LOW to HIGH, or all if there are fewer.
_PAGE = """
local dir, low, high, missing = ARGV[1], ARGV[2], '(' .. ARGV[3], tonumber(ARGV[4])
local chunk, start = place(dir, low)
local found = redis.call('HGETALL', chunk)
if low == '' then missing = missing - #found / 2 end
while missing > 0 do
  local from = start and '(' .. start or '-'
  start = redis.call('ZRANGEBYLEX', tag .. ':i:' .. dir, from, high, 'LIMIT', 0, 1)[1]
  if not start then break end
  local more = redis.call('HGETALL', tag .. ':c:' .. dir .. start)
  for _, each in ipairs(more) do found[#found + 1] = each end
  missing = missing - #more / 2
end
return found
"""

# KEYS[1] is the tag of the list of buckets. ARGV: origin, name.
_ENLIST = """
if redis.call('HEXISTS', place('', ARGV[2]), ARGV[2]) == 1 then return end
add('', ARGV[2], '')
append(ARGV[1], {{ARGV[2], ARGV[2]}})
"""

# ARGV: name, '1' and what the note must be or '0' and '' if there must be none, the same of what
# it is to be, origin of the line in the log or ''. Returns whether it was, and what the note is.
_SWAP = """
local notes, name = tag .. ':notes', ARGV[1]
local now = redis.call('HGET', notes, name)
if now ~= (ARGV[2] == '1' and ARGV[3]) then return {0, now} end
if ARGV[4] == '1' then redis.call('HSET', notes, name, ARGV[5])
else redis.call('HDEL', notes, name) end
if ARGV[6] ~= '' then append(ARGV[6], {{name, name}}) end
return {1, ARGV[4] == '1' and ARGV[5]}
"""

# Every command that changes something. A user that may not run one of them must not get to the
# middle of a script, which would stay half done.
_TRY = """
local key = KEYS[1] .. ':try'
redis.call('HSET', key, 'a', 1)
redis.call('HINCRBY', key, 'a', 1)
redis.call('HDEL', key, 'a')
redis.call('ZADD', key, 0, 'a')
redis.call('ZREM', key, 'a')
redis.call('XADD', key, 'MAXLEN', '~', 1, '1-0', 'a', 1)
redis.call('DEL', key)
"""


class Scripts:
    """The steps, each a script."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._try = client.register_script(_TRY)
        self._records = client.register_script(_LIBRARY + _RECORDS)
        self._page = client.register_script(_LIBRARY + _PAGE)
        self._apply = client.register_script(_LIBRARY + _APPLY)
        self._begin = client.register_script(_LIBRARY + _BEGIN)
        self._end = client.register_script(_LIBRARY + _END)
        self._enlist = client.register_script(_LIBRARY + _ENLIST)
        self._swap = client.register_script(_LIBRARY + _SWAP)

    def try_all(self, tag: str) -> None:
        """Raise redis-py's error if scripts are denied, or a command that they use."""
        self._run(self._try, tag)

    def records(self, tag: str, directory: str, names: list[str]) -> list[bytes | None]:
        """Return the record of each of *names* in *directory*; None: there is none."""
        found: list[bytes | None] = self._run(self._records, tag, directory, *names)
        return found

    def page(
        self, tag: str, directory: str, low: bytes, high: bytes, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """Return names and records, in no order: among them the first *limit* names of
        *directory* from *low* up to *high*, or all of these."""
        found = self._run(self._page, tag, directory, low, high, limit)
        return list(zip(found[::2], found[1::2], strict=True))

    def records_of(
        self, tag: str, wanted: Sequence[tuple[str, list[str]]]
    ) -> list[list[bytes | None]]:
        """Do as `records`, for names of several directories, in one round trip."""
        asked = [(self._records, (directory, *names)) for directory, names in wanted]
        found: list[list[bytes | None]] = self.together(tag, asked)
        return found

    def pages(
        self,
        tag: str,
        directories: Sequence[str],
        high: bytes,
        limit: int,
        before: Sequence[RedisCommand],
        after: RedisCommand,
    ) -> tuple[list[Any], list[list[tuple[bytes, bytes]]], Any]:
        """Return pages as `page` does, of several directories from their beginning; and the answers
        to commands: those *before* that, and the one *after* it."""
        asked = [(self._page, (each, b"", high, limit)) for each in directories]
        *answers, last = self.together(tag, [*before, *asked, after])
        first, found = answers[: len(before)], answers[len(before) :]
        return first, [list(zip(each[::2], each[1::2], strict=True)) for each in found], last

    def apply(self, tag: str, batch: ChangeBatch) -> tuple[bool, set[str]]:
        """Make the changes of *batch*. Return whether the bucket is known, and the keys that were
        left alone. Raises LogTrimmed."""
        return self._applied(batch, lambda: self._run(self._apply, tag, *_args_of(batch)))

    def apply_told(
        self, tag: str, batch: ChangeBatch, lines: RedisCommand
    ) -> tuple[bool, set[str], Any]:
        """Do as `apply`; return also the answer to the command *lines*, after that."""
        told: list[Any] = []

        def ask() -> Any:
            answer, found = self.together(tag, [(self._apply, _args_of(batch)), lines])
            told.append(found)
            return answer

        return *self._applied(batch, ask), told[-1]

    @staticmethod
    def _applied(batch: ChangeBatch, ask: Callable[[], Any]) -> tuple[bool, set[str]]:
        try:
            known, left = ask()
        except ResponseError as exc:
            if "LOGTRIMMED" in str(exc):
                raise LogTrimmed.after(batch.since) from exc
            raise
        return bool(known), {key.decode() for key in left}

    def begin(self, tag: str, keys: Sequence[str], token: str, lasts_ms: int) -> bool:
        """Do as Backend.begin. Return whether the bucket is known."""
        return bool(self._run(self._begin, tag, token, lasts_ms, fresh(), *keys))

    def end(self, tag: str, keys: Sequence[str], token: str, *, unsure: bool) -> set[str]:
        """Do as Backend.end."""
        found = self._run(self._end, tag, token, int(unsure), fresh(), *keys)
        return {key.decode() for key in found}

    def enlist(self, tag: str, origin: int, name: str) -> None:
        """Put *name* into the list of buckets; log it if that is news."""
        self._run(self._enlist, tag, origin, name)

    def swap_note(
        self,
        tag: str,
        name: str,
        before: str | None,
        after: str | None,
        origin: int | None,
        *beside: RedisCommand,
    ) -> tuple[bool, str | None, list[Any]]:
        """Do as Backend.swap_note. *origin* is that of the line in the log; None: there must be no
        line. Return also the answers to the commands *beside*, which run after that."""
        answer, *answers = self.together(
            tag, [self._swap_of((name, before, after), origin), *beside]
        )
        return *_swapped(answer), answers

    def swap_notes(
        self, tag: str, swaps: Sequence[NoteSwap], origins: Sequence[int | None]
    ) -> list[tuple[bool, str | None]]:
        """Do as `swap_note` for each, in one round trip."""
        asked = list(map(self._swap_of, swaps, origins))
        return [_swapped(answer) for answer in self.together(tag, asked)]

    def _swap_of(self, swap: NoteSwap, origin: int | None) -> _Call:
        name, *texts = swap
        said = [part for text in texts for part in (int(text is not None), text or "")]
        return self._swap, (name, *said, "" if origin is None else origin)

    def together(self, tag: str, asked: Sequence[RedisCommand | _Call]) -> list[Any]:
        """Return the answers to the commands and scripts *asked*, in their order."""
        if isinstance(self._client, RedisCluster) or len(asked) == 1:
            return [
                self._client.execute_command(*each)
                if isinstance(each[0], str)
                else self._run(each[0], tag, *each[1])
                for each in asked
            ]
        try:
            return self._piped(tag, asked)
        except NoScriptError:  # a server that began anew
            for script in {each[0] for each in asked if not isinstance(each[0], str)}:
                self._client.script_load(script.script)
            return self._piped(tag, asked)

    def _piped(self, tag: str, asked: Sequence[RedisCommand | _Call]) -> list[Any]:
        # A script that is given to a pipeline of redis-py costs a SCRIPT EXISTS each time.
        with self._client.pipeline(transaction=False) as pipe:
            for each in asked:
                if isinstance(each[0], str):
                    pipe.execute_command(*each)
                else:
                    keys = _keys(tag)
                    pipe.evalsha(each[0].sha, len(keys), *keys, *each[1])
            found: list[Any] = pipe.execute()
        return found

    def _run(self, script: Any, tag: str, *args: Any) -> Any:
        """Return the answer of *script*. Waits for keys that move."""
        deadline = time.monotonic() + _MOVES_S
        while True:
            try:
                return script(keys=_keys(tag), args=args)
            except ClusterError as exc:  # redis-py has heard TRYAGAIN for half a second
                if isinstance(exc, ClusterDownError) or time.monotonic() > deadline:
                    raise


def _args_of(batch: ChangeBatch) -> tuple[Any, ...]:
    since = "" if batch.since is None else batch.since
    args: list[Any] = [batch.origin, since, WIDE_CHANGE, len(batch.puts)]
    args += [batch.first, batch.last, *batch.step, fresh()]
    for change in (*batch.puts, *batch.deletes):
        args += change
    return tuple(args)


def _swapped(answer: tuple[int, bytes | None]) -> tuple[bool, str | None]:
    done, now = answer
    return bool(done), now.decode() if now is not None else None


def _keys(tag: str) -> list[str]:
    return [tag, f"{tag}:meta"]
