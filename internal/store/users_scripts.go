package store

import "strconv"

// usersPerBucket is how many users a bucket has on average before one more is
// split off. The buckets whose turn has not come have up to twice as many,
// which must stay within hash-max-listpack-entries (128) or they take four
// times the memory.
const usersPerBucket = 48

// membersPerBucket is the same for the member index and
// set-max-intset-entries (512).
const membersPerBucket = 192

type userScripts struct {
	userLook, userRead, userSave, userAdd, userDrop              *script
	userDue, userWork, userTotals, userHistory                   *script
	suppress, suppressed, unsuppress                             *script
	memberAdd, memberRemove, memberPage, memberSize, membersDrop *script
	memberCounts                                                 *script
}

func newUserScripts() userScripts {
	return userScripts{
		userLook:     newScriptWith("user_look", allowOOM, linearHashing, bucketsBegin+userLookBody),
		userRead:     newScriptWith("user_read", allowOOM, linearHashing, bucketsBegin+userReadBody),
		userSave:     newScriptWith("user_save", allowOOM|fenced, linearHashing, bucketsBegin+userSaveBody),
		userAdd:      newScriptWith("user_add", 0, linearHashing, bucketsBegin+userSaveBody),
		userDrop:     newScriptWith("user_drop", allowOOM, linearHashing, bucketsBegin+userSaveBody),
		userDue:      newScript("user_due", allowOOM, userDueBody),
		userWork:     newScript("user_work", fenced, userWorkBody),
		userTotals:   newScript("user_totals", allowOOM, userTotalsBody),
		userHistory:  newScript("user_history", allowOOM, userHistoryBody),
		suppress:     newScript("suppress", allowOOM|fenced, suppressBody),
		suppressed:   newScript("suppressed", allowOOM, suppressedBody),
		unsuppress:   newScript("unsuppress", allowOOM|fenced, unsuppressBody),
		memberAdd:    newScriptWith("member_add", 0, linearHashing, bucketsBegin+memberAddBody),
		memberRemove: newScriptWith("member_remove", allowOOM, linearHashing, bucketsBegin+memberRemoveBody),
		memberPage:   newScript("member_page", allowOOM, memberPageBody),
		memberSize:   newScript("member_size", allowOOM, memberSizeBody),
		memberCounts: newScript("member_counts", allowOOM, memberCountsBody),
		membersDrop:  newScript("members_drop", allowOOM, membersDropBody),
	}
}

// linearHashing is what the scripts of buckets begin with. With b buckets and
// l the largest power of two that is not above b, a hash h lies in bucket
// h mod 2l if there is such a bucket, else in h mod l. The next one to be split
// is b - l; its members go to itself and to the new bucket b.
const linearHashing = `
local function level(b)
  local l = 1
  while l * 2 <= b do l = l * 2 end
  return l
end
local function place(h, b, l)
  local i = h % (l * 2)
  if i >= b then i = h % l end
  return i
end
local function number(s, from)
  local a, b, c, d = string.byte(s, from, from + 3)
  return ((a * 256 + b) * 256 + c) * 256 + d
end
local function hash(field) return number(field, 3) end
local function hex(field)
  return (string.gsub(field, '.', function(c) return string.format('%02x', string.byte(c)) end))
end
`

// bucketsBegin is what the bodies of such scripts begin with: how many buckets
// there are, and their level.
const bucketsBegin = `
local nb = tonumber(redis.call('HGET', KEYS[3], 'buckets') or '1')
local lv = level(nb)
`

// userReadBody: KEYS mark, buckets, meta; ARGV mark, then fields. Returns the
// record of each, or nothing.
const userReadBody = `
local out = {}
for i = 2, #ARGV do
  out[i - 1] = redis.call('HGET', KEYS[2] .. ':' .. place(hash(ARGV[i]), nb, lv), ARGV[i])
end
return out
`

// userLookBody: KEYS mark, buckets, meta; ARGV mark, then per user: field, time
// of the ping (4 bytes). Notes the time if it is later, and returns the record
// of each, or nothing. The record keeps its length, so a full server can too.
const userLookBody = `
local out = {}
for i = 2, #ARGV, 2 do
  local key = KEYS[2] .. ':' .. place(hash(ARGV[i]), nb, lv)
  local record = redis.call('HGET', key, ARGV[i])
  if record and #record > 4 and number(ARGV[i + 1], 1) > number(record, 1) then
    record = ARGV[i + 1] .. string.sub(record, 5)
    redis.call('HSET', key, ARGV[i], record)
  end
  out[i / 2] = record
end
return out
`

