package service

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/store"
)

// WaitKind says why deliveries wait.
type WaitKind string

// The kinds of waiting.
const (
	WaitHeld  WaitKind = "held"  // the whole channel is held
	WaitRetry WaitKind = "retry" // an attempt failed, the next one comes
	WaitTurn  WaitKind = "turn"  // due, but others are under way
	WaitQuiet WaitKind = "quiet" // new: more changes of the same researcher may follow
	WaitMail  WaitKind = "mail"  // for the next daily or weekly mail
	WaitLater WaitKind = "later" // behind those that were looked at
)

// Wait is one reason why deliveries of a channel wait, and how many do.
type Wait struct {
	Kind  WaitKind `json:"kind"`
	Count int      `json:"count"`
	// Next is when the first of them goes on; zero: nobody knows.
	Next time.Time `json:"next,omitzero"`
	// Hold is the hold that lasts longest, when Kind is WaitHeld.
	Hold event.Hold `json:"hold,omitempty"`
	// Status and Error are of the attempt that failed, when Kind is WaitRetry and
	// the attempt log still has it.
	Status int    `json:"status,omitempty"`
	Error  string `json:"error,omitempty"`
	// InFlight is how many are under way, when Kind is WaitTurn.
	InFlight int `json:"in_flight,omitempty"`
}

// waits reads why deliveries of a channel wait; nothing when none does.
func (s *Service) waits(ctx context.Context, o *org.Organisation, c Channel) ([]Wait, error) {
	if c.Waiting == 0 {
		return nil, nil
	}
	w, err := s.o.Store.Waiting(ctx, o.ID, c.Channel)
	if err != nil {
		return nil, Explain("read what waits", err)
	}
	var failed []event.Attempt
	if slices.ContainsFunc(w.Later, func(l store.WaitingSlot) bool { return l.Attempts > 0 }) {
		if failed, err = s.o.Store.Attempts(ctx, o.ID, c.Channel, store.WaitingSeen); err != nil {
			return nil, Explain("read the attempts", err)
		}
	}
	return explainWaits(c, w, failed, c.Channel == event.Email && o.Email.Digest()), nil
}

// explainWaits sorts what waits by its reason, in the order in which a person
// wants to know. Attempts are the newest first.
func explainWaits(c Channel, w store.Waiting, attempts []event.Attempt, digest bool) []Wait {
	var out []Wait
	held := longest(c.Holds)
	if held != nil {
		out = append(out, Wait{Kind: WaitHeld, Count: c.Waiting, Next: held.Until, Hold: held.Hold})
	}
	last := make(map[orcid.ID]*event.Attempt)
	for i := range attempts {
		a := &attempts[i]
		if last[a.ORCID] == nil && (a.Result == event.Retry || a.Result == event.Dead) {
			last[a.ORCID] = a
		}
	}
	type reason struct {
		status int
		words  string
	}
	retries := make(map[reason]*Wait)
	fresh := Wait{Kind: WaitQuiet}
	if digest {
		fresh.Kind = WaitMail
	}
	for _, l := range w.Later { // by when they come due
		if l.Attempts == 0 {
			fresh.add(l.Due)
			continue
		}
		var r reason
		if a := last[l.ORCID]; a != nil {
			r = reason{a.Status, a.Error}
		}
		if retries[r] == nil {
			retries[r] = &Wait{Kind: WaitRetry, Status: r.status, Error: r.words}
		}
		retries[r].add(l.Due)
	}
	failed := make([]Wait, 0, len(retries))
	for _, r := range retries {
		failed = append(failed, *r)
	}
	slices.SortFunc(failed, func(a, b Wait) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Status, b.Status), strings.Compare(a.Error, b.Error))
	})
	out = append(out, failed...)
	if held != nil {
		return out // all the others wait for nothing else
	}
	if w.Due > 0 {
		out = append(out, Wait{Kind: WaitTurn, Count: w.Due, InFlight: c.InFlight})
	}
	if fresh.Count > 0 {
		out = append(out, fresh)
	}
	if rest := c.Waiting - w.Due - len(w.Later); rest > 0 && len(w.Later)+c.InFlight >= store.WaitingSeen {
		out = append(out, Wait{Kind: WaitLater, Count: rest})
	}
	return out
}

func (w *Wait) add(due time.Time) {
	if w.Count == 0 {
		w.Next = due
	}
	w.Count++
}

// longest is the hold that ends last; one without end before all.
func longest(holds []HoldView) *HoldView {
	var out *HoldView
	for i := range holds {
		if h := &holds[i]; out == nil || !out.Until.IsZero() && (h.Until.IsZero() || h.Until.After(out.Until)) {
			out = h
		}
	}
	return out
}

// Words says a reason to people. Number and at write numbers and times as the
// reader likes them.
func (w Wait) Words(number func(int) string, at func(time.Time) string) string {
	n, wait, are := number(w.Count), "wait", "are"
	if w.Count == 1 {
		wait, are = "waits", "is"
	}
	next := ""
	if !w.Next.IsZero() {
		next = ", the next at " + at(w.Next)
		if w.Count == 1 {
			next = ", at " + at(w.Next)
		}
	}
	switch w.Kind {
	case WaitHeld:
		return n + " " + wait + ": " + w.holdWords(at) + "."
	case WaitRetry:
		return n + " " + are + " tried again" + next + ", since " + w.failure() + "."
	case WaitTurn:
		if w.InFlight == 0 {
			return n + " " + are + " sent now."
		}
		return fmt.Sprintf("%s %s for the receiver to finish the %s under way.", n, wait, number(w.InFlight))
	case WaitQuiet:
		return n + " " + are + " new and sent shortly" + next + ": several changes at once make one notification."
	case WaitMail:
		return n + " " + wait + " for the next mail, at " + at(w.Next) + "."
	case WaitLater:
		return n + " more " + wait + " behind these."
	}
	return n + " " + wait + "."
}

func (w Wait) holdWords(at func(time.Time) string) string {
	until := ""
	if !w.Next.IsZero() {
		until = " until " + at(w.Next)
	}
	switch w.Hold {
	case event.HoldPause:
		return "somebody has paused the deliveries" + until
	case event.HoldSuspend:
		return "the deliveries were stopped, until somebody resumes them"
	case event.HoldBreaker:
		return "the receiver failed many times in a row and is left alone" + until
	case event.HoldRetryAfter:
		return "the receiver asked to wait" + until
	case event.HoldRate:
		return "as many mails were sent as are wanted in an hour; it goes on at " + at(w.Next)
	case event.HoldDigest:
		return "a mail about several researchers is being sent"
	}
	return "the deliveries are held" + until
}

// failure says what the last attempt met with.
func (w Wait) failure() string {
	words := strings.TrimRight(strings.TrimSpace(w.Error), ".")
	number := strconv.Itoa(w.Status)
	switch {
	case words == "" && w.Status == 0:
		return "an earlier attempt failed"
	case words == "":
		return "the receiver answered " + number
	case w.Status != 0 && !strings.Contains(words, number):
		return "the last attempt failed with status " + number + ": " + words
	case strings.HasPrefix(words, "the receiver "):
		return words
	}
	return "the last attempt failed: " + words
}
