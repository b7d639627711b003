package admin

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
)

func TestWhoHangsUpOnMetricsIsNoWarning(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l := promLog{slog.New(slog.NewTextHandler(&out, nil))}
	for range 40 { // one for each family
		l.Println("error encoding and sending metric family:", &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE})
	}
	if out.Len() != 0 {
		t.Errorf("said: %s", &out)
	}
	l.Println("error gathering metrics:", errors.New("two metrics of one name"))
	if s := out.String(); strings.Count(s, "\n") != 1 || !strings.Contains(s, "two metrics of one name") {
		t.Errorf("said %q, want one warning", s)
	}
}
