package store

import (
	"context"
	"testing"
)

// What a flush did is told to who asked for it, even if its context ended
// meanwhile: a claim whose answer is thrown away lies until its lease ends.
func TestAResultIsPreferredToTheEndOfTheContext(t *testing.T) {
	t.Parallel()
	for range 200 {
		ctx, cancel := context.WithCancel(context.Background())
		m := &merger[int, int]{max: 4, parallel: 1, flush: func(_ context.Context, batch []int) ([]int, []error) {
			cancel()
			return batch, make([]error, len(batch))
		}}
		if r, err := m.Do(ctx, 7); r != 7 || err != nil {
			t.Fatalf("got %d, %v", r, err)
		}
		m.wait()
	}
}
