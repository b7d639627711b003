package service

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"

	"dispatchd/internal/secret"
)

// newSigningSecret makes a secret in the form of Standard Webhooks.
func newSigningSecret() secret.Text {
	b := make([]byte, 32)
	rand.Read(b) // never fails (crypto/rand documentation)
	return secret.Text("whsec_" + base64.StdEncoding.EncodeToString(b))
}

// Secrets returns the secrets of an organisation in the clear; audited.
func (s *Service) Secrets(_ context.Context, by By, id string) (map[string]secret.Text, error) {
	o, err := s.get(id)
	if err != nil {
		return nil, err
	}
	s.audit(by, "showed secrets", "org", id)
	out := map[string]secret.Text{"signing_secret": o.Webhook.SigningSecret}
	if o.Webhook.APIKey.IsSet() {
		out["apikey"] = o.Webhook.APIKey
	}
	if o.Webhook.OldSigningSecret.IsSet() {
		out["old_signing_secret"] = o.Webhook.OldSigningSecret
	}
	return out, nil
}

// RotateSecret makes a new signing secret and returns it, once. The old one
// signs too until the next rotation, so that receivers can change over. One that
// the configuration file names is rotated there.
func (s *Service) RotateSecret(ctx context.Context, by By, id string) (secret.Text, error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	old, err := s.get(id)
	if err != nil {
		return "", err
	}
	if s.named[id] {
		return "", &Error{
			Code: CodeReadOnly, What: fmt.Sprintf("The signing secret of %q is named in the configuration file.", id),
			Do: "Put a new one into that file and run `dispatchd reload`; the old one signs too until the next change.",
		}
	}
	next := clone(old)
	next.Webhook.OldSigningSecret = old.Webhook.SigningSecret
	next.Webhook.SigningSecret = newSigningSecret()
	if err := s.o.Store.SaveOrganisation(ctx, next); err != nil {
		return "", Explain("save the organisation", err)
	}
	s.o.Directory.Put(next)
	s.audit(by, "signing secret rotated", "org", id)
	return next.Webhook.SigningSecret, nil
}