// userSaveBody: KEYS mark, buckets, meta, work, suppressed, history; ARGV mark,
// then per user: field, version the record must have (” is no record), the
// record without its ping (” removes it), the ping (4 bytes; a later one that
// is there stays), what to do with the work entry (” nothing, '-' remove, '=ms'
// set, '<ms' set unless an earlier one is there), the registrations that this
// changes ('1=-1 2=1' takes one from state 1 and gives one to state 2), the
// user's hash when it must not be on the suppression list, and lines for the
// history (” none), which goes with the record.
// Returns per user 1, 2 if the user is on the suppression list, or the record
// that is there if it has another version.
var userSaveBody = `
local out = {}
local users = 0
for i = 2, #ARGV, 8 do
  local field, rest, work = ARGV[i], ARGV[i + 2], ARGV[i + 4]
  local key = KEYS[2] .. ':' .. place(hash(field), nb, lv)
  local old = redis.call('HGET', key, field)
  if ARGV[i + 6] ~= '' and redis.call('HEXISTS', KEYS[5], ARGV[i + 6]) == 1 then
    out[#out + 1] = 2
  elseif (old and string.sub(old, 5) or '') ~= ARGV[i + 1] then
    out[#out + 1] = old or ''
  else
    -- Work first: a script is not undone when a command in it fails (a key of
    -- another type). Work for nothing costs a look; a record without its work
    -- would wait until somebody compares all of them.
    local how, at = string.sub(work, 1, 1), string.sub(work, 2)
    if how == '=' then
      redis.call('ZADD', KEYS[4], at, field)
    elseif how == '<' then
      local due = redis.call('ZSCORE', KEYS[4], field)
      if not due or tonumber(at) < tonumber(due) then redis.call('ZADD', KEYS[4], at, field) end
    end
    if rest == '' then
      if old then
        redis.call('HDEL', key, field)
        redis.call('DEL', KEYS[6] .. ':' .. hex(field))
        users = users - 1
      end
    else
      local ping = ARGV[i + 3]
      if old and number(old, 1) > number(ping, 1) then ping = string.sub(old, 1, 4) end
      if ping .. rest ~= old then redis.call('HSET', key, field, ping .. rest) end
      if not old then users = users + 1 end
    end
    if rest ~= '' and ARGV[i + 7] ~= '' then
      local list = KEYS[6] .. ':' .. hex(field)
      for line in string.gmatch(ARGV[i + 7], '[^\n]+') do redis.call('LPUSH', list, line) end
      redis.call('LTRIM', list, 0, ` + strconv.Itoa(historyKept-1) + `)
      redis.call('EXPIRE', list, ` + strconv.Itoa(historyDays*24*3600) + `)
    end
    for state, n in string.gmatch(ARGV[i + 5], '(%d+)=(-?%d+)') do
      redis.call('HINCRBY', KEYS[3], 'r' .. state, n)
    end
    if how == '-' then redis.call('ZREM', KEYS[4], field) end
    out[#out + 1] = 1
  end
end
if users ~= 0 then
  local total = redis.call('HINCRBY', KEYS[3], 'users', users)
  local had = nb
  while total > nb * ` + strconv.Itoa(usersPerBucket) + ` do
    local from, to = KEYS[2] .. ':' .. (nb - lv), KEYS[2] .. ':' .. nb
    local all = redis.call('HGETALL', from)
    local stay, go = {}, {}
    for j = 1, #all, 2 do
      local list = stay
      if hash(all[j]) % (lv * 2) == nb then list = go end
      list[#list + 1] = all[j]
      list[#list + 1] = all[j + 1]
    end
    -- Both are written anew, so that one that had grown too large for a
    -- listpack becomes one again.
    redis.call('DEL', from)
    for j = 1, #stay, 400 do redis.call('HSET', from, unpack(stay, j, math.min(j + 399, #stay))) end
    for j = 1, #go, 400 do redis.call('HSET', to, unpack(go, j, math.min(j + 399, #go))) end
    nb = nb + 1
    lv = level(nb)
  end
  if nb ~= had then redis.call('HSET', KEYS[3], 'buckets', nb) end
end
return out
`

// userDueBody: KEYS mark, work; ARGV mark, now (ms), how many. Returns the
// users that are due with their times, earliest first, and a list of the first
// later time or of nothing.
const userDueBody = `
local later = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[2], '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[2], 'WITHSCORES', 'LIMIT', 0, ARGV[3]), later}
`

