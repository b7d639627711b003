package store

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/org"
	"dispatchd/internal/secret"
)

// maxAPITokens is how many access tokens an organisation may hold at once. Some
// clients ask for a new one at every call; beyond it those that end first go.
const maxAPITokens = 1000

type apiTokenScripts struct {
	tokenAdd, tokenEnd, tokensDrop *script
}

func newAPITokenScripts() apiTokenScripts {
	return apiTokenScripts{
		tokenAdd:   newScript("token_add", 0, apiAddBody),
		tokenEnd:   newScript("token_end", allowOOM, tokenEndBody),
		tokensDrop: newScript("tokens_drop", allowOOM, tokensDropBody),
	}
}

// apiAddBody: KEYS mark, tokens; ARGV mark, now (ms), end (ms), hash, how many
// may be kept. Forgets those that have ended.
const apiAddBody = `
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[4])
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - tonumber(ARGV[5]))
return 1
`

// tokenEndBody: KEYS mark, tokens; ARGV mark, hash. Returns when the token ends
// (ms), or nothing.
const tokenEndBody = `return redis.call('ZSCORE', KEYS[2], ARGV[2])`

// tokensDropBody: KEYS mark, tokens; ARGV mark.
const tokensDropBody = `return redis.call('DEL', KEYS[2])`

func (s *Store) apiTokenCall(sc *script, orgID string, args ...any) *call {
	p := orgPartition(orgID)
	return &call{script: sc, mark: s.keys.mark(p), keys: []string{s.keys.apiTokens(p, orgID)}, args: args}
}

// apiTokenHash is what is kept of a token: it has 256 random bits, so nothing
// slower is needed.
func apiTokenHash(token secret.Text) string {
	sum := sha256.Sum256([]byte(token.Reveal()))
	return b64.EncodeToString(sum[:])
}

// NewAPIToken makes an access token of an organisation's API client, good for
// so long. Only its hash is kept.
func (s *Store) NewAPIToken(ctx context.Context, orgID string, good time.Duration) (secret.Text, error) {
	if !org.ValidID(orgID) {
		return "", fmt.Errorf("make an API token: %q is not an organisation's id", orgID)
	}
	token := secret.Text(orgID + "." + secret.NewKey(32).Reveal())
	now := s.Now()
	c := s.apiTokenCall(s.scripts.tokenAdd, orgID, now.UnixMilli(), now.Add(good).UnixMilli(), apiTokenHash(token), maxAPITokens)
	if err := s.do(ctx, c); err != nil {
		return "", fmt.Errorf("make an API token of %s: %w", orgID, err)
	}
	return token, nil
}

// APITokenOrg returns whose access token it is; "" when it is nobody's, or not
// any more.
func (s *Store) APITokenOrg(ctx context.Context, token secret.Text) (string, error) {
	orgID, _, _ := strings.Cut(token.Reveal(), ".")
	if !org.ValidID(orgID) || len(token) > 256 {
		return "", nil
	}
	c := s.apiTokenCall(s.scripts.tokenEnd, orgID, apiTokenHash(token))
	if err := s.do(ctx, c); err != nil {
		return "", fmt.Errorf("look an API token up: %w", err)
	}
	text, ok := c.res.(string)
	if !ok {
		return "", nil
	}
	end, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return "", fmt.Errorf("look an API token up: its end is damaged: %w", err)
	}
	if float64(s.Now().UnixMilli()) >= end {
		return "", nil
	}
	return orgID, nil
}

// DropAPITokens ends every access token of an organisation.
func (s *Store) DropAPITokens(ctx context.Context, orgID string) error {
	if err := s.do(ctx, s.apiTokenCall(s.scripts.tokensDrop, orgID)); err != nil {
		return fmt.Errorf("end the API tokens of %s: %w", orgID, err)
	}
	return nil
}
