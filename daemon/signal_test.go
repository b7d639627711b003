package main

import (
	"os"
	"syscall"
	"testing"
	"time"
)

func TestASignalSentTwiceAtOnceIsOne(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		first, second os.Signal
		after         time.Duration
		same          bool
	}{
		{syscall.SIGTERM, syscall.SIGTERM, time.Millisecond, true}, // timeout(1)
		{syscall.SIGTERM, syscall.SIGTERM, time.Second, false},
		{syscall.SIGINT, syscall.SIGINT, 300 * time.Millisecond, true},
		{syscall.SIGINT, syscall.SIGINT, 2 * time.Second, false},
		{syscall.SIGTERM, syscall.SIGINT, time.Millisecond, false},
	} {
		if got := sameAgain(c.first, c.second, c.after); got != c.same {
			t.Errorf("%v after %v, %s later: %v", c.second, c.first, c.after, got)
		}
	}
}