// userWorkBody: KEYS mark, work; ARGV mark, time (ms), then fields. Sets the
// time of each unless it has an earlier one.
const userWorkBody = `
for i = 3, #ARGV do
  local due = redis.call('ZSCORE', KEYS[2], ARGV[i])
  if not due or tonumber(ARGV[2]) < tonumber(due) then redis.call('ZADD', KEYS[2], ARGV[2], ARGV[i]) end
end
return #ARGV - 2
`

// userTotalsBody: KEYS mark, meta, work, suppressed; ARGV mark, now (ms).
// Returns the size of the work set, how much of it is due, the size of the
// suppression list, and every field and value of meta.
const userTotalsBody = `
return {redis.call('ZCARD', KEYS[3]), redis.call('ZCOUNT', KEYS[3], '-inf', ARGV[2]), redis.call('HLEN', KEYS[4]),
  redis.call('HGETALL', KEYS[2])}
`

// memberAddBody: KEYS mark, buckets, meta; ARGV mark, then numbers. Adds each;
// returns how many have ever been removed.
var memberAddBody = `
local added = 0
for i = 2, #ARGV do
  added = added + redis.call('SADD', KEYS[2] .. ':' .. place(tonumber(ARGV[i]), nb, lv), ARGV[i])
end
if added > 0 then
  local total = redis.call('HINCRBY', KEYS[3], 'members', added)
  local had = nb
  while total > nb * ` + strconv.Itoa(membersPerBucket) + ` do
    local from, to = KEYS[2] .. ':' .. (nb - lv), KEYS[2] .. ':' .. nb
    local stay, go = {}, {}
    for _, m in ipairs(redis.call('SMEMBERS', from)) do
      local list = stay
      if tonumber(m) % (lv * 2) == nb then list = go end
      list[#list + 1] = m
    end
    redis.call('DEL', from)
    for j = 1, #stay, 400 do redis.call('SADD', from, unpack(stay, j, math.min(j + 399, #stay))) end
    for j = 1, #go, 400 do redis.call('SADD', to, unpack(go, j, math.min(j + 399, #go))) end
    nb = nb + 1
    lv = level(nb)
  end
  if nb ~= had then redis.call('HSET', KEYS[3], 'buckets', nb) end
end
return tonumber(redis.call('HGET', KEYS[3], 'removed') or '0')
`

// memberRemoveBody: KEYS mark, buckets, meta; ARGV mark, then numbers. Removes
// each; returns how many have ever been removed.
const memberRemoveBody = `
local removed = 0
for i = 2, #ARGV do
  removed = removed + redis.call('SREM', KEYS[2] .. ':' .. place(tonumber(ARGV[i]), nb, lv), ARGV[i])
end
if removed == 0 then return tonumber(redis.call('HGET', KEYS[3], 'removed') or '0') end
redis.call('HINCRBY', KEYS[3], 'members', -removed)
return redis.call('HINCRBY', KEYS[3], 'removed', removed)
`

// memberPageBody: KEYS mark, buckets, meta; ARGV mark, bucket, how many. Returns
// the number of buckets, then whole buckets from that one on until there are
// as many members as asked for (or 1000 buckets were looked into).
const memberPageBody = `
local nb = tonumber(redis.call('HGET', KEYS[3], 'buckets') or '1')
local out, n = {nb}, 0
local from = tonumber(ARGV[2])
for b = from, math.min(nb, from + 1000) - 1 do
  local list = redis.call('SMEMBERS', KEYS[2] .. ':' .. b)
  out[#out + 1] = list
  n = n + #list
  if n >= tonumber(ARGV[3]) then break end
end
return out
`

// memberSizeBody: KEYS mark, meta; ARGV mark. Returns the number of members and
// how many have ever been removed.
const memberSizeBody = `
return {tonumber(redis.call('HGET', KEYS[2], 'members') or '0'), tonumber(redis.call('HGET', KEYS[2], 'removed') or '0')}
`

// membersDropBody: KEYS mark, buckets, meta; ARGV mark, bucket, how many.
// Deletes that many buckets from that one on, and meta after the last; returns
// whether that was it.
const membersDropBody = `
local nb = tonumber(redis.call('HGET', KEYS[3], 'buckets') or '1')
local last = math.min(nb, ARGV[2] + ARGV[3]) - 1
for b = tonumber(ARGV[2]), last do redis.call('DEL', KEYS[2] .. ':' .. b) end
if last < nb - 1 then return 0 end
redis.call('DEL', KEYS[3])
return 1
`
