package store

import (
	"context"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/secret"
)

func TestAPITokensAreTheOrganisationsUntilTheyEnd(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		now := time.Date(2026, 11, 26, 1, 2, 3, 0, time.UTC)
		s.nowFunc = func() time.Time { return now }
		owner := func(token secret.Text) string {
			t.Helper()
			o, err := s.APITokenOrg(ctx, token)
			if err != nil {
				t.Fatal(err)
			}
			return o
		}
		a, err := s.NewAPIToken(ctx, "uni-a", 24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		b, err := s.NewAPIToken(ctx, "uni-b", 24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if owner(a) != "uni-a" || owner(b) != "uni-b" || a == b {
			t.Fatalf("%q %q", owner(a), owner(b))
		}
		// The organisation's name in front is no key: with another's it opens nothing.
		for _, forged := range []secret.Text{
			"", "uni-a", "uni-a.", ".", "uni-b" + a[len("uni-a"):], a + "x", a[:len(a)-1], secret.Text(strings.ToUpper(a.Reveal())),
			"uni-a." + secret.NewKey(32), "*." + secret.NewKey(32), secret.Text(strings.Repeat("a", 1<<16)),
		} {
			if o := owner(forged); o != "" {
				t.Errorf("a forged token is taken for %s's", o)
			}
		}
		raw, err := s.rdb.ZRange(ctx, s.keys.apiTokens(orgPartition("uni-a"), "uni-a"), 0, -1).Result()
		if err != nil || len(raw) != 1 || strings.Contains(a.Reveal(), raw[0]) || strings.Contains(raw[0], a.Reveal()[len("uni-a."):]) {
			t.Errorf("kept: %v, %v", raw, err)
		}
		now = now.Add(24*time.Hour - time.Millisecond)
		if owner(a) != "uni-a" {
			t.Error("it ended too early")
		}
		now = now.Add(time.Millisecond)
		if owner(a) != "" {
			t.Error("it did not end")
		}
		c, err := s.NewAPIToken(ctx, "uni-a", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if n := s.rdb.ZCard(ctx, s.keys.apiTokens(orgPartition("uni-a"), "uni-a")).Val(); n != 1 {
			t.Errorf("%d tokens are kept, one has ended", n)
		}
		if err := s.DropAPITokens(ctx, "uni-a"); err != nil {
			t.Fatal(err)
		}
		if owner(c) != "" {
			t.Error("it was dropped")
		}
	})
}

func TestAPITokensAreBoundedAndLeaveWithTheOrganisation(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		var first, last secret.Text
		for i := range maxAPITokens + 2 {
			token, err := s.NewAPIToken(ctx, "uni-a", time.Hour+time.Duration(i)*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				first = token
			}
			last = token
		}
		if o, err := s.APITokenOrg(ctx, first); err != nil || o != "" {
			t.Errorf("the oldest is still there: %q %v", o, err)
		}
		if o, err := s.APITokenOrg(ctx, last); err != nil || o != "uni-a" {
			t.Errorf("the newest: %q %v", o, err)
		}
		key := s.keys.apiTokens(orgPartition("uni-a"), "uni-a")
		if n := s.rdb.ZCard(ctx, key).Val(); n != maxAPITokens {
			t.Errorf("%d tokens are kept", n)
		}
		if err := s.DropOrganisation(ctx, "uni-a"); err != nil {
			t.Fatal(err)
		}
		if n := s.rdb.Exists(ctx, key).Val(); n != 0 {
			t.Error("the tokens stay")
		}
	})
}
