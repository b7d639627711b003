package actors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func id(n uint64) orcid.ID {
	v, err := orcid.FromBase(n)
	if err != nil {
		panic(err)
	}
	return v
}

var errAway = errors.New("redis is away")

// fakeSlots is the store's slots in memory: one mutex, no cleverness.
type fakeSlots struct {
	mu       sync.Mutex
	away     bool
	awayFor  map[string]bool // calls that fail
	channels map[event.ChannelKey]*fakeChannel
	calls    map[string]int
	tokens   int
	finished []finishedSlot
}

type finishedSlot struct {
	event.Delivery
	event.Outcome
	at time.Time
}

type fakeChannel struct {
	slots   map[orcid.ID]*fakeSlot
	holds   map[event.Hold]time.Time
	breaker event.Breaker
	claims  int
}

type fakeSlot struct {
	due      time.Time
	token    string
	attempts int
	first    time.Time
	gen      int64
}

func newSlots() *fakeSlots {
	return &fakeSlots{channels: map[event.ChannelKey]*fakeChannel{}, calls: map[string]int{}, awayFor: map[string]bool{}}
}

func (f *fakeSlots) begin(call string) error {
	f.calls[call]++
	if f.away || f.awayFor[call] {
		return errAway
	}
	return nil
}

func (f *fakeSlots) channel(key event.ChannelKey) *fakeChannel {
	c := f.channels[key]
	if c == nil {
		c = &fakeChannel{slots: map[orcid.ID]*fakeSlot{}, holds: map[event.Hold]time.Time{}}
		f.channels[key] = c
	}
	return c
}

// put opens a slot for each user.
func (f *fakeSlots) put(key event.ChannelKey, due time.Time, ids ...orcid.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range ids {
		f.channel(key).slots[u] = &fakeSlot{due: due, gen: due.UnixMicro()}
	}
}

func (c *fakeChannel) hold() (end time.Time) {
	for _, u := range c.holds {
		if u.After(end) {
			end = u
		}
	}
	return end
}

func (c *fakeChannel) next() (next time.Time) {
	for _, s := range c.slots {
		next = earliest(next, s.due)
	}
	if h := c.hold(); !next.IsZero() && h.After(next) {
		next = h
	}
	return next
}

func (f *fakeSlots) Claim(_ context.Context, o string, ch event.Channel, limit int, lease time.Duration) (event.Claims, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("claim"); err != nil {
		return event.Claims{}, err
	}
	c, now := f.channel(event.ChannelKey{Org: o, Channel: ch}), time.Now()
	c.claims++
	var out event.Claims
	if !c.hold().After(now) {
		ids := slices.SortedFunc(maps.Keys(c.slots), func(a, b orcid.ID) int { return int(a.Base()) - int(b.Base()) })
		for _, u := range ids {
			s := c.slots[u]
			if s.due.After(now) || len(out.Deliveries) == limit {
				continue
			}
			f.tokens++
			s.token, s.due = strconv.Itoa(f.tokens), now.Add(lease)
			if s.first.IsZero() {
				s.first = now
			}
			out.Deliveries = append(out.Deliveries, event.Delivery{
				Org: o, Channel: ch, ORCID: u, Type: event.Updated, Generation: s.gen, Token: s.token,
				Attempt: s.attempts + 1, LeaseEnd: s.due, FirstAttemptAt: s.first,
			})
		}
	}
	out.Next, out.HeldUntil = c.next(), c.hold()
	return out, nil
}

func (f *fakeSlots) Finish(_ context.Context, d event.Delivery, o event.Outcome) (event.Finished, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("finish"); err != nil {
		return event.Finished{}, err
	}
	c := f.channel(event.ChannelKey{Org: d.Org, Channel: d.Channel})
	s := c.slots[d.ORCID]
	if s == nil || s.token != d.Token {
		return event.Finished{Stale: true, Next: c.next()}, nil
	}
	f.finished = append(f.finished, finishedSlot{d, o, time.Now()})
	switch o.Result {
	case event.Delivered, event.Dead, event.Cancelled:
		delete(c.slots, d.ORCID)
	case event.Retry:
		s.attempts++
		s.token, s.due = "", o.RetryAt
	case event.Released:
		s.token, s.due = "", o.RetryAt
	}
	return event.Finished{Next: c.next()}, nil
}

func (f *fakeSlots) SetHold(_ context.Context, o string, ch event.Channel, h event.Hold, until time.Time, _ string) (time.Time, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("hold " + string(h)); err != nil {
		return time.Time{}, err
	}
	c := f.channel(event.ChannelKey{Org: o, Channel: ch})
	c.holds[h] = until
	return c.next(), nil
}

