package service

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dispatchd/internal/redistest"
	"dispatchd/internal/store"
)

// TestNobodyJoinsAnOrganisationThatIsGone: it is removed after somebody who adds
// a user has found it there, and before the user is added.
func TestNobodyJoinsAnOrganisationThatIsGone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		nth int32 // call of the clock: the last before the user is written
		add func(b *testBundle) error
	}{
		"add": {1, func(b *testBundle) error {
			_, err := b.svc.AddUser(context.Background(), tester, "uni-a", person(t, 3), Person{})
			return err
		}},
		"import": {2, func(b *testBundle) error {
			_, err := b.svc.Import(context.Background(), tester, "uni-a", strings.NewReader(listOf(t, 3, 4)), CSV, false, nil)
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var hook atomic.Pointer[func()]
			var left atomic.Int32
			now := func() time.Time {
				if f := hook.Load(); f != nil && left.Add(-1) == 0 {
					hook.Store(nil)
					(*f)()
				}
				return time.Now()
			}
			b := setupOn(t, redistest.Start(t), t.TempDir(), func(o *store.Options) { o.Now = now })
			b.uniA(t)
			ctx, stop := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			gone := func() bool {
				_, there := b.dir.Organisation("uni-a")
				return !there
			}
			remove := func() {
				if err := b.svc.RemoveOrganisation(ctx, tester, "uni-a"); err != nil {
					t.Error(err)
				}
				go func() { ended <- b.svc.Run(ctx) }()
				await(t, "the removal, or that it waits for whoever adds", func() bool {
					free := b.svc.leaving.TryRLock()
					if free {
						b.svc.leaving.RUnlock()
					}
					return !free || gone()
				})
			}
			left.Store(c.nth)
			hook.Store(&remove)
			if err := c.add(b); err != nil && code(err) != CodeConflict {
				t.Error(err)
			}
			if hook.Load() != nil {
				t.Fatal("nothing was removed meanwhile")
			}
			await(t, "the removal", gone)
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if u, err := b.store.User(context.Background(), person(t, 3)); err != nil || u != nil && len(u.Affiliations) > 0 {
				t.Errorf("%+v, %v", u, err)
			}
		})
	}
}
