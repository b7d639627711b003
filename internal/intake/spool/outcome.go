package spool

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
)

var (
	errAppendTimeout = errors.New("append to the intake log timed out")
	errWriteTimeout  = errors.New("the disk did not finish in time")
)

// OutcomeUnknown reports whether an append that failed with err may have
// happened all the same: the request was perhaps sent, and no answer came. A
// refusal by Redis and a connection that was never made are known outcomes.
func OutcomeUnknown(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return false
	}
	var nerr net.Error
	if errors.As(err, &nerr) && nerr.Timeout() {
		return true
	}
	for _, e := range []error{
		context.DeadlineExceeded, context.Canceled, errAppendTimeout, io.EOF, io.ErrUnexpectedEOF,
		net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
