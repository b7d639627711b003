//go:build !linux

package main

import (
	"syscall"
	"time"
)

func dieWithParent() *syscall.SysProcAttr { return nil }

// pace is as good as the runtime's timers here; the bench itself needs Linux.
func pace(start time.Time, rate float64, n int, tick func(i int, due int64) (stop bool)) {
	for i := range n {
		due := intended(i, rate)
		time.Sleep(time.Duration(due) - time.Since(start))
		if tick(i, due) {
			return
		}
	}
}
