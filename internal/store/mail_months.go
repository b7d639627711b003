package store

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"dispatchd/internal/orcid"
)

// mailScripts are the verbs that only e-mail needs.
type mailScripts struct {
	noteMonth, monthPage, monthSent, sendMonth, forgetMail, eraseMail *script
	openDigest, finishDigest, dropDigest, retime                      *script
	countMail, mailed                                                 *script
}

func newMailScripts() mailScripts {
	drains := allowOOM | fenced
	return mailScripts{
		noteMonth:    newScript("note_month", 0, noteMonthBody),
		monthPage:    newScript("month_page", allowOOM, monthPageBody),
		monthSent:    newScript("month_sent", allowOOM, monthSentBody),
		sendMonth:    newScript("send_month", drains, sendMonthBody),
		forgetMail:   newScript("forget_mail", drains, forgetMailBody),
		eraseMail:    newScript("erase_mail", drains, eraseMailBody),
		openDigest:   slotScript("open_digest", drains, openDigestBody),
		finishDigest: slotScriptWith("finish_digest", drains, attemptLua, finishDigestBody),
		dropDigest:   slotScript("drop_digest", drains, dropDigestBody),
		retime:       slotScript("retime", drains, retimeBody),
		countMail:    newScript("count_mail", drains, countMailBody),
		mailed:       newScript("mailed", allowOOM, mailedBody),
	}
}

// Month names a month of an organisation's calendar, for example "2026-11".
type Month string

const monthLayout = "2006-01"

// MonthOf returns the month of a time in its own zone.
func MonthOf(t time.Time) Month { return Month(t.Format(monthLayout)) }

// Add returns the month n months later.
func (m Month) Add(n int) Month {
	t, err := time.Parse(monthLayout, string(m))
	if err != nil {
		return m
	}
	return MonthOf(t.AddDate(0, n, 0))
}

// monthKept is how long the users of a month are kept after the last was noted:
// long enough for a summary that is late by weeks.
const monthKept = 70 * 24 * time.Hour

// monthChunk is how many users go into one script run.
const monthChunk = 500

// noteMonthBody: KEYS mark, users of the month, of the next one, month sent;
// ARGV mark, month, how long to keep it (ms), then latest change (s) and user
// of each. What comes after the summary of its month was sent stands in the next.
const noteMonthBody = `
local sent, key = redis.call('GET', KEYS[4]), KEYS[2]
if sent and sent >= ARGV[2] then key = KEYS[3] end
for i = 4, #ARGV, 2 do redis.call('ZADD', key, 'GT', ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', key, ARGV[3])
return 1
`

// Changed is one change for the monthly summary of an organisation.
type Changed struct {
	Org   string
	Month Month // of At, in the organisation's time zone
	ORCID orcid.ID
	At    time.Time // seconds count
}

// NoteMonths notes users that changed for the monthly summaries; it may be
// repeated. A change whose month was summed up already stands in the next.
func (s *Store) NoteMonths(ctx context.Context, list []Changed) error {
	type of struct {
		org   string
		month Month
	}
	open := map[of]*call{}
	var calls []*call
	for _, ch := range list {
		k := of{ch.Org, ch.Month}
		c := open[k]
		if c == nil || len(c.args) >= 2+2*monthChunk {
			p := orgPartition(ch.Org)
			c = &call{
				script: s.scripts.noteMonth, mark: s.keys.mark(p),
				keys: []string{s.keys.month(p, ch.Org, ch.Month), s.keys.month(p, ch.Org, ch.Month.Add(1)), s.keys.monthSent(p, ch.Org)},
				args: []any{string(ch.Month), monthKept.Milliseconds()},
			}
			open[k] = c
			calls = append(calls, c)
		}
		c.args = append(c.args, ch.At.Unix(), slotField(ch.ORCID))
	}
	if err := s.do(ctx, calls...); err != nil {
		return fmt.Errorf("note who changed in a month: %w", err)
	}
	return nil
}

// monthPageBody: KEYS mark, users of the month; ARGV mark, first, last (ranks).
// Returns user and latest change (s) of each, the earliest first.
const monthPageBody = `return redis.call('ZRANGE', KEYS[2], ARGV[2], ARGV[3], 'WITHSCORES')`

