package service

import (
	"errors"
	"strings"
	"testing"

	"dispatchd/internal/org"
	"dispatchd/internal/secret"
)

// The signing secret that the configuration file names is the file's: it is
// rotated there, and the one before signs too until the next time.
func TestTheFilesSigningSecretIsRotatedInTheFile(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()
	one, two, three := newSigningSecret(), newSigningSecret(), newSigningSecret()
	apply := func(s secret.Text) {
		t.Helper()
		o := defaults("uni-f")
		o.Name, o.Credential, o.TechnicalContact = "University F", "main", "it@f.example"
		o.Webhook.Enabled, o.Webhook.URL, o.Webhook.SigningSecret = true, "https://f.example/orcid", s
		if _, err := b.svc.ApplyFile(ctx, tester, []org.Organisation{o}); err != nil {
			t.Fatal(err)
		}
	}
	signs := func(now, before secret.Text) {
		t.Helper()
		o, err := b.svc.get("uni-f")
		if err != nil {
			t.Fatal(err)
		}
		kept, err := b.store.Organisations(ctx) // what a restart would see
		if err != nil || len(kept) != 1 {
			t.Fatalf("%d organisations, %v", len(kept), err)
		}
		for where, w := range map[string]org.Webhook{"now": o.Webhook, "in Redis": kept[0].Webhook} {
			if w.SigningSecret != now || w.OldSigningSecret != before {
				t.Errorf("%s: it does not sign with what it should", where)
			}
		}
	}
	apply(one)
	signs(one, "")
	_, err := b.svc.RotateSecret(ctx, tester, "uni-f")
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeReadOnly || !strings.Contains(e.Do, "reload") {
		t.Errorf("rotating the file's secret: %v", err)
	}
	signs(one, "")
	apply(one)
	signs(one, "")
	apply(two)
	signs(two, one)
	apply(two)
	signs(two, one)
	apply(three)
	signs(three, two)

	// Without a word of it in the file, the last one stays and is rotated here.
	apply("")
	signs(three, two)
	four, err := b.svc.RotateSecret(ctx, tester, "uni-f")
	if err != nil {
		t.Fatal(err)
	}
	signs(four, three)
	apply("")
	signs(four, three)
}
