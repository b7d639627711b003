package guest

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/event"
)

// alive is a row that the credential main has at ORCID.
func alive(w *world) {
	w.owner = "main"
	w.row = &event.Guest{Orgs: []string{"uni-a"}, URL: callback, Version: "new", Registration: event.Registration{Credential: "main", Epoch: 1, State: event.RegAlive}}
}

// A row whose credential is gone waits for it, is looked at once an hour, says so
// once, and is dealt with as soon as the credential is back.
func TestARowWaitsForItsCredential(t *testing.T) {
	t.Parallel()
	w, k, dir := newWorld(t)
	var log bytes.Buffer
	k.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	serving(dir, "other")
	alive(w)
	w.off = "main"
	saves := w.saves
	for range 24 * 12 { // a day
		if err := k.runOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.now = w.now.Add(5 * time.Minute)
	}
	if len(w.sent) > 0 || w.row == nil {
		t.Fatalf("sent %v, row %+v", w.sent, w.row)
	}
	if n := w.saves - saves; n < 20 || n > 25 {
		t.Errorf("it was looked at %d times in a day", n)
	}
	if got := k.Stranded(); len(got) != 1 || got[0] != (Stranded{"main", 1, noon}) {
		t.Errorf("it is shown as %+v", got)
	}
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("%d lines in a day:\n%s", n, &log)
	}
	w.off = ""
	if _, err := k.Settle(t.Context(), w.row.ORCID, callback); err != nil {
		t.Fatal(err)
	}
	if want := []string{"delete main", "put other"}; !slices.Equal(w.sent, want) || w.owner != "other" {
		t.Errorf("with the credential back: %v, owner %q", w.sent, w.owner)
	}
	if got := k.Stranded(); len(got) > 0 {
		t.Errorf("still shown: %+v", got)
	}
}

// When its organisation was removed as well, a row ends here: once said, and
// nothing is left of it but what ORCID has.
func TestARowWithoutCredentialEndsWithItsOrganisation(t *testing.T) {
	t.Parallel()
	w, k, dir := newWorld(t)
	var log bytes.Buffer
	k.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	serving(dir, "main")
	alive(w)
	w.off, w.row.Gone = "main", true
	if _, err := k.Settle(context.Background(), w.row.ORCID, callback); err != nil || w.row == nil {
		t.Fatalf("while the organisation is there: %v, %+v", err, w.row)
	}
	dir.Remove("uni-a")
	if _, err := k.Settle(context.Background(), w.row.ORCID, callback); err != nil || w.row != nil {
		t.Fatalf("after it was removed: %v, %+v", err, w.row)
	}
	if len(w.sent) > 0 || w.owner != "main" || len(k.Stranded()) > 0 {
		t.Errorf("sent %v, owner %q, shown %+v", w.sent, w.owner, k.Stranded())
	}
	if !strings.Contains(log.String(), "stay at ORCID") {
		t.Errorf("nobody was told:\n%s", &log)
	}
}
