package store

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/secret"
)

// allValues returns everything that lies in the hashes, to look for secrets.
func allValues(t *testing.T, s *Store, keys ...string) string {
	t.Helper()
	var b strings.Builder
	for _, k := range keys {
		m, err := s.rdb.HGetAll(context.Background(), k).Result()
		if err != nil || len(m) == 0 {
			t.Fatalf("%s: %v, %v", k, m, err)
		}
		for f, v := range m {
			b.WriteString(f + "=" + v + "\n")
		}
	}
	return b.String()
}

func TestOrganisationsComeBackAndTheirSecretsAreSealed(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		full := org.Organisation{
			ID: "uni-a", Name: "Ünï A", Credential: "main", TechnicalContact: "it@a.example", Timezone: "Pacific/Auckland",
			Webhook: org.Webhook{
				Enabled: true, URL: "https://a.example/x", AppendORCID: true, APIKey: "hunter-key", SigningSecret: "whsec_hunterNew",
				OldSigningSecret: "whsec_hunterOld", Headers: map[string]string{"Authorization": "Bearer hunter-header", "X-Empty": ""},
				Payload: org.PayloadHub, Events: []event.Type{event.Updated},
			},
			Email: org.Email{Enabled: true, Address: "b@a.example", CC: true, Mode: org.Daily, Monthly: true, MaxPerHour: 7},
			API:   org.API{ClientID: "uni-a", ClientSecret: "hunter-client"}, Owner: org.OwnedByAPI, Concurrency: 3,
			Channels:    map[event.Channel]string{"chat": "https://chat.example/hunter-room", "queue": "amqp://hunter:hunter@q.example"},
			Former:      []org.Former{{Credential: "old", Until: time.Unix(1_794_000_000, 0).UTC()}},
			Suspensions: []org.Suspension{{Channel: event.Webhook, Reason: "410", Since: time.Unix(1_795_000_000, 0).UTC()}},
		}
		plain := org.Organisation{ID: "uni-b", Name: "B", Owner: org.OwnedByFile, Webhook: org.Webhook{Events: []event.Type{}}}
		for _, o := range []org.Organisation{plain, full, full} {
			if err := s.SaveOrganisation(ctx, o); err != nil {
				t.Fatal(err)
			}
		}
		if all := allValues(t, s, s.keys.orgs()); strings.Contains(all, "hunter") {
			t.Errorf("a secret lies in Redis: %s", all)
		}
		for range 2 { // what was read can be saved again and is the same
			list, err := s.Organisations(ctx)
			if err != nil || len(list) != 2 {
				t.Fatalf("%d organisations, %v", len(list), err)
			}
			if !CheckSecret(list[0].API.ClientSecret, "hunter-client") || CheckSecret(list[0].API.ClientSecret, "hunter-cliens") {
				t.Error("the client secret is not the one that was saved")
			}
			if err := s.SaveOrganisation(ctx, list[0]); err != nil {
				t.Fatal(err)
			}
			list[0].API.ClientSecret = full.API.ClientSecret
			if diff := cmp.Diff([]org.Organisation{full, plain}, list); diff != "" {
				t.Error(diff)
			}
		}
		for range 2 {
			if err := s.DeleteOrganisation(ctx, "uni-a"); err != nil {
				t.Fatal(err)
			}
		}
		if list, err := s.Organisations(ctx); err != nil || len(list) != 1 || list[0].ID != "uni-b" {
			t.Errorf("%+v, %v", list, err)
		}
		if err := s.SaveOrganisation(ctx, org.Organisation{ID: "Not an id"}); err == nil {
			t.Error("a bad id was accepted")
		}
	})
}

