package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"dispatchd/internal/event"
	"dispatchd/internal/redistest"
)

// reading is a verb that reads, the script it calls, one of its keys, and an
// answer of its script that is almost right.
type reading struct {
	script **script
	key    string
	odd    []string
	verb   func() error
}

func readings(t *testing.T, s *Store) map[string]reading {
	const o, ch = "uni-a", event.Webhook
	ctx, id, p := t.Context(), testID(t, 7), orgPartition("uni-a")
	key := event.ChannelKey{Org: o, Channel: ch}
	channel := "{'', 0, '', '', '', {}}"
	trace := "{'', '', '', '', {}}"
	return map[string]reading{
		"attempts": {
			&s.scripts.attemptPage, s.keys.attempts(p, o, ch),
			[]string{"{1}", "{{}}", "'x'"},
			func() error { return second(s.Attempts(ctx, o, ch, 1)) },
		},
		"last day": {
			&s.scripts.day, s.keys.tally(p, o, ch),
			[]string{"{{1, 'x'}}", "{{'a'}}", "{1}"},
			func() error { return second(s.LastDay(ctx, o)) },
		},
		"channels": {
			&s.scripts.inspect, s.keys.control(p, o, ch),
			[]string{"{{0, 0, '', '', {1, 2}}}", "{{0, 0, '', ''}}", "{" + channel + "}"},
			func() error { return second(s.Channels(ctx, []event.ChannelKey{key})) },
		},
		"ready": {
			&s.scripts.ready, s.keys.ready(p),
			[]string{"{1}", "{}", "{'0', 'a'}", "{'0', {}, '1'}"},
			func() error { return third(s.Ready(ctx, begin, 1)) },
		},
		"ledger": {
			&s.scripts.audit, s.keys.ledger(p),
			[]string{"{{1, '1'}, {}}", "{{'opened'}, {}}", "{1, 2}"},
			func() error { return second(s.Ledger(ctx, nil)) },
		},
		"lane": {
			&s.scripts.auditLane, s.keys.log(0),
			[]string{"{{}, 1, {'x'}}", "{{}, 1, {{'1-1', {'p'}}}}", "{{}, 1, {{'1-1', {'p', 1}}}}", "{{}, 1, {{'1-1', 'x'}}}"},
			func() error { return second(s.Ledger(ctx, nil)) },
		},
		"session": {
			&s.scripts.briefGet, s.keys.session(briefName("an-id")),
			[]string{"1", "{}"},
			func() error { return second(s.Session(ctx, "an-id")) },
		},
		"dead letters": {
			&s.scripts.deadPage, s.keys.deadAt(p, o, ch),
			[]string{"{'1', 'a', 1}", "{'1'}", "{{}, {}, {}}"},
			func() error { return third(s.DeadLetters(ctx, o, ch, "", 1)) },
		},
		"month": {
			&s.scripts.monthSent, s.keys.monthSent(p, o),
			[]string{"1", "{}"},
			func() error { return second(s.MonthSent(ctx, o)) },
		},
		"retime": {
			&s.scripts.retime, s.keys.slots(p, o, event.Email),
			[]string{"{'1', '0'}", "{1, 0}", "{1, ''}", "{1}", "1"},
			func() error { return second(s.Retime(ctx, o, begin, false)) },
		},
		"traces": {
			&s.scripts.traces, s.keys.slots(p, o, ch),
			[]string{"{{1, '', '', '', {}}, " + trace + "}", "{{'', '', '', '', 'x'}, " + trace + "}", "{{'', '', '', '', {1}}, " + trace + "}", "{{''}, " + trace + "}"},
			func() error { return second(s.Traces(ctx, []string{o}, id)) },
		},
	}
}

// What a real Redis answers, but not as it should, is an error that says so and
// never nothing.
func TestAnUnexpectedAnswerIsAnError(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	s := attached(t, srv.URL())
	rdb := srv.Client(t)
	for name, r := range readings(t, s) {
		right := *r.script
		if err := r.verb(); err != nil {
			t.Errorf("%s of what is not there: %v", name, err)
		}
		for i, answer := range r.odd {
			*r.script = newScript(fmt.Sprintf("odd_%s_%d", strings.ReplaceAll(name, " ", "_"), i), 0, "return "+answer)
			if err := r.verb(); !errors.Is(err, errAnswer) {
				t.Errorf("%s answered with %s: %v", name, answer, err)
			}
		}
		*r.script = right
		// A key of another type, as an operator's hand may leave it.
		kind, err := rdb.Type(t.Context(), r.key).Result()
		if err != nil {
			t.Fatal(err)
		}
		if kind != "none" {
			if err := rdb.Rename(t.Context(), r.key, "aside").Err(); err != nil {
				t.Fatal(err)
			}
		}
		other := func() error { return rdb.Set(t.Context(), r.key, "x", 0).Err() }
		if name == "session" || name == "month" { // these are strings
			other = func() error { return rdb.LPush(t.Context(), r.key, "x").Err() }
		}
		if err := other(); err != nil {
			t.Fatal(err)
		}
		var wrong *WrongType
		if err := r.verb(); !errors.As(err, &wrong) || wrong.Key != r.key {
			t.Errorf("%s of a key of another type: %v", name, err)
		}
		if err := rdb.Del(t.Context(), r.key).Err(); err != nil {
			t.Fatal(err)
		}
		if kind != "none" {
			if err := rdb.Rename(t.Context(), "aside", r.key).Err(); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.verb(); err != nil {
			t.Errorf("%s afterwards: %v", name, err)
		}
	}
}