func (f *fakeSlots) SetBreaker(_ context.Context, o string, ch event.Channel, b event.Breaker, until time.Time) (time.Time, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("set breaker"); err != nil {
		return time.Time{}, err
	}
	c := f.channel(event.ChannelKey{Org: o, Channel: ch})
	c.breaker, c.holds[event.HoldBreaker] = b, until
	return c.next(), nil
}

func (f *fakeSlots) Breaker(_ context.Context, o string, ch event.Channel) (event.Breaker, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.begin("breaker")
	return f.channel(event.ChannelKey{Org: o, Channel: ch}).breaker, err
}

func (f *fakeSlots) Ready(_ context.Context, now time.Time, limit int) (keys []event.ChannelKey, next time.Time, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("ready"); err != nil {
		return nil, time.Time{}, err
	}
	for key, c := range f.channels {
		switch at := c.next(); {
		case at.IsZero():
		case at.After(now):
			next = earliest(next, at)
		case len(keys) < limit:
			keys = append(keys, key)
		}
	}
	return keys, next, nil
}

func (f *fakeSlots) count(call string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[call]
}

func (f *fakeSlots) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeSlots) results() map[event.Result]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := map[event.Result]int{}
	for _, x := range f.finished {
		m[x.Result]++
	}
	return m
}

// state returns a channel's breaker and holds, and how many slots are claimed.
func (f *fakeSlots) state(key event.ChannelKey) (b event.Breaker, holds map[event.Hold]time.Time, claimed int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.channel(key)
	for _, s := range c.slots {
		if s.token != "" {
			claimed++
		}
	}
	return c.breaker, maps.Clone(c.holds), claimed
}

func (f *fakeSlots) waiting(key event.ChannelKey) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.channel(key).slots)
}

// fakeUsers is the store's users in memory.
type fakeUsers struct {
	mu        sync.Mutex
	away      bool
	all       map[orcid.ID]event.User
	work      map[orcid.ID]time.Time
	version   int
	announced []string
	saves     int
	onSave    func(event.User) // before it is looked at; without the lock
}

func newUsers() *fakeUsers {
	return &fakeUsers{all: map[orcid.ID]event.User{}, work: map[orcid.ID]time.Time{}}
}

func (f *fakeUsers) setAway(away bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.away = away
}

// affiliate adds users of organisations, with work to do now.
func (f *fakeUsers) affiliate(u orcid.ID, announce bool, orgs ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version++
	r := f.all[u]
	r.ORCID, r.Version = u, strconv.Itoa(f.version)
	r.Affiliations = slices.Clone(r.Affiliations)
	for _, o := range orgs {
		r.Affiliations = append(r.Affiliations, event.Affiliation{Org: o, Announce: announce, Email: "a@" + o + ".example"})
	}
	f.all[u] = r
	f.work[u] = time.Now()
}

// change rewrites a record as somebody else would.
func (f *fakeUsers) change(u orcid.ID, c func(*event.User)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version++
	r := f.all[u]
	r.Affiliations, r.Registrations = slices.Clone(r.Affiliations), slices.Clone(r.Registrations)
	r.ORCID, r.Version = u, strconv.Itoa(f.version)
	c(&r)
	f.all[u], f.work[u] = r, time.Now()
}

func (f *fakeUsers) User(_ context.Context, u orcid.ID) (*event.User, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away {
		return nil, errAway
	}
	if r, ok := f.all[u]; ok {
		return &r, nil
	}
	return nil, nil
}

