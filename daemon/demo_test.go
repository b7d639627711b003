package main

import (
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/servicetest"
)

// The demo works without a terminal, ends by itself and its books balance.
func TestDemo(t *testing.T) {
	t.Parallel()
	var out, logged servicetest.Log
	level := new(slog.LevelVar)
	log := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: level}))
	if err := demo(t.Context(), demoOptions{For: 12 * time.Second, Users: 80, Speed: 60, Out: &out}, log, level); err != nil {
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
