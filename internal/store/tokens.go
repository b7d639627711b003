package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"dispatchd/internal/orcid"
	"dispatchd/internal/secret"
)

// Tokens keeps the access tokens of one credential, sealed. It implements
// orcid.TokenStore.
type Tokens struct {
	s          *Store
	credential string
}

var _ orcid.TokenStore = (*Tokens)(nil)

// Tokens returns the token store of a credential (our name of it).
func (s *Store) Tokens(credential string) *Tokens { return &Tokens{s, credential} }

// storedToken is what is sealed.
type storedToken struct {
	ClientID string `json:"client_id"`
	Access   string `json:"access"`
	Expires  int64  `json:"expires,omitempty"` // seconds; 0 means never
}

// field names a token in the hash, and its use when it is sealed.
func (t *Tokens) field(scope string) string { return "token/" + t.credential + "/" + scope }

// LoadToken returns the token of the scope, or a zero Token when there is none.
func (t *Tokens) LoadToken(ctx context.Context, scope string) (orcid.Token, error) {
	fail := func(err error) (orcid.Token, error) {
		return orcid.Token{}, fmt.Errorf("load the %s token of %s: %w", scope, t.credential, err)
	}
	sealed, err := t.s.hashGet(ctx, t.s.keys.tokens(), t.field(scope))
	if err != nil {
		return fail(err)
	}
	if sealed == "" {
		return orcid.Token{}, nil
	}
	plain, err := t.s.box.Open(t.field(scope), sealed)
	if err != nil {
		return fail(err)
	}
	var v storedToken
	if json.Unmarshal([]byte(plain.Reveal()), &v) != nil { // its own error would show the token
		return fail(ErrDamaged)
	}
	out := orcid.Token{ClientID: v.ClientID, Access: secret.Text(v.Access)}
	if v.Expires != 0 {
		out.Expires = time.Unix(v.Expires, 0).UTC()
	}
	return out, nil
}

// SaveToken replaces the token of the scope.
func (t *Tokens) SaveToken(ctx context.Context, scope string, token orcid.Token) error {
	v := storedToken{ClientID: token.ClientID, Access: token.Access.Reveal()}
	if !token.Expires.IsZero() {
		v.Expires = token.Expires.Unix()
	}
	plain, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("save the %s token of %s: it cannot be written", scope, t.credential)
	}
	sealed := t.s.box.Seal(t.field(scope), secret.Text(plain))
	if err := t.s.do(ctx, t.s.hashCall(t.s.scripts.hashNote, t.s.keys.tokens(), t.field(scope), sealed)); err != nil {
		return fmt.Errorf("save the %s token of %s: %w", scope, t.credential, err)
	}
	return nil
}