// MonthUsers returns users of a month by the time of their latest change, the
// earliest first, from the skip-th on, at most n.
func (s *Store) MonthUsers(ctx context.Context, org string, m Month, skip, n int) ([]Changed, error) {
	p := orgPartition(org)
	c := &call{script: s.scripts.monthPage, mark: s.keys.mark(p), keys: []string{s.keys.month(p, org, m)}, args: []any{skip, skip + n - 1}}
	if err := s.one(ctx, "read who changed in a month", org, c); err != nil {
		return nil, err
	}
	pairs, err := stringList(c, c.res)
	if err != nil {
		return nil, err
	}
	out := make([]Changed, 0, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		id, err := fieldUser(pairs[i])
		if err != nil {
			return nil, fmt.Errorf("read who changed in a month: user %q is damaged: %w", pairs[i], err)
		}
		at, err := strconv.ParseFloat(pairs[i+1], 64)
		if err != nil {
			return nil, fmt.Errorf("read who changed in a month: time %q is damaged: %w", pairs[i+1], err)
		}
		out = append(out, Changed{Org: org, Month: m, ORCID: id, At: time.Unix(int64(at), 0).UTC()})
	}
	return out, nil
}

// monthSentBody: KEYS mark, month sent; ARGV mark. Returns it, or nothing.
const monthSentBody = `return redis.call('GET', KEYS[2])`

// MonthSent returns the latest month whose summary was sent; empty when none was.
func (s *Store) MonthSent(ctx context.Context, org string) (Month, error) {
	p := orgPartition(org)
	c := &call{script: s.scripts.monthSent, mark: s.keys.mark(p), keys: []string{s.keys.monthSent(p, org)}}
	if err := s.one(ctx, "read which month was sent", org, c); err != nil {
		return "", err
	}
	m, err := c.text()
	if err != nil {
		return "", fmt.Errorf("read which month was sent to %s: %w", org, err)
	}
	return Month(m), nil
}

// sendMonthBody: KEYS mark, month sent; ARGV mark, month. Never goes back.
const sendMonthBody = `
local sent = redis.call('GET', KEYS[2])
if not sent or sent < ARGV[2] then redis.call('SET', KEYS[2], ARGV[2]) end
return 1
`

// SetMonthSent notes that the summary of a month was sent, or that there was
// nothing to send.
func (s *Store) SetMonthSent(ctx context.Context, org string, m Month) error {
	p := orgPartition(org)
	c := &call{script: s.scripts.sendMonth, mark: s.keys.mark(p), keys: []string{s.keys.monthSent(p, org)}, args: []any{string(m)}}
	return s.one(ctx, "note which month was sent", org, c)
}

// monthsBack is how many months, the next one included, may still be kept.
const monthsBack = 5

// monthKeys are those of every month that may still be kept, with one to spare
// on both sides for zones.
func (s *Store) monthKeys(p int, org string) []string {
	var out []string
	for i := range monthsBack {
		out = append(out, s.keys.month(p, org, MonthOf(s.Now()).Add(1-i)))
	}
	return out
}

// eraseMailBody: KEYS mark, members of an open digest, then months; ARGV mark,
// user. Returns in how many places the user was.
const eraseMailBody = `
local gone, field = 0, ARGV[2]
for i = 3, #KEYS do gone = gone + redis.call('ZREM', KEYS[i], field) end
local list = redis.call('LRANGE', KEYS[2], 0, -1)
for i = 1, #list do
  if string.match(list[i], '^%d+') == field then gone = gone + redis.call('LREM', KEYS[2], 1, list[i]) end
end
return gone
`

// EraseFromMonths takes a user out of the monthly summaries of an organisation
// that are still to come, and out of a digest that is being sent. It returns in
// how many of them the user was, and may be repeated.
func (s *Store) EraseFromMonths(ctx context.Context, org string, id orcid.ID) (int, error) {
	p := orgPartition(org)
	c := &call{
		script: s.scripts.eraseMail, mark: s.keys.mark(p),
		keys: append([]string{s.keys.digestUsers(p, org)}, s.monthKeys(p, org)...), args: []any{slotField(id)},
	}
	if err := s.one(ctx, "erase a user from the summaries", org, c); err != nil {
		return 0, err
	}
	n, err := c.integer()
	return int(n), err
}

// forgetMailBody: KEYS mark, then what goes.
const forgetMailBody = `
for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end
return 1
`

// ForgetMail removes what e-mail keeps of an organisation beside its slots:
// months, the digest that is open, how much was mailed.
func (s *Store) ForgetMail(ctx context.Context, org string) error {
	p := orgPartition(org)
	c := &call{
		script: s.scripts.forgetMail, mark: s.keys.mark(p),
		keys: append(s.monthKeys(p, org), s.keys.monthSent(p, org), s.keys.digest(p, org), s.keys.digestUsers(p, org), s.keys.mailed(p, org)),
	}
	return s.one(ctx, "forget the mail", org, c)
}
