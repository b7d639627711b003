package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"dispatchd/internal/event"
)

// maxAttempts bounds how far back the attempt log is paged.
const maxAttempts = 100_000

// AttemptPage is one page of the attempt log of a channel, newest first.
type AttemptPage struct {
	Attempts []event.Attempt `json:"attempts"`
	Next     string          `json:"next,omitempty"` // cursor of the next page
}

// AttemptPage returns a page of the attempt log. The log grows at its head while
// somebody reads, so a cursor names an attempt and not a position.
func (s *Service) AttemptPage(ctx context.Context, orgID string, ch event.Channel, cursor string, n int) (AttemptPage, error) {
	want := n + 1
	if cursor != "" {
		want = maxAttempts
	}
	list, err := s.Attempts(ctx, orgID, ch, want)
	if err != nil {
		return AttemptPage{}, err
	}
	if cursor != "" {
		if list, err = attemptsBehind(list, cursor); err != nil {
			return AttemptPage{}, err
		}
	}
	page := AttemptPage{Attempts: list}
	if len(list) > n {
		page.Attempts, page.Next = list[:n], attemptCursor(list[n-1])
	}
	return page, nil
}

// attemptCursor names an attempt: when it began, its number, its delivery.
func attemptCursor(a event.Attempt) string {
	return fmt.Sprintf("%d.%d.%s", a.Start.UnixNano(), a.Number, a.DeliveryID)
}

// attemptsBehind returns the attempts after the one that the cursor names. When that
// one has left the log, so has everything older: then those that began before.
func attemptsBehind(list []event.Attempt, cursor string) ([]event.Attempt, error) {
	nanos, rest, _ := strings.Cut(cursor, ".")
	start, err := strconv.ParseInt(nanos, 10, 64)
	if err != nil || rest == "" || len(cursor) > 200 {
		return nil, badField("cursor", errors.New("is not the `next` of a page of this list"))
	}
	if i := slices.IndexFunc(list, func(a event.Attempt) bool { return attemptCursor(a) == cursor }); i >= 0 {
		return list[i+1:], nil
	}
	return slices.DeleteFunc(list, func(a event.Attempt) bool { return a.Start.UnixNano() >= start }), nil
}