func TestASealedSecretOfAnotherPlaceOrKeyIsRefused(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		if err := s.SaveOrganisation(ctx, org.Organisation{ID: "uni-a", Webhook: org.Webhook{APIKey: "hunter"}}); err != nil {
			t.Fatal(err)
		}
		raw, err := s.rdb.HGet(ctx, s.keys.orgs(), "uni-a").Result()
		if err != nil {
			t.Fatal(err)
		}
		for name, stored := range map[string]struct {
			text string
			want error
		}{
			"moved to another organisation": {strings.Replace(raw, `"uni-a"`, `"uni-b"`, 1), secret.ErrSealed},
			"under another's field":         {raw, ErrDamaged},
			"not JSON":                      {"{", nil},
		} {
			if err := s.rdb.HSet(ctx, s.keys.orgs(), "uni-b", stored.text).Err(); err != nil {
				t.Fatal(err)
			}
			list, err := s.Organisations(ctx)
			if err == nil || stored.want != nil && !errors.Is(err, stored.want) {
				t.Errorf("%s: %+v, %v, want %v", name, list, err, stored.want)
			} else if strings.Contains(err.Error(), "hunter") || !strings.Contains(err.Error(), "uni-b") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestNumbersStayWithTheirNames(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx, id := context.Background(), orcid.ID{}
		if err := s.SaveOrganisation(ctx, org.Organisation{ID: "uni-a"}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Affiliate(ctx, id, event.Affiliation{Org: "uni-a"}, time.Time{}); err != nil {
			t.Fatal(err)
		}
		if err := s.DeleteOrganisation(ctx, "uni-a"); err != nil {
			t.Fatal(err)
		}
		if err := s.SaveOrganisation(ctx, org.Organisation{ID: "uni-new"}); err != nil {
			t.Fatal(err)
		}
		u, err := s.User(ctx, id)
		if err != nil || u.Affiliations[0].Org != "uni-a" {
			t.Errorf("%+v, %v: the number was given to another", u, err)
		}
	})
}

func TestBasesKeepTheirNumbers(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		bases := []Base{{"https://a.example", "APP-1", "k1"}, {"https://a.example", "APP-1", "k2"}, {"https://a.example", "APP-1\x00k", ""}}
		ids := make([]int, len(bases))
		var done sync.WaitGroup
		for i := range bases {
			for range 4 {
				done.Go(func() {
					if _, err := s.BaseID(ctx, bases[i]); err != nil {
						t.Error(err)
					}
				})
			}
		}
		done.Wait()
		for i, b := range bases {
			var err error
			if ids[i], err = s.BaseID(ctx, b); err != nil || ids[i] < 1 || ids[i] > len(bases) {
				t.Fatal(ids[i], err)
			}
		}
		s.scripts.baseNumbers.cached.Store(nil) // as after a restart
		for i, b := range bases {
			if got, err := s.Base(ctx, ids[i]); err != nil || got != b {
				t.Errorf("base %d is %+v, %v, want %+v", ids[i], got, err, b)
			}
		}
		for _, id := range []int{-1, 0, len(bases) + 1} {
			if got, err := s.Base(ctx, id); !errors.Is(err, errNoName) {
				t.Errorf("base %d is %+v, %v", id, got, err)
			}
		}
	})
}

func TestAPISecretsAreHashed(t *testing.T) {
	t.Parallel()
	random := secret.NewKey(32)
	for name, c := range map[string]struct {
		plain secret.Text
		want  string
	}{
		"made by a machine":     {random, plainHash},
		"chosen by a person":    {"hunter2", slowHash},
		"long, by a person":     {"correct horse battery staple correct horse battery staple", slowHash},
		"long, but one letter":  {secret.Text(strings.Repeat("a", 60)), slowHash},
		"looks like a hash":     {plainHash + "xyz", slowHash},
		"looks like a slow one": {slowHash + "1$$", slowHash},
	} {
		h, err := HashSecret(c.plain)
		if err != nil || !strings.HasPrefix(h.Reveal(), c.want) || strings.Contains(h.Reveal(), c.plain.Reveal()) {
			t.Errorf("%s: %s, %v", name, h.Reveal(), err)
		}
		if again, err := HashSecret(h); err != nil || again != h {
			t.Errorf("%s: a hash was hashed again", name)
		}
		if !CheckSecret(h, c.plain) || CheckSecret(h, c.plain+"x") || CheckSecret(h, h) || CheckSecret(h, "") {
			t.Errorf("%s: the hash checks wrong", name)
		}
	}
	if h, err := HashSecret(""); h != "" || err != nil {
		t.Errorf("nothing hashes to %q, %v", h, err)
	}
	if CheckSecret("", "") || CheckSecret("", "x") || !CheckSecret("file", "file") || CheckSecret("file", "fil") {
		t.Error("a secret of the configuration file checks wrong")
	}
}

