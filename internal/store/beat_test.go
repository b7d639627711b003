package store

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"dispatchd/internal/redistest"
)

// after runs f once when the first command has been answered and its caller
// does not know yet.
type after struct {
	armed bool
	f     func()
}

func (a *after) run() {
	if a.armed {
		a.armed = false
		a.f()
	}
}

func (a *after) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (a *after) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		a.run()
		return err
	}
}

func (a *after) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		a.run()
		return err
	}
}

// TestABeatThatIsReadLateIsNoRollback: the process stood still between a beat
// and the reading of its answer, and another beat came first.
func TestABeatThatIsReadLateIsNoRollback(t *testing.T) {
	t.Parallel()
	ctx, now := context.Background(), time.Now()
	s := attached(t, redistest.Start(t).URL(), func(o *Options) { o.Now = func() time.Time { return now } })
	if err := s.Beat(ctx); err != nil {
		t.Fatal(err)
	}
	hook := &after{armed: true}
	hook.f = func() {
		now = now.Add(time.Hour)
		if err := s.Beat(ctx); err != nil {
			t.Error(err)
		}
	}
	s.rdb.AddHook(hook)
	if err := s.Beat(ctx); err != nil {
		t.Errorf("the beat that was read late: %v", err)
	}
	if hook.armed {
		t.Fatal("no command was made")
	}
	if err := s.Beat(ctx); err != nil {
		t.Errorf("the next beat: %v", err)
	}
}
