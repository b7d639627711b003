package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// slotScripts are the verbs over slots.
type slotScripts struct {
	enqueue, claim, finish          *script
	enable, hold, inspect, ready    *script
	replay, purge, deadPage         *script
	cancelSlots, cancelUser, forget *script
	fresh, unclaim, endLeases       *script
	attemptPage, day, waiting       *script
	eraseTraces, traces, lately     *script
	audit, auditLane, totals        *script
	mend                            *script
}

// slotScript prepares a script over slots.
func slotScript(name string, flags scriptFlags, body string) *script {
	return slotScriptWith(name, flags, "", body)
}

// slotScriptWith is slotScript for a body with functions of its own.
func slotScriptWith(name string, flags scriptFlags, functions, body string) *script {
	return newScriptWith(name, flags, slotLua+functions, "begin(KEYS, ARGV)\n"+body)
}

func newSlotScripts() slotScripts {
	drains := allowOOM | fenced
	return slotScripts{
		enqueue:     slotScriptWith("enqueue", 0, enqueueLua, enqueueBody),
		claim:       slotScriptWith("claim", drains, claimLua, claimBody),
		finish:      slotScriptWith("finish", drains, finishLua, finishBody),
		unclaim:     slotScriptWith("unclaim", drains, finishLua, unclaimBody),
		endLeases:   slotScript("end_leases", drains, endLeasesBody),
		enable:      slotScript("enable", drains, enableBody),
		hold:        slotScript("hold", drains, holdBody),
		inspect:     newScript("inspect", allowOOM, inspectBody),
		ready:       newScript("ready", allowOOM, readyBody),
		replay:      slotScript("replay", drains, replayBody),
		purge:       slotScript("purge", drains, purgeBody),
		deadPage:    newScript("dead_letters", allowOOM, deadPageBody),
		cancelSlots: slotScript("cancel_slots", drains, cancelSlotsBody),
		cancelUser:  slotScript("cancel_user", drains, cancelUserBody),
		forget:      slotScript("drop_organisation", drains, dropOrganisationBody),
		fresh:       slotScript("forget_holds", drains, freshBody),
		eraseTraces: slotScript("erase_traces", drains, eraseTracesBody),
		lately:      newScript("lately", allowOOM, latelyBody),
		traces:      newScript("traces", allowOOM, tracesBody),
		attemptPage: newScript("attempts", allowOOM, attemptPageBody),
		day:         newScript("day", allowOOM, dayBody),
		waiting:     newScript("waiting", allowOOM, waitingBody),
		audit:       newScript("audit", allowOOM, auditBody),
		auditLane:   newScript("audit_lane", allowOOM, auditLaneBody),
		totals:      newScript("totals", allowOOM, totalsBody),
		mend:        slotScript("mend", drains, mendBody),
	}
}

// slotMergers join the calls that organisations make one by one.
type slotMergers struct {
	claims   *merger[claimQuery, event.Claims]
	reads    *merger[[]orcid.ID, []string]
	finishes *merger[finishQuery, event.Finished]
	lost     lostClaims
}

func newSlotMergers(s *Store) slotMergers {
	return slotMergers{
		claims:   &merger[claimQuery, event.Claims]{flush: s.claimBatch, max: 256, parallel: 2},
		reads:    &merger[[]orcid.ID, []string]{flush: s.readBatch, max: 256, parallel: 2},
		finishes: &merger[finishQuery, event.Finished]{flush: s.finishBatch, max: 256, parallel: 2},
	}
}

func (s *Store) waitMergers() {
	s.claims.wait()
	s.reads.wait()
	s.finishes.wait()
}

// slotCall prepares a call of a script over slots in one partition: KEYS ready,
// ledger; ARGV now. The caller appends.
func (s *Store) slotCall(sc *script, p int) *call {
	return &call{
		script: sc, mark: s.keys.mark(p),
		keys: []string{s.keys.ready(p), s.keys.ledger(p)},
		args: []any{s.Now().UnixMilli()},
	}
}

// channelKeys are the five keys that slotLua's channel expects, in its order.
func (s *Store) channelKeys(p int, k event.ChannelKey) []string {
	return []string{
		s.keys.due(p, k.Org, k.Channel), s.keys.slots(p, k.Org, k.Channel), s.keys.dead(p, k.Org, k.Channel),
		s.keys.deadAt(p, k.Org, k.Channel), s.keys.control(p, k.Org, k.Channel),
	}
}

