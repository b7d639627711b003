package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/mail"
	"strings"
	"time"

	"dispatchd/internal/org"
	"dispatchd/internal/secret"
	"dispatchd/internal/signed"
	"dispatchd/internal/store"
)

// How organisations' people sign in: a link is mailed to a technical contact, or
// printed by an operator; it works once and for linkLife, and makes a session.
const (
	linkLife    = 15 * time.Minute
	sessionLife = 12 * time.Hour

	// Within linkWindow one client may ask for so many links, so many are mailed
	// to one address, and for so many is noted that somebody asked. The window is
	// no longer than a link works: whoever uses up somebody else's mails leaves
	// links that work in her mailbox, so that nobody can be kept from signing in.
	linkWindow     = linkLife
	linksByClient  = 20
	linksByAddress = 3
	linksByAll     = 500

	purposeSignIn = "sign-in"
	signInPath    = "/sign-in/"
)

// ErrNotSignedIn says that a session does not exist, has ended, or is of
// somebody who may not see any organisation any more.
var ErrNotSignedIn = errors.New("not signed in")

// Session is somebody who is signed in on the web listener.
type Session struct {
	// Contact is the technical contact's address; empty for who came with an
	// operator's link.
	Contact string
	// Org is the organisation that was chosen; empty when there is a choice that
	// was not made yet.
	Org string
	// Choice are the organisations that this person may see, by id.
	Choice []OrgName
	// Expires is when they have to sign in again.
	Expires time.Time
}

// OrgName is an organisation in a list to choose from.
type OrgName struct{ ID, Name string }

// Who names the person in the audit log.
func (s Session) Who() string {
	if s.Contact == "" {
		return "link of " + s.Org
	}
	return s.Contact
}

// storedSession is a session as Redis keeps it. Whom it may see is not kept: it
// is looked up each time, so that who is no contact any more is out at once.
type storedSession struct {
	Contact string `json:"contact,omitempty"`
	Org     string `json:"org,omitempty"`
	Until   int64  `json:"until"` // ms
}

// AskLink mails a sign-in link to an address if it is a technical contact's.
// Whether it is shows nowhere: the answer is made before anybody looks, or is
// the same.
func (s *Service) AskLink(ctx context.Context, by By, address string) error {
	address = strings.TrimSpace(address)
	if a, err := mail.ParseAddress(address); err != nil || a.Address != address || len(address) > maxPerson {
		return invalid("This is not an e-mail address.", errors.New("write it like name@university.example"))
	}
	address = strings.ToLower(address)
	if err := s.limit(ctx, "links by "+by.From, linkWindow, linksByClient); err != nil {
		return err
	}
	switch all, err := s.o.Store.Count(ctx, "links", linkWindow); {
	case err != nil:
		return Explain("count a try", err)
	case all > linksByAll && len(s.contactOf(address)) == 0:
		return nil // a flood fills no memory, and keeps no contact out
	}
	// The answer is the same when it gets no further mail: a stranger must not
	// learn from it that somebody else asked.
	switch mailed, err := s.o.Store.Count(ctx, "links to "+address, linkWindow); {
	case err != nil:
		return Explain("count a try", err)
	case mailed > linksByAddress:
		return nil
	}
	j := newJob(jobLink, "", s.o.Store.Now())
	j.Args = map[string]string{"to": address}
	if err := s.o.Store.SaveJob(ctx, j); err != nil {
		return Explain("note the job", err)
	}
	s.audit(by, "sign-in link asked for", "address", address)
	s.startJob(j)
	return nil
}

// limit refuses what was tried more often than most times within the window.
func (s *Service) limit(ctx context.Context, what string, window time.Duration, most int64) error {
	n, err := s.o.Store.Count(ctx, what, window)
	if err != nil {
		return Explain("count a try", err)
	}
	if n > most {
		return &Error{Code: CodeRateLimited, What: "This was asked for too often.", Do: "Try again in an hour."}
	}
	return nil
}

// linkJob mails the link that AskLink was asked for. The link is made here, not
// kept in the job: whoever lists jobs must not be able to sign in.
func (s *Service) linkJob(ctx context.Context, j *store.Job) error {
	to := j.Args["to"]
	if len(s.contactOf(to)) == 0 {
		s.log.Info("no sign-in link was mailed: the address is no technical contact's", "job", j.ID)
		return nil
	}
	until := j.Created.Add(linkLife)
	return s.mailJob(ctx, j, until, Letter{
		To: to, Subject: "Your link to sign in",
		Paragraphs: []string{
			"Somebody, probably you, asked to sign in to the ORCID notification settings of your organisation.",
			"Open this page and press the button there. The link works once, until " + until.UTC().Format("15:04 MST") + ".",
		},
		Link: s.signInLink("contact "+to, until), LinkText: "Sign in",
		Small: []string{"If it was not you, do nothing: without this link nobody can sign in."},
		ID:    j.ID,
	})
}

