package actors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
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

// DeliverDigest answers as for its first researcher.
func (f deliverFunc) DeliverDigest(ctx context.Context, o *org.Organisation, d event.Digest, who []event.Affiliation) event.Outcome {
	return f(ctx, o, event.Delivery{
		Org: d.Org, Channel: event.Email, ORCID: d.Items[0].ORCID, Attempt: d.Attempt, Generation: int64(len(d.Items)), Token: d.ID,
	}, who[0])
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
		Slots: b.slots, Mail: b.slots, Users: b.users, Directory: b.dir, Deliverer: d, Guard: b.guard, Notices: b.notices, Logger: slog.New(b.log),
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

// news opens slots of n users of uni-a, from first on, due now, all at once,
// and hints.
func (b *bundle) news(key event.ChannelKey, first, n int) {
	ids := make([]orcid.ID, n)
	for i := range n {
		u := id(uint64(first + i))
		ids[i] = u
		b.users.affiliate(u, false, key.Org)
		b.users.change(u, func(r *event.User) {
			r.Registrations = []event.Registration{{Credential: "main", State: event.RegAlive, Epoch: 1, Base: 1}}
		})
	}
	b.slots.put(key, time.Now(), ids...)
	b.sys.HintChannel(key, time.Time{})
}
