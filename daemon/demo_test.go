package main

import (
	"context"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/servicetest"
)

// writerFunc is an io.Writer.
type writerFunc func(b []byte) (int, error)

// Write implements io.Writer.
func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// A demo ends by itself, and says so when that was before it had begun.
func TestADemoHasItsTime(t *testing.T) {
	t.Parallel()
	level := new(slog.LevelVar)
	err := demo(t.Context(), demoOptions{For: time.Nanosecond, Users: 500, Speed: 60, Out: io.Discard}, slog.New(slog.DiscardHandler), level)
	if err == nil || !strings.Contains(err.Error(), "try a longer --for") {
		t.Errorf("a demo of a nanosecond: %v", err)
	}
}

// The demo works without a terminal, and its books balance when it ends.
func TestDemo(t *testing.T) {
	t.Parallel()
	var out, logged servicetest.Log
	ctx, end := context.WithTimeout(t.Context(), patience)
	defer end()
	told := regexp.MustCompile(`registered 80/80 .*institute-mail [1-9]`)
	watched := writerFunc(func(b []byte) (int, error) {
		if told.Match(b) {
			end()
		}
		return out.Write(b)
	})
	level := new(slog.LevelVar)
	log := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: level}))
	if err := demo(ctx, demoOptions{Users: 80, Speed: 60, Out: watched}, log, level); err != nil {
		t.Errorf("the demo: %v\n%s\n%s", err, out.String(), logged.String())
	}
	text := out.String()
	for _, want := range []string{"the books balance", "admin listener", "registered 80/80", "uni-healthy", "institute-mail"} {
		if !strings.Contains(text, want) {
			t.Errorf("the output lacks %q:\n%s", want, text)
		}
	}
	if !regexp.MustCompile(`delivered +[1-9]`).MatchString(text) {
		t.Errorf("nothing was delivered:\n%s", text)
	}
	if strings.Contains(text, "\x1b") {
		t.Error("escape sequences without a terminal")
	}
	for _, s := range []string{text, logged.String()} {
		if strings.Contains(s, "demo-secret") {
			t.Error("the client secret is shown")
		}
	}
	if strings.Contains(logged.String(), "level=ERROR") {
		t.Errorf("the demo logs errors:\n%s", logged.String())
	}
}