// mailJob makes one try to send a letter that is of no use after until.
func (s *Service) mailJob(ctx context.Context, j *store.Job, until time.Time, l Letter) error {
	if s.o.Mailer == nil || !s.o.Store.Now().Before(until) {
		return nil
	}
	err := s.o.Mailer.Mail(ctx, l)
	if err == nil || errors.Is(err, ErrNoMail) {
		return nil
	}
	j.Failed++
	return &errLater{fmt.Errorf("mail a link: %w", err), min(10*time.Second<<min(j.Failed-1, 10), noticeMax)}
}

// contactOf lists the organisations whose technical contact this is.
func (s *Service) contactOf(address string) []OrgName {
	var out []OrgName
	for _, o := range s.o.Directory.All() {
		if address != "" && strings.EqualFold(o.TechnicalContact, address) && s.notRemoving(o.ID) == nil {
			out = append(out, OrgName{o.ID, o.Name})
		}
	}
	return out
}

// signInLink makes a link. The nonce makes each one another, so that two made in
// the same second are used one by one.
func (s *Service) signInLink(subject string, until time.Time) string {
	return s.link(signInPath) + s.o.Signer.Sign(purposeSignIn, secret.NewKey(9).Reveal()+" "+subject, until)
}

// OrgLink makes a link that signs in for one organisation, for an operator to
// hand to somebody.
func (s *Service) OrgLink(_ context.Context, by By, id string) (link string, until time.Time, err error) {
	o, err := s.get(id)
	if err != nil {
		return "", timeZero, err
	}
	if err := s.notRemoving(id); err != nil {
		return "", timeZero, err
	}
	if s.link(signInPath) == "" || s.o.Signer == nil {
		return "", timeZero, &Error{Code: CodeConflict, What: "There are no web pages to sign in to.", Do: "Set web_url."}
	}
	until = s.o.Store.Now().Add(linkLife).UTC().Truncate(time.Second)
	link = s.signInLink("org "+o.ID, until)
	s.audit(by, "sign-in link made", "org", id)
	return link, until, nil
}

// readLink says what a link is for, without using it, and the name under which
// it is used up: its subject, which has a nonce. The token will not do, because
// it can be written in more than one way, with line breaks inside for one.
func (s *Service) readLink(ctx context.Context, token string) (st storedSession, name string, err error) {
	subject, err := s.o.Signer.Verify(purposeSignIn, token, s.o.Store.Now())
	switch {
	case errors.Is(err, signed.ErrExpired):
		return storedSession{}, "", &Error{Code: CodeGone, What: "This link has expired.", Do: "A link works for 15 minutes. Ask for a new one."}
	case err != nil:
		return storedSession{}, "", &Error{
			Code: CodeNotFound, What: "This link is not complete.",
			Do: "Perhaps your mail program broke it into two lines. Copy all of it into the address bar, or ask for a new one.",
		}
	}
	used, err := s.o.Store.Used(ctx, subject)
	if err != nil {
		return storedSession{}, "", Explain("look at the link", err)
	}
	if used {
		return storedSession{}, "", linkUsed()
	}
	_, rest, _ := strings.Cut(subject, " ")
	kind, what, _ := strings.Cut(rest, " ")
	if kind == "org" {
		return storedSession{Org: what}, subject, nil
	}
	return storedSession{Contact: what}, subject, nil
}

func linkUsed() *Error {
	return &Error{Code: CodeGone, What: "This link has been used.", Do: "A link works once. Ask for a new one."}
}

// LookAtLink says whether a sign-in link still works, and uses nothing: mail
// scanners open links.
func (s *Service) LookAtLink(ctx context.Context, token string) error {
	st, _, err := s.readLink(ctx, token)
	if err != nil {
		return err
	}
	_, err = s.sessionOf(st)
	return linkWithout(err)
}

// linkWithout says what a link of nobody is.
func linkWithout(err error) error {
	if errors.Is(err, ErrNotSignedIn) {
		return &Error{Code: CodeGone, What: "This link is for an organisation that is not here any more.", Do: "Ask the operator of this service."}
	}
	return err
}

