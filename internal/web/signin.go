package web

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"dispatchd/internal/look"
	"dispatchd/internal/peer"
	"dispatchd/internal/secret"
	"dispatchd/internal/service"
)

// cookieName of the session; the prefix makes browsers refuse it when it is not
// ours alone.
func (p *Pages) cookieName() string {
	if p.o.Secure {
		return "__Host-dispatchd"
	}
	return "dispatchd"
}

// cookie carries a session's id; an empty one ends it.
func (p *Pages) cookie(id secret.Text, until time.Time) *http.Cookie {
	c := &http.Cookie{ //nolint:gosec // not Secure only where web_url is plain http: a trial on one machine
		Name: p.cookieName(), Value: id.Reveal(), Path: "/", HttpOnly: true, Secure: p.o.Secure, SameSite: http.SameSiteLaxMode, Expires: until,
	}
	if !id.IsSet() {
		c.MaxAge = -1
	}
	return c
}

func (p *Pages) sessionID(r *http.Request) secret.Text {
	c, err := r.Cookie(p.cookieName())
	if err != nil {
		return ""
	}
	return secret.Text(c.Value)
}

// visit is a request of somebody who is signed in and has chosen.
type visit struct {
	*http.Request
	service.Session
	by service.By
}

// visited answers a request of somebody who is signed in.
type visited func(v visit) (reply, error)

// signedIn lets only those in who are signed in and have chosen an organisation;
// who only looks is sent to where that is done, who sends a form hears that it
// was not taken.
func (p *Pages) signedIn(h visited) handler {
	return func(r *http.Request) (reply, error) {
		s, err := p.o.Service.Session(r.Context(), p.sessionID(r))
		looks := r.Method == http.MethodGet || r.Method == http.MethodHead
		switch {
		case errors.Is(err, service.ErrNotSignedIn) && looks:
			return reply{to: "/sign-in"}, nil
		case err != nil:
			return reply{}, err
		case s.Org == "" && looks:
			return reply{to: "/choose"}, nil
		case s.Org == "":
			return reply{}, service.ErrNotSignedIn
		}
		v := visit{r, s, service.By{Who: s.Who(), From: peer.Of(r)}}
		re, err := h(v)
		if err == nil {
			return re, nil
		}
		a := p.apologise(r, err)
		page := p.page(v, a.what, r.URL.Path)
		page.Data, page.Notices = a.do, nil
		return reply{status: a.status, name: "sorry", page: page}, nil
	}
}

// by says who asks before it is known who that is.
func (p *Pages) by(r *http.Request) service.By {
	return service.By{Who: "visitor", From: peer.Of(r)}
}

func (p *Pages) home(r *http.Request) (reply, error) {
	if _, err := p.o.Service.Session(r.Context(), p.sessionID(r)); err == nil {
		return reply{to: "/settings/webhook"}, nil
	}
	return reply{to: "/sign-in"}, nil
}

// askData is what the page that asks for an address shows.
type askData struct {
	Address, Problem string
	Mail             bool
}

func (p *Pages) askReply(status int, d askData) reply {
	d.Mail = p.o.Mail()
	return reply{status: status, name: "sign-in", page: look.Page{Title: "Sign in", Failed: d.Problem != "", Data: d}}
}

func (p *Pages) askPage(*http.Request) (reply, error) {
	return p.askReply(http.StatusOK, askData{}), nil
}

func (p *Pages) ask(r *http.Request) (reply, error) {
	address := strings.TrimSpace(r.PostForm.Get("address"))
	err := p.o.Service.AskLink(r.Context(), p.by(r), address)
	var e *service.Error
	if errors.As(err, &e) {
		switch e.Code {
		case service.CodeInvalid:
			return p.askReply(http.StatusBadRequest, askData{Address: address, Problem: "Enter an e-mail address, like name@university.example."}), nil
		case service.CodeRateLimited:
			return p.askReply(http.StatusTooManyRequests, askData{Address: address, Problem: "Too many links were asked for from where you are. Use the latest one you got, or try again in a quarter of an hour."}), nil
		}
	}
	if err != nil {
		return reply{}, err
	}
	return reply{name: "asked", page: look.Page{Title: "Look into your mailbox", Data: address}}, nil
}

// linkPage shows a button. Programs that check mails open every link in them,
// so opening one must not use it up.
func (p *Pages) linkPage(r *http.Request) (reply, error) {
	if err := p.o.Service.LookAtLink(r.Context(), r.PathValue("token")); err != nil {
		return reply{}, err
	}
	return reply{name: "link", page: look.Page{Title: "Sign in", Data: r.PathValue("token")}}, nil
}

func (p *Pages) signIn(r *http.Request) (reply, error) {
	id, s, err := p.o.Service.SignIn(r.Context(), p.by(r), r.PathValue("token"))
	if err != nil {
		return reply{}, err
	}
	to := "/settings/webhook"
	if s.Org == "" {
		to = "/choose"
	}
	return reply{to: to, cookie: p.cookie(id, s.Expires)}, nil
}

func (p *Pages) signOut(r *http.Request) (reply, error) {
	if err := p.o.Service.SignOut(r.Context(), p.by(r), p.sessionID(r)); err != nil {
		return reply{}, err
	}
	return reply{to: "/sign-in", cookie: p.cookie("", time.Unix(1, 0))}, nil
}

func (p *Pages) choosePage(r *http.Request) (reply, error) {
	s, err := p.o.Service.Session(r.Context(), p.sessionID(r))
	if errors.Is(err, service.ErrNotSignedIn) {
		return reply{to: "/sign-in"}, nil
	}
	if err != nil {
		return reply{}, err
	}
	return reply{name: "choose", page: look.Page{Title: "Choose an organisation", Who: s.Contact, SignOut: "/sign-out", Data: s}}, nil
}

func (p *Pages) choose(r *http.Request) (reply, error) {
	if err := p.o.Service.ChooseOrg(r.Context(), p.by(r), p.sessionID(r), r.PostForm.Get("org")); err != nil {
		return reply{}, err
	}
	return reply{to: "/settings/webhook"}, nil
}