func TestJobsAndFactsComeBack(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		j := Job{ID: "2", Kind: "remove", Org: "uni-a", State: JobRunning, Total: 10, Args: map[string]string{"why": "ünï"}}
		for cursor := range 3 {
			j.Cursor, j.Done = strings.Repeat("x", cursor), int64(cursor)
			if err := s.SaveJob(ctx, j); err != nil {
				t.Fatal(err)
			}
		}
		older := Job{ID: "1", State: JobDone, Created: time.Unix(1, 0).UTC()}
		if err := s.SaveJob(ctx, older); err != nil {
			t.Fatal(err)
		}
		list, err := s.Jobs(ctx)
		if err != nil || len(list) != 2 || list[0].ID != "1" {
			t.Fatalf("%+v, %v", list, err)
		}
		if list[1].Created.IsZero() || list[1].Updated.IsZero() {
			t.Errorf("no times: %+v", list[1])
		}
		j.Created, j.Updated = list[1].Created, list[1].Updated
		if diff := cmp.Diff(j, list[1]); diff != "" {
			t.Error(diff)
		}
		for range 2 {
			if err := s.DeleteJob(ctx, "2"); err != nil {
				t.Fatal(err)
			}
		}
		for _, bad := range []Job{{State: JobDone}, {ID: "x"}, {ID: "x", State: "new"}} {
			if err := s.SaveJob(ctx, bad); err == nil {
				t.Errorf("%+v was accepted", bad)
			}
		}
		if list, err := s.Jobs(ctx); err != nil || len(list) != 1 {
			t.Errorf("%+v, %v", list, err)
		}

		for _, want := range []string{"", "yes", "no", ""} {
			if err := s.SetFact(ctx, "paused", want); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Fact(ctx, "paused"); err != nil || got != want {
				t.Errorf("the fact is %q, %v, want %q", got, err, want)
			}
		}
	})
}

func TestTokensAreSealedPerCredentialAndScope(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx, main, other := context.Background(), s.Tokens("main"), s.Tokens("other")
		if got, err := main.LoadToken(ctx, orcid.ScopeWebhook); err != nil || got != (orcid.Token{}) {
			t.Fatalf("%+v, %v", got, err)
		}
		want := map[*Tokens]map[string]orcid.Token{
			main: {
				orcid.ScopeWebhook: {ClientID: "APP-1", Access: "hunter-1", Expires: time.Unix(2_400_000_000, 0).UTC()},
				orcid.ScopeRead:    {ClientID: "APP-1", Access: "hunter-2"},
			},
			other: {orcid.ScopeWebhook: {ClientID: "APP-2", Access: "hunter-3"}},
		}
		for ts, scopes := range want {
			for scope, token := range scopes {
				for range 2 {
					if err := ts.SaveToken(ctx, scope, token); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		for ts, scopes := range want {
			for scope, token := range scopes {
				if got, err := ts.LoadToken(ctx, scope); err != nil || got != token {
					t.Errorf("%s %s: %+v, %v", ts.credential, scope, got, err)
				}
			}
		}
		if all := allValues(t, s, s.keys.tokens()); strings.Contains(all, "hunter") || strings.Contains(all, "APP-") {
			t.Errorf("a token lies in Redis: %s", all)
		}
		moved, err := s.rdb.HGet(ctx, s.keys.tokens(), other.field(orcid.ScopeWebhook)).Result()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.rdb.HSet(ctx, s.keys.tokens(), main.field(orcid.ScopeWebhook), moved).Err(); err != nil {
			t.Fatal(err)
		}
		if got, err := main.LoadToken(ctx, orcid.ScopeWebhook); !errors.Is(err, secret.ErrSealed) {
			t.Errorf("%+v, %v, want ErrSealed", got, err)
		}
	})
}
