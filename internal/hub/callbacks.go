package hub

import (
	"bytes"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/orcid"
)

// The path of the Hub's callbacks, around the user id.
const (
	pathHead = "/services/"
	pathTail = "/updated"
)

// CallbackURL is the URL that the Hub registered at ORCID for one of its users.
func CallbackURL(base string, userID int) string {
	return strings.TrimRight(base, "/") + pathHead + strconv.Itoa(userID) + pathTail
}

// Verdict is what a path among the Hub's callbacks is worth.
type Verdict uint8

// The verdicts.
const (
	Unknown Verdict = iota // no callback of the Hub, or none of which we know, or their time is over
	Limited                // a callback that was called too often
	Good
)

// Callbacks answers for the Hub's callback URLs until a set time. Anybody can
// guess them: that is why the time is set. It is safe for concurrent use.
type Callbacks struct {
	Base  string // as it was given
	Until time.Time
	Map   *Map
	path  []byte // of Base, without a slash at the end
}

// NewCallbacks checks base, the Hub's own address such as https://hub.example.
func NewCallbacks(base string, until time.Time, m *Map) (*Callbacks, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("hub.legacy_base_url: %w", err)
	}
	return &Callbacks{Base: base, Until: until, Map: m, path: []byte(strings.TrimRight(u.Path, "/"))}, nil
}

// Find says what a request's path stands for. A Good one counts against the
// callback's limit.
func (c *Callbacks) Find(path []byte, now time.Time) (credential string, id orcid.ID, v Verdict) {
	if !now.Before(c.Until) {
		return "", id, Unknown
	}
	userID, ok := userIDOf(path)
	if !ok {
		// A proxy in front may or may not have taken the base's path off.
		rest, found := bytes.CutPrefix(path, c.path)
		if userID, ok = userIDOf(rest); !found || !ok {
			return "", id, Unknown
		}
	}
	row := c.Map.Find(userID)
	switch {
	case row == nil:
		return "", id, Unknown
	case !row.allow(now):
		return "", id, Limited
	}
	return row.Credential, row.ORCID, Good
}

// userIDOf reads /services/<id>/updated; the id has no zeros in front.
func userIDOf(path []byte) (int, bool) {
	rest, ok := bytes.CutPrefix(path, []byte(pathHead))
	if !ok {
		return 0, false
	}
	text, ok := bytes.CutSuffix(rest, []byte(pathTail))
	if !ok || len(text) == 0 || len(text) > 9 || text[0] == '0' {
		return 0, false
	}
	n := 0
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}
