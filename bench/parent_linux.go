package main

import (
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dieWithParent makes a child end when the bench ends, however it ends.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// pace calls tick with 0, 1, 2 … at the times that the rate gives, until n
// calls or stop says so, from a thread of its own: the runtime's timers may be
// a millisecond late, which is what is to be measured.
func pace(start time.Time, rate float64, n int, tick func(i int, due int64) (stop bool)) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // later by 50 µs without it
	for i := range n {
		due := intended(i, rate)
		if wait := due - int64(time.Since(start)); wait > 0 {
			ts := unix.NsecToTimespec(wait)
			_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &ts, nil) // woken early is early
		}
		if tick(i, due) {
			return
		}
	}
}
