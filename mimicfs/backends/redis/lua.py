"""The scripts that Redis runs, in Lua. `scripts.py` runs them."""

from __future__ import annotations

from mimicfs.backends.pending import DELETION
from mimicfs.backends.redis.layout import FULL, LOG_MAX

# The part that the scripts share. KEYS[1] is the tag of the bucket. No script compares names by
# Lua's `<`, which goes by the collation of the server's locale.
LIBRARY = """
local tag = KEYS[1]
local life = redis.call('HGET', tag .. ':meta', 'life')
local rows_at = life and (tag .. ':' .. life) or tag
local function split(key)  -- a directory into its parent and its name there
  local first = string.find(string.sub(key, 1, -2), '/[^/]*$')
  if first then return string.sub(key, 1, first), string.sub(key, first + 1) end
  return '', key
end
local function place(dir, name)  -- the chunk that has a name or would have it; its first name
  local index = rows_at .. ':i:' .. dir
  local start = redis.call('ZREVRANGEBYLEX', index, '[' .. name, '-', 'LIMIT', 0, 1)[1]
  if start then return rows_at .. ':c:' .. dir .. start, start end
  return rows_at .. ':d:' .. dir
end
local function exists(dir)
  return redis.call('EXISTS', rows_at .. ':d:' .. dir, rows_at .. ':i:' .. dir) > 0
end
local function divide(dir, chunk, newest)  -- names that come in order fill their chunks
  local sorted = tag .. ':sorted'
  for _, name in ipairs(redis.call('HKEYS', chunk)) do redis.call('ZADD', sorted, 0, name) end
  local names = redis.call('ZRANGE', sorted, 0, -1)
  redis.call('DEL', sorted)
  local first = math.floor(#names / 2) + 1
  if names[#names] == newest then first = #names end
  for n = first, #names do
    redis.call('HSET', rows_at .. ':c:' .. dir .. names[first], names[n],
               redis.call('HGET', chunk, names[n]))
    redis.call('HDEL', chunk, names[n])
  end
  redis.call('ZADD', rows_at .. ':i:' .. dir, 0, names[first])
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
    redis.call('ZREM', rows_at .. ':i:' .. dir, start)
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
# the keys left alone, the number of the log before that, the directories that names have made, and
# the names that are gone; or an error LOGTRIMMED.
APPLY = """
local function behind(a, b)
  for n = 1, math.min(#a, #b) do
    local x, y = string.byte(a, n), string.byte(b, n)
    if x ~= y then return x > y end
  end
  return #a > #b
end
local origin, since, wide, puts = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local single, ranges, left, changed = {}, {}, {}, {}
local made, gone = {}, {}
local count, size = 0, 0
local last = tonumber(redis.call('HGET', tag .. ':meta', 'seq') or '0')
if since ~= '' then
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
    gone[#gone + 1] = dir
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
      made[#made + 1] = dir
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
        made[#made + 1] = key
      else
        remove(dir, name)
        gone[#gone + 1] = key
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
return {redis.call('HEXISTS', tag .. ':meta', 'known'), left, last, made, gone}
"""

# ARGV of both: token, how long it lasts, a new generation.
BEGUN = """
if redis.replicate_commands then redis.replicate_commands() end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function begin(key)  -- returns whether it was unsettled
  local text = redis.call('HGET', rows, key)
  local row = text and cjson.decode(text)
  local tokens = row and row[3] or {}
  tokens[ARGV[1]] = {now, now + tonumber(ARGV[2])}
  redis.call('HSET', rows, key, cjson.encode({ARGV[3], row and true or false, tokens}))
  return row and true or false
end
"""

# ARGV: then KEY ... Returns whether the bucket is known, and the keys that were unsettled.
BEGIN = """
local met = {}
for n = 4, #ARGV do
  if begin(ARGV[n]) then met[#met + 1] = ARGV[n] end
end
return {redis.call('HEXISTS', tag .. ':meta', 'known'), met}
"""

# ARGV: then KEY, the name of a note, how many other names are looked at. Returns a SeenKey.
BEGIN_SEEING = """
local key, most = ARGV[4], tonumber(ARGV[6])
local dir, name = split(key)
local function goes(other)
  local text = redis.call('HGET', rows, dir .. other)
  if not text then return false end
  local row = cjson.decode(text)
  if row[2] then return true end
  for token in pairs(row[3]) do
    if string.sub(token, -1) == 'DELETION' then return true end
  end
  return false
end
local function last()
  if most < 0 then return 0 end
  local others = 0
  local chunks = {rows_at .. ':d:' .. dir}
  for _, start in ipairs(redis.call('ZRANGE', rows_at .. ':i:' .. dir, 0, most)) do
    chunks[#chunks + 1] = rows_at .. ':c:' .. dir .. start
  end
  for _, chunk in ipairs(chunks) do
    for _, other in ipairs(redis.call('HKEYS', chunk)) do
      if other ~= name then
        others = others + 1
        if others > most or not goes(other) then return 0 end
      end
    end
  end
  return 1
end
local met, above = begin(key) and 1 or 0, false
if dir ~= '' then
  local parent, own = split(dir)
  above = redis.call('HGET', place(parent, own), own)
end
local meta = redis.call('HMGET', tag .. ':meta', 'known', 'seq')
return {meta[1] and 1 or 0, tonumber(meta[2] or '0'), redis.call('HGET', place(dir, name), name),
        above, met, last(), redis.call('HGET', tag .. ':notes', ARGV[5])}
""".replace("DELETION", DELETION)

# ARGV: token, '1' if unsure, a new generation, KEY ... Returns the keys that are contended.
END = """
local contended = {}
for n = 4, #ARGV do
  if not ended(ARGV[n], ARGV[1], ARGV[3], ARGV[2] == '1') then
    contended[#contended + 1] = ARGV[n]
  end
end
return contended
"""

# ARGV: DIR, NAME ... Returns their records.
RECORDS = """
local found = {}
for n = 2, #ARGV do found[n - 1] = redis.call('HGET', place(ARGV[1], ARGV[n]), ARGV[n]) end
return found
"""

# ARGV: DIR, LOW, HIGH, limit. Returns names and records in turn, in no order: those of the
# chunks that have the first *limit* names from LOW to HIGH, or all if there are fewer.
PAGE = """
local dir, low, high, missing = ARGV[1], ARGV[2], '(' .. ARGV[3], tonumber(ARGV[4])
local chunk, start = place(dir, low)
local found = redis.call('HGETALL', chunk)
if low == '' then missing = missing - #found / 2 end
while missing > 0 do
  local from = start and '(' .. start or '-'
  start = redis.call('ZRANGEBYLEX', rows_at .. ':i:' .. dir, from, high, 'LIMIT', 0, 1)[1]
  if not start then break end
  local more = redis.call('HGETALL', rows_at .. ':c:' .. dir .. start)
  for _, each in ipairs(more) do found[#found + 1] = each end
  missing = missing - #more / 2
end
return found
"""

# KEYS[1] is the tag of the list of buckets. ARGV: origin, name.
ENLIST = """
if redis.call('HEXISTS', place('', ARGV[2]), ARGV[2]) == 1 then return end
add('', ARGV[2], '')
append(ARGV[1], {{ARGV[2], ARGV[2]}})
"""

# ARGV: name, '1' and what the note must be or '0' and '' if there must be none, the same of what
# it is to be, origin of the line in the log or ''. Returns whether it was, and what the note is.
SWAP = """
local notes, name = tag .. ':notes', ARGV[1]
local now = redis.call('HGET', notes, name)
if now ~= (ARGV[2] == '1' and ARGV[3]) then return {0, now} end
if ARGV[4] == '1' then redis.call('HSET', notes, name, ARGV[5])
else redis.call('HDEL', notes, name) end
if ARGV[6] ~= '' then append(ARGV[6], {{name, name}}) end
return {1, ARGV[4] == '1' and ARGV[5]}
"""

# ARGV: prefix, '1' if deep, the scope, since or ''. Returns a MarkedScope.
MARK = """
local scopes, prefix, since = tag .. ':scopes', ARGV[1], ARGV[4]
local meta = redis.call('HMGET', tag .. ':meta', 'known', 'seq', 'born')
local seq, born = tonumber(meta[2] or '0'), tonumber(meta[3] or '0')
local marked = since == '' or (born <= tonumber(since) and tonumber(since) <= seq)
if marked then
  if ARGV[2] == '1' then
    for _, inside in ipairs(redis.call('HKEYS', scopes)) do
      if string.sub(inside, 1, #prefix) == prefix then redis.call('HDEL', scopes, inside) end
    end
  end
  redis.call('HSET', scopes, prefix, ARGV[3])
end
return {marked and 1 or 0, meta[1] and 1 or 0, seq}
"""

# Every command that changes something. A user that may not run one of them must not get to the
# middle of a script, which would stay half done.
TRY = """
local key = KEYS[1] .. ':try'
redis.call('HSET', key, 'a', 1)
redis.call('HINCRBY', key, 'a', 1)
redis.call('HDEL', key, 'a')
redis.call('ZADD', key, 0, 'a')
redis.call('ZREM', key, 'a')
redis.call('XADD', key, 'MAXLEN', '~', 1, '1-0', 'a', 1)
redis.call('DEL', key)
"""
