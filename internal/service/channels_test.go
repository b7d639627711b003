package service

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
)

// Where a further channel leads may authorise: it lies in Redis sealed, and a
// daemon that starts anew can read it, with the master key of before.
func TestFurtherChannelsAreSealedAndComeBackAfterARestart(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()
	o := defaults("uni-c")
	o.Name, o.Credential, o.TechnicalContact, o.Owner = "University C", "main", "it@c.example", org.OwnedByFile
	o.Channels = map[event.Channel]string{"chat": "https://chat.example/hunter-room", "queue": "amqp://hunter:hunter@q.example/orcid"}
	if err := b.store.SaveOrganisation(ctx, o); err != nil {
		t.Fatal(err)
	}
	rdb := b.redis.Client(t)
	if err := rdb.ConfigSet(ctx, "rdbcompression", "no").Err(); err != nil { // what is dumped can be searched
		t.Fatal(err)
	}
	read := 0
	for iter := rdb.Scan(ctx, 0, "*", 1000).Iterator(); iter.Next(ctx); {
		raw, err := rdb.Dump(ctx, iter.Val()).Result()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(raw, "hunter") {
			t.Errorf("%s holds where a channel leads", iter.Val())
		}
		if strings.Contains(raw, "University C") {
			read++
		}
	}
	if read == 0 {
		t.Error("the organisation was not seen in Redis")
	}
	again := setupOn(t, b.redis, b.data)
	got, ok := again.dir.Organisation("uni-c")
	if !ok || !maps.Equal(got.Channels, o.Channels) || !got.Enabled("chat") || got.Enabled("other") {
		t.Fatalf("after a restart: %+v", got)
	}
	v, err := again.svc.Organisation(ctx, "uni-c")
	if err != nil {
		t.Fatal(err)
	}
	shown, err := json.Marshal(v)
	if err != nil || strings.Contains(string(shown), "hunter") {
		t.Errorf("shown: %s, %v", shown, err)
	}
}
