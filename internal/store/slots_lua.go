package store

// slotLua stands in front of every script over slots. A slot is one text in the
// hash of slots, trailing empty fields left out:
//
//	latest;types;first;created;attempts;firstAttempt;crashes;top;token;type;generation;again;againFirst
//
// latest is µs; types is letter and generation each; generations, first,
// created, top and againFirst are µs relative to latest (empty: the same);
// firstAttempt and again are ms. Top is the highest generation given so far,
// also to types that were told: none is given twice. A slot with a token is in flight: its score in
// the due set is the end of its lease, type and generation are what was
// claimed, again is when it comes due again because news came during the
// attempt, and againFirst is when the first of that news was accepted. A "!"
// after type says that an attempt whose lease had ended turned out to have told
// it: however the claim in flight ends, it counts as delivered.
//
// A dead letter is attempts|status|slot|reason.
//
// Every script has KEYS mark, ready, ledger, and ARGV mark, now (ms), and calls
// begin first.
const slotLua = `
local keys, now, READY, LEDGER, counts
local function begin(k, args) keys, now, READY, LEDGER, counts = k, tonumber(args[2]), k[2], k[3], {} end
local ORDER = {'C', 'U', 'D', 'P', 'L'} -- the most urgent first
local HOUR = 3600000
local function count(name, n) counts[name] = (counts[name] or 0) + n end
local function F(x) return string.format('%.0f', x) end

local SLOT = '^(%d+);([^;]+);?(%-?%d*);?(%-?%d*);?(%d*);?(%d*);?(%d*);?(%-?%d*);?([^;]*);?(%a?)(!?);?(%-?%d*);?(%d*);?(%-?%d*)$'
local function parse(text)
  local latest, types, first, created, attempts, began, crashes, top, token, ctype, told, cgen, again, afirst = string.match(text, SLOT)
  if not latest then -- damaged by hand: better told once more than never
    latest, types, token = F(now * 1000), 'U', ''
  end
  local s = {types = {}, latest = tonumber(latest)}
  for t, g in string.gmatch(types, '(%a)(%-?%d*)') do s.types[t] = s.latest + (tonumber(g) or 0) end
  s.first, s.top = s.latest + (tonumber(first) or 0), s.latest + (tonumber(top) or 0)
  if s.types.C then s.created = s.latest + (tonumber(created) or 0) end
  s.attempts, s.began, s.crashes = tonumber(attempts) or 0, tonumber(began) or 0, tonumber(crashes) or 0
  if token ~= '' then
    s.token, s.ctype, s.told, s.cgen = token, ctype, told == '!', s.latest + (tonumber(cgen) or 0)
    s.again = tonumber(again)
    if s.again then s.afirst = s.latest + (tonumber(afirst) or 0) end
  end
  return s
end

local function text(s)
  local function rel(v) if not v or v == s.latest then return '' end return F(v - s.latest) end
  local function num(v) if v == 0 then return '' end return F(v) end
  local types = ''
  for i = 1, #ORDER do
    local g = s.types[ORDER[i]]
    if g then types = types .. ORDER[i] .. rel(g) end
  end
  local out = F(s.latest) .. ';' .. types .. ';' .. rel(s.first) .. ';' .. (s.types.C and rel(s.created) or '') .. ';' ..
    num(s.attempts) .. ';' .. num(s.began) .. ';' .. num(s.crashes) .. ';' .. rel(s.top)
  if s.token then
    out = out .. ';' .. s.token .. ';' .. s.ctype .. (s.told and '!' or '') .. ';' .. rel(s.cgen)
    if s.again then out = out .. ';' .. F(s.again) .. ';' .. rel(s.afirst) end
  end
  return (string.gsub(out, ';+$', ''))
end

local function empty(t) return next(t) == nil end

-- join adds the types of d to s.
local function join(s, d)
  for t, g in pairs(d.types) do
    if not s.types[t] or s.types[t] < g then s.types[t] = g end
  end
  if d.created and (not s.created or s.created < d.created) then s.created = d.created end
  if d.latest > s.latest then s.latest = d.latest end
  if d.top > s.top then s.top = d.top end
end

-- fresh starts the counting of attempts over.
local function fresh(s) s.attempts, s.began, s.crashes = 0, 0, 0 end

-- land ends a flight.
local function land(c, s)
  if s.token then c.flight = c.flight - 1 end
  s.token, s.ctype, s.told, s.cgen, s.again, s.afirst = nil, nil, nil, nil, nil, nil
end

-- named is the channel whose keys begin at keys[k], of which nothing is read yet.
local function named(k, name)
  return {name = name, due = keys[k], slots = keys[k + 1], dead = keys[k + 2], deadAt = keys[k + 3], control = keys[k + 4],
    hold = 0, flight = 0}
end

-- load reads the control hash of a channel.
local function load(c)
  local v = redis.call('HMGET', c.control, 'enabled', 'pause', 'suspend', 'breaker', 'retry_after', 'rate', 'digest')
  c.enabled = v[1] == '1'
  for i = 2, 7 do
    local till = v[i] and tonumber(string.match(v[i], '^%d+'))
    if till and till > c.hold then c.hold = till end
  end
  return c
end

local function channel(k, name) return load(named(k, name)) end

-- flown writes how many fly more or less than before.
local function flown(c)
  if c.flight ~= 0 then redis.call('HINCRBY', c.control, 'flight', F(c.flight)) end
  c.flight = 0
end

-- settle ends what a script did to a channel: how many fly, and when the
-- channel is next ready. Returns that time or -1.
local function settle(c)
  flown(c)
  local first = {}
  if c.enabled then first = redis.call('ZRANGE', c.due, 0, 0, 'WITHSCORES') end
  if not first[2] then
    redis.call('ZREM', READY, c.name)
    return -1
  end
  local at, score = tonumber(first[2]), first[2]
  if c.hold > at then at, score = c.hold, F(c.hold) end
  redis.call('ZADD', READY, score, c.name)
  return at
end

-- write counts in the ledger; the last thing a script does.
local function book()
  for name, n in pairs(counts) do
    if n ~= 0 then redis.call('HINCRBY', LEDGER, name, F(n)) end
  end
end

local function put(c, field, s) redis.call('HSET', c.slots, field, text(s)) end

-- aloft is the text of a slot in flight, from its text before, when that has
-- one type and nothing else to say: what text() would write. Nearly every slot
-- is one of these, and a table made of it costs more than all else that is done
-- with it.
local function aloft(raw, t, token) return raw .. ';;;;;;;' .. token .. ';' .. t end

-- back lets a slot wait until due.
local function back(c, field, s, due)
  land(c, s)
  put(c, field, s)
  redis.call('ZADD', c.due, F(due), field)
end

-- drop removes a slot; the caller counts why.
local function drop(c, field, s)
  land(c, s)
  redis.call('HDEL', c.slots, field)
  redis.call('ZREM', c.due, field)
end

-- told clears type t of generation gen after its POST was taken, and counts it.
-- Returns true when nothing is left of the slot; else the caller lets it wait.
local function told(c, field, s, t, gen)
  count('delivered', 1)
  if s.types[t] == gen then
    s.types[t] = nil
  elseif s.afirst then
    local other = false
    for o in pairs(s.types) do if o ~= t then other = true end end
    if not other then s.first = s.afirst end -- what came before was told
  end
  if empty(s.types) then
    drop(c, field, s)
    return true
  end
  count('opened', 1)
  count('requeued', 1)
  fresh(s)
  return false
end

local function parseDead(raw)
  local attempts, status, slot, reason = string.match(raw, '^(%d+)|(%d*)|([^|]*)|(.*)$')
  local d = parse(slot or '')
  d.deaths, d.status, d.reason = attempts or '0', status or '', reason or ''
  return d
end

local function putDead(c, field, d)
  redis.call('HSET', c.dead, field, d.deaths .. '|' .. d.status .. '|' .. text(d) .. '|' .. d.reason)
end

-- unbury takes a dead letter away because something newer supersedes it.
local function unbury(c, field)
  local raw = redis.call('HGET', c.dead, field)
  if not raw then return nil end
  redis.call('HDEL', c.dead, field)
  redis.call('ZREM', c.deadAt, field)
  count('superseded', 1)
  count('dead', -1)
  return parseDead(raw)
end

-- bury makes a dead letter of s, joined with one that lies there, and keeps at
-- most cap of them.
local function bury(c, field, s, attempts, status, reason, cap)
  redis.call('ZCARD', c.deadAt) -- what fails does so before anything is done
  local d = {types = s.types, latest = s.latest, first = s.first, top = s.top, created = s.types.C and s.created,
    attempts = 0, began = 0, crashes = 0, deaths = F(attempts), status = status, reason = reason}
  local old = unbury(c, field)
  if old then
    join(d, old)
    if old.first < d.first then d.first = old.first end
  end
  putDead(c, field, d)
  redis.call('ZADD', c.deadAt, F(now), field)
  count('died', 1)
  count('dead', 1)
  local over = redis.call('ZCARD', c.deadAt) - cap
  if over > 0 then
    local oldest = redis.call('ZRANGE', c.deadAt, 0, math.min(over, 100) - 1)
    for i = 1, #oldest do
      redis.call('HDEL', c.dead, oldest[i])
      redis.call('ZREM', c.deadAt, oldest[i])
    end
    count('dropped', #oldest)
    count('dead', -#oldest)
  end
end
`
