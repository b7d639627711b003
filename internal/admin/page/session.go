package page

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"dispatchd/internal/look"
	"dispatchd/internal/peer"
	"dispatchd/internal/secret"
)

const (
	cookieName  = "dispatchd-operator"
	sessionIdle = time.Hour      // without a request
	sessionMax  = 12 * time.Hour // whatever is done
	maxSessions = 100            // the oldest goes
)

// sessions are those who are signed in. They are kept in memory only: after a
// restart one signs in again. The zero value with a clock is ready.
type sessions struct {
	now  func() time.Time
	mu   sync.Mutex
	list map[[32]byte]session // by the hash of the cookie
}

type session struct {
	token       [32]byte // hash of the admin token it was made with: a new token ends it
	began, seen time.Time
}

func hashOf(t secret.Text) [32]byte { return sha256.Sum256([]byte(t.Reveal())) }

// begin makes a session and returns its cookie's value.
func (s *sessions) begin(token secret.Text) secret.Text {
	value := secret.NewKey(32)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.list == nil {
		s.list = map[[32]byte]session{}
	}
	now := s.now()
	s.sweep(now)
	s.list[hashOf(value)] = session{token: hashOf(token), began: now, seen: now}
	return value
}

// sweep forgets what has ended, and the oldest when there are too many.
func (s *sessions) sweep(now time.Time) {
	var oldest [32]byte
	for key, one := range s.list {
		if one.over(now) {
			delete(s.list, key)
		} else if first, ok := s.list[oldest]; !ok || one.began.Before(first.began) {
			oldest = key
		}
	}
	if len(s.list) >= maxSessions {
		delete(s.list, oldest)
	}
}

func (s session) over(now time.Time) bool {
	return now.Sub(s.seen) > sessionIdle || now.Sub(s.began) > sessionMax
}

// valid reports whether the request has a session under the current token.
func (s *sessions) valid(r *http.Request, token secret.Text) bool {
	c, err := r.Cookie(cookieName)
	if err != nil || !token.IsSet() {
		return false
	}
	key := hashOf(secret.Text(c.Value))
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.list[key]
	now := s.now()
	if !ok || one.over(now) || one.token != hashOf(token) {
		delete(s.list, key)
		return false
	}
	one.seen = now
	s.list[key] = one
	return true
}

func (s *sessions) end(r *http.Request) {
	if c, err := r.Cookie(cookieName); err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.list, hashOf(secret.Text(c.Value)))
	}
}

// cookie is the session's; an empty value takes it away.
func cookie(r *http.Request, value secret.Text) *http.Cookie {
	c := &http.Cookie{ //nolint:gosec // Secure whenever the browser speaks TLS; on loopback it does not
		Name: cookieName, Value: value.Reveal(), Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
		// A proxy in front that does TLS says so.
		Secure: r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https"),
		MaxAge: int(sessionMax / time.Second),
	}
	if value == "" {
		c.MaxAge = -1
	}
	return c
}

type signInData struct {
	To, Problem string
}

func (p *Page) signInForm(w http.ResponseWriter, r *http.Request) {
	to := local(r.URL.Query().Get("to"))
	if p.sessions.valid(r, p.o.Token()) {
		http.Redirect(w, r, to, http.StatusSeeOther) //nolint:gosec // local made it one of ours
		return
	}
	p.render(w, r, http.StatusOK, "signin", look.Page{Title: "Sign in", Data: signInData{To: to}})
}

func (p *Page) signIn(w http.ResponseWriter, r *http.Request) {
	to := local(r.PostFormValue("to"))
	again := func(status int, problem string) {
		p.render(w, r, status, "signin", look.Page{Title: "Sign in", Failed: true, Data: signInData{to, problem}})
	}
	if !p.tries.Allow() {
		again(http.StatusTooManyRequests, "Too many tries. Wait a few seconds.")
		return
	}
	want := p.o.Token()
	a, b := hashOf(want), hashOf(secret.Text(strings.TrimSpace(r.PostFormValue("token"))))
	if subtle.ConstantTimeCompare(a[:], b[:]) != 1 || !want.IsSet() {
		p.log.Warn("a wrong admin token was entered", "from", by(r).From)
		again(http.StatusUnauthorized, "This is not the admin token.")
		return
	}
	peer.Audit(p.log, "operator signed in", by(r).Who, by(r).From)
	http.SetCookie(w, cookie(r, p.sessions.begin(want)))
	http.Redirect(w, r, to, http.StatusSeeOther) //nolint:gosec // local made it one of ours
}

func (p *Page) signOut(w http.ResponseWriter, r *http.Request) error {
	p.sessions.end(r)
	peer.Audit(p.log, "operator signed out", by(r).Who, by(r).From)
	http.SetCookie(w, cookie(r, ""))
	http.Redirect(w, r, "/sign-in", http.StatusSeeOther)
	return nil
}

// local keeps a way back on this page: anything else leads to the overview.
func local(to string) string {
	u, err := url.Parse(to)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") || strings.ContainsAny(to, "\\\r\n") || !Serves(u.Path) {
		return "/"
	}
	return u.RequestURI()
}
