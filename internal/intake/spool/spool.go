// Package spool keeps accepted pings on the local disk while Redis is away,
// one for each credential and iD, and drains them into the intake log later.
// Intake puts pings in; a Drainer takes them out. See DESIGN.md beside it.
package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	bolt "go.etcd.io/bbolt"

	"dispatchd/internal/event"
)

// ErrClosed says that the spool was closed.
var ErrClosed = errors.New("spool is closed")

// ErrDamaged says that the file is not a whole spool. The daemon never
// replaces such a file: it may hold pings that were acknowledged.
var ErrDamaged = errors.New("spool file is damaged")

var errMissing = errors.New("the file was removed or exchanged; put it back, or restart dispatchd once no ping waits")

// Options are what a spool needs beside its file.
type Options struct {
	Logger     *slog.Logger          // nil means none
	Registerer prometheus.Registerer // nil means no metrics
}

// Stats are the spool's books. They are written in the transactions that they
// count, and always Received = Waiting + Coalesced + Drained.
type Stats struct {
	Waiting   int64 // keys in the spool now
	Received  int64 // pings ever put
	Coalesced int64 // pings that were merged into one that waited already
	Drained   int64 // pings ever taken out, after they were in the intake log
	// Unsure counts pings that may stand in the intake log once more than they
	// should: an append timed out, and they were appended or spooled again. It
	// is the most that the log's own count can be too high by.
	Unsure int64
	Oldest time.Time // when the longest waiting ping was accepted; zero when none waits
}

// Item is one waiting ping and the sequence number of what was last put for
// its key.
type Item struct {
	Ping     event.Ping
	Sequence uint64
}

// Spool is the open spool. It is safe for concurrent use.
type Spool struct {
	path   string
	file   fs.FileInfo // which one was opened at path
	db     *bolt.DB
	logger *slog.Logger

	ops     chan *op      // to the committer; unbuffered, so that a sent op is a received one
	put     chan struct{} // of one place: something was put, for the Drainer
	stats   atomic.Pointer[Stats]
	broken  atomic.Pointer[error]
	closing chan struct{}
	closed  chan struct{} // the committer has ended
	once    sync.Once
}

// Open opens the spool file at path and creates it when there is none. It
// fails, naming the file and what to do, when the file is damaged (ErrDamaged)
// or another process has it.
func Open(path string, o Options) (*Spool, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Spool{
		path:    path,
		logger:  o.Logger.With("component", "spool"),
		ops:     make(chan *op),
		put:     make(chan struct{}, 1),
		closing: make(chan struct{}),
		closed:  make(chan struct{}),
	}
	db, stats, err := openFile(path)
	if err != nil {
		return nil, err
	}
	s.db = db
	if s.file, err = os.Stat(path); err != nil {
		_ = db.Close() // the other error tells more
		return nil, fmt.Errorf("open spool: %w", err)
	}
	s.stats.Store(&stats)
	if err := register(o.Registerer, s); err != nil {
		_ = db.Close() // the other error tells more
		return nil, err
	}
	if stats.Waiting > 0 {
		s.logger.Info("the spool holds pings", "waiting", stats.Waiting, "oldest", stats.Oldest)
		s.wake()
	}
	go s.commitLoop()
	return s, nil
}

// Close commits what was put before and closes the file. Later calls do nothing.
func (s *Spool) Close() error {
	var err error
	s.once.Do(func() {
		close(s.closing)
		<-s.closed
		if s.broken.Load() != nil {
			return // a broken file may hold its own lock for ever; the process is ending
		}
		if cerr := s.db.Close(); cerr != nil {
			err = fmt.Errorf("close spool %s: %w", s.path, cerr)
		}
	})
	return err
}

// Put stores the pings; when it returns nil they are on the disk. Concurrent
// calls share a transaction. A ping for a key that waits already is merged
// into it: the key keeps its place in the order, takes the later accepted-at
// and a new sequence number. After an error of ctx the pings may be stored or
// not.
func (s *Spool) Put(ctx context.Context, pings []event.Ping) error {
	return s.putPings(ctx, pings, 0)
}