func (f *fakeUsers) Users(ctx context.Context, ids []orcid.ID) ([]*event.User, error) {
	out := make([]*event.User, len(ids))
	for i, u := range ids {
		var err error
		if out[i], err = f.User(ctx, u); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (f *fakeUsers) SaveUser(_ context.Context, u event.User, work time.Time) (string, error) {
	f.mu.Lock()
	hook := f.onSave
	f.mu.Unlock()
	if hook != nil {
		hook(u)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.saves++
	if f.away {
		return "", errAway
	}
	if f.all[u.ORCID].Version != u.Version {
		return "", fmt.Errorf("save %s: %w", u.ORCID, event.ErrConflict)
	}
	f.version++
	u.Version = strconv.Itoa(f.version)
	f.all[u.ORCID] = u
	if len(u.Affiliations) == 0 && len(u.Registrations) == 0 {
		delete(f.all, u.ORCID)
	}
	if work.IsZero() {
		delete(f.work, u.ORCID)
	} else {
		f.work[u.ORCID] = work
	}
	return u.Version, nil
}

func (f *fakeUsers) DueUsers(_ context.Context, now time.Time, limit int) (ids []orcid.ID, next time.Time, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away {
		return nil, time.Time{}, errAway
	}
	type due struct {
		id orcid.ID
		at time.Time
	}
	var list []due
	for u, at := range f.work {
		if at.After(now) {
			next = earliest(next, at)
		} else {
			list = append(list, due{u, at})
		}
	}
	slices.SortFunc(list, func(a, b due) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return int(a.id.Base()) - int(b.id.Base())
	})
	for _, d := range list[:min(limit, len(list))] {
		ids = append(ids, d.id)
	}
	return ids, next, nil
}

func (f *fakeUsers) Announce(_ context.Context, o string, ids []orcid.ID, _ time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range ids {
		f.announced = append(f.announced, o+" "+u.String())
	}
	return nil
}

// record returns a copy of a record and when its work is due.
func (f *fakeUsers) record(u orcid.ID) (event.User, time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all[u], f.work[u]
}

// sizes returns how many records there are, and how many have work.
func (f *fakeUsers) sizes() (records, work int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.all), len(f.work)
}

func (f *fakeUsers) told() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.announced)
}

// rows lists the registrations of a user, as text.
func (f *fakeUsers) rows(u orcid.ID) (rows []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.all[u].Registrations {
		rows = append(rows, fmt.Sprintf("%s/%d %s", r.Credential, r.Epoch, r.State))
	}
	return rows
}

func (f *fakeUsers) countState(s event.RegState) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range f.all {
		for _, r := range u.Registrations {
			if r.State == s {
				n++
			}
		}
	}
	return n
}

type fakeDirectory struct {
	mu   sync.RWMutex
	orgs map[string]*org.Organisation
}

func (f *fakeDirectory) Organisation(id string) (*org.Organisation, bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	o, ok := f.orgs[id]
	return o, ok
}

func (f *fakeDirectory) set(o org.Organisation) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.orgs[o.ID] = &o
}

// deliverFunc answers deliveries.
type deliverFunc func(ctx context.Context, o *org.Organisation, d event.Delivery, who event.Affiliation) event.Outcome

func (f deliverFunc) Deliver(ctx context.Context, o *org.Organisation, d event.Delivery, who event.Affiliation) event.Outcome {
	return f(ctx, o, d, who)
}

func delivered(context.Context, *org.Organisation, event.Delivery, event.Affiliation) event.Outcome {
	return event.Outcome{Result: event.Delivered, Reached: true}
}

func failing(context.Context, *org.Organisation, event.Delivery, event.Affiliation) event.Outcome {
	return event.Outcome{
		Result: event.Retry, RetryAt: time.Now().Add(time.Second), Reached: true,
		Attempt: event.Attempt{Status: 500, Error: "status 500"},
	}
}

type fakeGuard struct{ err atomic.Pointer[error] }

func (g *fakeGuard) Err() error {
	if e := g.err.Load(); e != nil {
		return *e
	}
	return nil
}

type fakeNotices struct {
	mu   sync.Mutex
	said []string
}

func (f *fakeNotices) say(s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.said = append(f.said, s)
}

func (f *fakeNotices) list() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.said)
}

func (f *fakeNotices) ChannelSuspended(o *org.Organisation, ch event.Channel, reason string) {
	f.say("suspended " + o.ID + " " + string(ch) + ": " + reason)
}

func (f *fakeNotices) ChannelDown(o *org.Organisation, ch event.Channel, _ time.Time, status int, answer string) {
	f.say(fmt.Sprintf("down %s %s: %d %s", o.ID, ch, status, answer))
}

func (f *fakeNotices) ChannelRecovered(o *org.Organisation, ch event.Channel, _ time.Time) {
	f.say("recovered " + o.ID + " " + string(ch))
}

// fakeORCID answers PUT and DELETE and checks that one user's requests come one
// at a time.
type fakeORCID struct {
	mu       sync.Mutex
	took     time.Duration
	reply    func(op string, id orcid.ID, epoch int) (orcid.Answer, error) // nil: success
	requests []request
	flying   map[orcid.ID]bool
	overlaps int
	most     int
}

type request struct {
	op    string
	id    orcid.ID
	epoch int
	at    time.Time
}