// SignIn uses a link up and returns the id of a new session.
func (s *Service) SignIn(ctx context.Context, by By, token string) (secret.Text, Session, error) {
	st, name, err := s.readLink(ctx, token)
	if err != nil {
		return "", Session{}, err
	}
	st.Until = s.o.Store.Now().Add(sessionLife).UnixMilli()
	sess, err := s.sessionOf(st)
	if err != nil {
		return "", Session{}, linkWithout(err)
	}
	if len(sess.Choice) == 1 {
		st.Org = sess.Choice[0].ID
		sess.Org = st.Org
	}
	// It is used up before the session is there: of two who press the button one
	// gets in. Remembered a little longer than it is valid.
	first, err := s.o.Store.Use(ctx, name, 2*linkLife)
	if err != nil {
		return "", Session{}, Explain("use the link", err)
	}
	if !first {
		return "", Session{}, linkUsed()
	}
	id := secret.NewKey(32)
	if err := s.saveSession(ctx, id, st); err != nil {
		return "", Session{}, err
	}
	by.Who = sess.Who()
	s.audit(by, "signed in", "org", sess.Org)
	return id, sess, nil
}

func (s *Service) saveSession(ctx context.Context, id secret.Text, st storedSession) error {
	raw, err := json.Marshal(st)
	if err != nil {
		return Explain("write the session", err)
	}
	if err := s.o.Store.SaveSession(ctx, id, string(raw), time.UnixMilli(st.Until).Sub(s.o.Store.Now())); err != nil {
		return Explain("save the session", err)
	}
	return nil
}

// Session returns who is signed in. It fails with ErrNotSignedIn.
func (s *Service) Session(ctx context.Context, id secret.Text) (Session, error) {
	st, err := s.loadSession(ctx, id)
	if err != nil {
		return Session{}, err
	}
	return s.sessionOf(st)
}

func (s *Service) loadSession(ctx context.Context, id secret.Text) (storedSession, error) {
	if !id.IsSet() {
		return storedSession{}, ErrNotSignedIn
	}
	raw, err := s.o.Store.Session(ctx, id)
	if err != nil {
		return storedSession{}, Explain("read the session", err)
	}
	var st storedSession
	if raw == "" || json.Unmarshal([]byte(raw), &st) != nil || st.Until <= s.o.Store.Now().UnixMilli() {
		return storedSession{}, ErrNotSignedIn
	}
	return st, nil
}

// sessionOf looks up what a session may see now.
func (s *Service) sessionOf(st storedSession) (Session, error) {
	sess := Session{Contact: st.Contact, Org: st.Org, Expires: time.UnixMilli(st.Until).UTC()}
	if st.Contact == "" {
		var o *org.Organisation
		if o, _ = s.o.Directory.Organisation(st.Org); o == nil || s.notRemoving(st.Org) != nil {
			return Session{}, ErrNotSignedIn
		}
		sess.Choice = []OrgName{{o.ID, o.Name}}
		return sess, nil
	}
	sess.Choice = s.contactOf(st.Contact)
	if len(sess.Choice) == 0 {
		return Session{}, ErrNotSignedIn
	}
	for _, c := range sess.Choice {
		if c.ID == st.Org {
			return sess, nil
		}
	}
	sess.Org = "" // not this one's contact any more: choose again
	return sess, nil
}

// ChooseOrg sets the organisation that a session is for.
func (s *Service) ChooseOrg(ctx context.Context, by By, id secret.Text, orgID string) error {
	st, err := s.loadSession(ctx, id)
	if err != nil {
		return err
	}
	sess, err := s.sessionOf(st)
	if err != nil {
		return err
	}
	for _, c := range sess.Choice {
		if c.ID != orgID {
			continue
		}
		st.Org = orgID
		if err := s.saveSession(ctx, id, st); err != nil {
			return err
		}
		by.Who = sess.Who()
		s.audit(by, "organisation chosen", "org", orgID)
		return nil
	}
	return notFound("There is no such organisation to choose.")
}

// SignOut ends a session; one that has ended already is no error.
func (s *Service) SignOut(ctx context.Context, by By, id secret.Text) error {
	if sess, err := s.Session(ctx, id); err == nil {
		by.Who = sess.Who()
		s.audit(by, "signed out", "org", sess.Org)
	}
	if err := s.o.Store.DropSession(ctx, id); err != nil {
		return Explain("end the session", err)
	}
	return nil
}