// readyMember is a channel inside the ready index.
func readyMember(k event.ChannelKey) string { return k.Org + "/" + channelCode(k.Channel) }

// memberChannel undoes readyMember.
func memberChannel(member string) (event.ChannelKey, error) {
	name, code, _ := strings.Cut(member, "/")
	ch, ok := codeChannel(code)
	if !ok || name == "" {
		return event.ChannelKey{}, fmt.Errorf("ready index member %q is damaged", member)
	}
	return event.ChannelKey{Org: name, Channel: ch}, nil
}

// checkChannel refuses what cannot be a key.
func checkChannel(org string, ch event.Channel) error {
	if org == "" {
		return fmt.Errorf("no organisation named")
	}
	if !knownChannel(ch) {
		return fmt.Errorf("unknown channel %q", ch)
	}
	return nil
}

// typeCode is a type inside a slot; empty for what is never in one.
func typeCode(t event.Type) string {
	switch t {
	case event.Created:
		return "C"
	case event.Updated:
		return "U"
	case event.Deactivated:
		return "D"
	case event.Deprecated:
		return "P"
	case event.Locked:
		return "L"
	}
	return ""
}

// codeType undoes typeCode.
func codeType(c byte) event.Type {
	switch c {
	case 'C':
		return event.Created
	case 'U':
		return event.Updated
	case 'D':
		return event.Deactivated
	case 'P':
		return event.Deprecated
	case 'L':
		return event.Locked
	}
	return ""
}

// slotState is a slot's text read back; see slotLua for its form. Times are µs
// except where said.
type slotState struct {
	latest, first, created int64
	types                  []event.Type
	generations            []int64
	attempts               int
	firstAttempt           int64 // ms, 0 when none
	token                  string
	claimed                event.Type
	generation             int64 // claimed
}

func parseSlot(text string) (slotState, error) {
	var st slotState
	f := strings.Split(text, ";")
	if len(f) < 2 || len(f) > 13 {
		return st, fmt.Errorf("slot %q is damaged", text)
	}
	f = append(f, make([]string, 13-len(f))...)
	var failed error
	num := func(s string, base int64) int64 {
		if s == "" {
			return base
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil && failed == nil {
			failed = fmt.Errorf("slot %q is damaged: %w", text, err)
		}
		return base + n
	}
	st.latest = num(f[0], 0)
	for rest := f[1]; rest != ""; {
		end := 1
		for end < len(rest) && (rest[end] < 'A' || rest[end] > 'Z') {
			end++
		}
		st.types = append(st.types, codeType(rest[0]))
		st.generations = append(st.generations, num(rest[1:end], st.latest))
		rest = rest[end:]
	}
	st.first = num(f[2], st.latest)
	st.created = num(f[3], st.latest)
	st.attempts = int(num(f[4], 0))
	st.firstAttempt = num(f[5], 0)
	if st.token = f[8]; st.token != "" && f[9] != "" {
		st.claimed = codeType(f[9][0])
		st.generation = num(f[10], st.latest)
	}
	return st, failed
}

func microTime(us int64) time.Time { return time.UnixMicro(us).UTC() }

// milliTime reads a time of a script; -1 and 0 are no time.
func milliTime(ms int64) time.Time {
	if ms <= 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// asMillis writes a due time, rounded up so that nothing comes due early.
func asMillis(t time.Time) int64 {
	ms := t.UnixMilli()
	if t.After(time.UnixMilli(ms)) {
		ms++
	}
	return ms
}

// one runs a single call in the partition of an organisation.
func (s *Store) one(ctx context.Context, doing, org string, c *call) error {
	if err := s.do(ctx, c); err != nil {
		return fmt.Errorf("%s of %s: %w", doing, org, err)
	}
	return nil
}

// userField is slotField for an optional user.
func userField(id orcid.ID) string {
	if id.IsZero() {
		return ""
	}
	return slotField(id)
}

func orDefault(n, otherwise int) int {
	if n <= 0 {
		return otherwise
	}
	return n
}