// PutUnsure is Put for pings whose append to the intake log may have happened;
// it counts them as unsure.
func (s *Spool) PutUnsure(ctx context.Context, pings []event.Ping) error {
	return s.putPings(ctx, pings, len(pings))
}

func (s *Spool) putPings(ctx context.Context, pings []event.Ping, unsure int) error {
	for i := range pings {
		if n := len(pings[i].Credential); n == 0 || n > maxCredential {
			return fmt.Errorf("spool a ping: credential name has %d bytes, want 1 to %d", n, maxCredential)
		}
	}
	if len(pings) == 0 {
		return nil
	}
	// The caller may use its slice again when it gives up on ctx.
	if err := s.commit(ctx, &op{pings: slices.Clone(pings), unsure: int64(unsure)}); err != nil {
		return err
	}
	s.wake()
	return nil
}

// Done takes the items out of the spool, after they have reached the intake
// log. A key for which a newer ping was put since Next stays, with the newer
// ping.
func (s *Spool) Done(ctx context.Context, items []Item) error {
	if len(items) == 0 {
		return nil
	}
	return s.commit(ctx, &op{items: slices.Clone(items)})
}

// noteUnsure counts n pings whose append by the Drainer may have happened.
func (s *Spool) noteUnsure(ctx context.Context, n int) error {
	return s.commit(ctx, &op{unsure: int64(n)})
}

// commit hands o to the committer and waits until it is on the disk.
func (s *Spool) commit(ctx context.Context, o *op) error {
	o.done = make(chan error, 1)
	select {
	case s.ops <- o:
	case <-s.closing:
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("write spool %s: %w", s.path, context.Cause(ctx))
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("write spool %s: %w", s.path, context.Cause(ctx))
	}
}

// Next returns at most n waiting pings, the longest waiting first. It takes
// nothing out: until Done, it returns the same again.
func (s *Spool) Next(ctx context.Context, n int) (items []Item, err error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("read spool %s: %w", s.path, context.Cause(ctx))
	}
	if err := s.failed(); err != nil {
		return nil, err
	}
	select {
	case <-s.closing:
		return nil, ErrClosed
	default:
	}
	defer s.guardFault(&err)()
	err = s.db.View(func(tx *bolt.Tx) error {
		b, err := bucketsOf(tx)
		if err != nil {
			return err
		}
		c := b.order.Cursor()
		for at, key := c.First(); at != nil && len(items) < n; at, key = c.Next() {
			item, err := decodeItem(key, b.keys.Get(key))
			if err != nil {
				return err
			}
			items = append(items, item)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read spool %s: %w", s.path, err)
	}
	return items, nil
}

// Stats returns the books as of the last transaction.
func (s *Spool) Stats() Stats { return *s.stats.Load() }

// Len returns how many pings wait.
func (s *Spool) Len() int { return int(s.stats.Load().Waiting) }

func (s *Spool) wake() {
	select {
	case s.put <- struct{}{}:
	default:
	}
}

// missing returns an error when the file is not at its path any more: what is
// put into it then is gone with the process. What it holds can be drained.
func (s *Spool) missing() error {
	now, err := os.Stat(s.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(now, s.file) {
		return errMissing
	}
	return nil // what cannot be looked at may be there
}

// failed returns why the spool does not work any more, or nil.
func (s *Spool) failed() error {
	if p := s.broken.Load(); p != nil {
		return *p
	}
	return nil
}

// guardFault turns what a damaged file does to bbolt (a panic, or a fault of
// the memory map) into an error, and shuts the spool: bbolt may hold its locks
// for ever after a panic. Use: defer s.guardFault(&err)().
func (s *Spool) guardFault(err *error) func() {
	before := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(before)
		if r := recover(); r != nil {
			e := damaged(s.path, fmt.Sprint(r))
			if s.broken.CompareAndSwap(nil, &e) {
				s.logger.Error("the spool does not work any more", "err", e)
			}
			*err = e
		}
	}
}