func (f *fakeORCID) do(ctx context.Context, op string, u orcid.ID, epoch int, good orcid.Answer) (orcid.Answer, error) {
	f.mu.Lock()
	if f.flying == nil {
		f.flying = map[orcid.ID]bool{}
	}
	if f.flying[u] {
		f.overlaps++
	}
	f.flying[u] = true
	f.most = max(f.most, len(f.flying))
	f.requests = append(f.requests, request{op, u, epoch, time.Now()})
	took, reply := f.took, f.reply
	f.mu.Unlock()
	pause(ctx, took)
	f.mu.Lock()
	delete(f.flying, u)
	f.mu.Unlock()
	if ctx.Err() != nil {
		return orcid.Answer{}, ctx.Err()
	}
	if reply != nil {
		if a, err := reply(op, u, epoch); err != nil || a.Kind != orcid.Unexpected {
			return a, err
		}
	}
	return good, nil
}

func (f *fakeORCID) Put(ctx context.Context, u orcid.ID, epoch, _ int) (orcid.Answer, error) {
	return f.do(ctx, "PUT", u, epoch, orcid.Answer{Kind: orcid.Created, Status: 201})
}

func (f *fakeORCID) Delete(ctx context.Context, u orcid.ID, epoch, _ int) (orcid.Answer, error) {
	return f.do(ctx, "DELETE", u, epoch, orcid.Answer{Kind: orcid.Deleted, Status: 204})
}

func (f *fakeORCID) list() []request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}

func (f *fakeORCID) takes(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.took = d
}

func (f *fakeORCID) answer(reply func(op string, id orcid.ID, epoch int) (orcid.Answer, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reply = reply
}

// logLines keeps messages at Info and above.
type logLines struct {
	mu    sync.Mutex
	lines []string
}

func (l *logLines) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }
func (l *logLines) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l *logLines) WithGroup(string) slog.Handler                    { return l }
func (l *logLines) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, r.Message)
	return nil
}

func (l *logLines) count(message string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.lines {
		if m == message {
			n++
		}
	}
	return n
}

// bundle is a System with everything fake around it.
type bundle struct {
	*testing.T
	sys     *System
	slots   *fakeSlots
	users   *fakeUsers
	dir     *fakeDirectory
	guard   *fakeGuard
	notices *fakeNotices
	orcid   *fakeORCID
	log     *logLines
	panics  int // allowed
}

var hook = event.ChannelKey{Org: "uni-a", Channel: event.Webhook}

func newBundle(t *testing.T) *bundle {
	b := &bundle{
		T: t, slots: newSlots(), users: newUsers(), guard: &fakeGuard{}, notices: &fakeNotices{}, orcid: &fakeORCID{}, log: &logLines{},
		dir: &fakeDirectory{orgs: map[string]*org.Organisation{}},
	}
	b.enable("uni-a", "main")
	return b
}

func (b *bundle) enable(name, credential string) {
	b.dir.set(org.Organisation{ID: name, Name: name, Credential: credential, Webhook: org.Webhook{Enabled: true}})
}

func (b *bundle) start(d Deliverer, change ...func(*Options)) {
	b.Helper()
	o := Options{
		Slots: b.slots, Users: b.users, Directory: b.dir, Deliverer: d, Guard: b.guard, Notices: b.notices, Logger: slog.New(b.log),
		Credentials: []Credential{{Name: "main", BaseID: 1, Registrar: b.orcid}},
	}
	for _, c := range change {
		c(&o)
	}
	sys, err := Start(o)
	if err != nil {
		b.Fatal(err)
	}
	b.sys = sys
}

func (b *bundle) stop() {
	b.Helper()
	if err := b.sys.Stop(b.Context()); err != nil {
		b.Error(err)
	}
	if got := b.sys.Status().Panics; int(got) != b.panics {
		b.Errorf("%d panics, want %d: %v", got, b.panics, b.log.lines)
	}
	b.orcid.mu.Lock()
	defer b.orcid.mu.Unlock()
	if b.orcid.overlaps > 0 {
		b.Errorf("a user's requests overlapped %d times", b.orcid.overlaps)
	}
}

// bubble runs f with a fresh bundle in virtual time.
func bubble(t *testing.T, f func(b *bundle)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		defer time.Sleep(2 * time.Second) // for goroutines of the actor library that only time ends
		defer func() {
			if b.sys != nil {
				b.stop()
			}
		}()
		f(b)
	})
}

// sleep lets virtual time pass and everything that it causes happen.
func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// news opens slots of n users of uni-a, from first on, due now, and hints.
func (b *bundle) news(key event.ChannelKey, first, n int) {
	for i := range n {
		u := id(uint64(first + i))
		b.users.affiliate(u, false, key.Org)
		b.users.change(u, func(r *event.User) {
			r.Registrations = []event.Registration{{Credential: "main", State: event.RegAlive, Epoch: 1, Base: 1}}
		})
		b.slots.put(key, time.Now(), u)
	}
	b.sys.HintChannel(key, time.Time{})
}
