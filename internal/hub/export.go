package hub

import (
	_ "embed" // the script
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/secret"
)

// SQL is the script that makes an export out of the Hub's database.
//
//go:embed export.sql
var SQL string

// Organisation is one organisation of the Hub as dispatchd is to know it.
type Organisation struct {
	Where      string // file:line
	ID         string // the slug of its name
	Name       string
	Credential string // our name of its ORCID client; empty without one
	Contact    string

	WebhookEnabled bool
	WebhookURL     string
	AppendORCID    bool
	APIKey         secret.Text
	EmailEnabled   bool
	EmailAddress   string

	APIClientID     string
	APIClientSecret secret.Text

	Users []User
}

// User is one user of the Hub whose iD can exist.
type User struct {
	Where  string // file:line
	HubID  int
	ORCID  orcid.ID
	Email  string
	EPPN   string
	Name   string
	OrgID  int  // the organisation that last signed the user in
	Hooked bool // the Hub has registered its callback
}

// Credential is one ORCID client of the Hub.
type Credential struct {
	Name     string // ours: the slug of the first organisation that has it
	ClientID string
	Secret   secret.Text
}

// Export is what was read of a directory that export.sql filled.
type Export struct {
	Organisations []Organisation
	Credentials   []Credential
	// Legacy are the callbacks that the Hub registered, by the credential that
	// most likely did.
	Legacy []*Row
	// Notes are lines that were left out or changed, with file and line.
	Notes []string
	// Bad counts those of Notes that a person should look at.
	Bad int
}

// reading is an export while it is read.
type reading struct {
	Export
	dir     string
	names   map[string]string // client id → our name; as the caller wants it
	orgs    map[int]int       // the Hub's id → index of Organisations
	users   map[int]User
	slugs   map[string]bool
	clients map[string]string // client id → our name
}

// orgColumns are those of organisations.csv.
var orgColumns = []string{
	"id", "name", "orcid_client_id", "orcid_secret", "tech_contact_email", "webhook_enabled", "webhook_url",
	"webhook_append_orcid", "webhook_apikey", "email_notifications_enabled", "notification_email",
}

// ReadExport reads the files of a directory. What a line has wrong is noted and
// leaves out that line only. names says what ORCID clients are called; others are
// called after their organisation.
func ReadExport(dir string, names map[string]string) (*Export, error) {
	r := &reading{dir: dir, names: names, orgs: map[int]int{}, users: map[int]User{}, slugs: map[string]bool{}, clients: map[string]string{}}
	for _, file := range []struct {
		name    string
		columns []string
		take    func(where string, rec map[string]string)
	}{
		{"organisations.csv", orgColumns, r.organisation},
		{"clients.csv", []string{"organisation_id", "client_id", "client_secret"}, r.client},
		{"users.csv", []string{"id", "orcid", "email", "eppn", "name", "organisation_id", "webhook_enabled"}, r.user},
		{"memberships.csv", []string{"user_id", "organisation_id"}, r.membership},
	} {
		if err := r.file(file.name, file.columns, file.take); err != nil {
			return nil, err
		}
	}
	r.legacy()
	return &r.Export, nil
}

func (r *reading) file(name string, columns []string, take func(string, map[string]string)) error {
	f, err := os.Open(filepath.Join(r.dir, name))
	if err != nil {
		return fmt.Errorf("open the Hub's export: %w", err)
	}
	defer f.Close()
	t, err := newTable(name, f, columns...)
	if err != nil {
		return err
	}
	for {
		rec, line, err := t.next()
		where := name + ":" + strconv.Itoa(line)
		var parse *csv.ParseError
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &parse), err != nil && line > 0:
			r.bad(where, "%v", err)
		case err != nil:
			return fmt.Errorf("read %s: %w", name, err)
		default:
			take(where, rec)
		}
	}
}

func (r *reading) note(where, format string, args ...any) {
	r.Notes = append(r.Notes, where+": "+fmt.Sprintf(format, args...))
}

func (r *reading) bad(where, format string, args ...any) {
	r.Bad++
	r.note(where, format, args...)
}

// yes reads a boolean of PostgreSQL.
func yes(text string) bool {
	return slices.Contains([]string{"t", "true", "1", "yes"}, strings.ToLower(text))
}

func (r *reading) organisation(where string, rec map[string]string) {
	id, err := strconv.Atoi(rec["id"])
	if err != nil {
		r.bad(where, "id is no number (%q): the organisation is left out", clip(rec["id"]))
		return
	}
	o := Organisation{
		Where: where, Name: rec["name"], Contact: rec["tech_contact_email"],
		WebhookEnabled: yes(rec["webhook_enabled"]), WebhookURL: rec["webhook_url"], AppendORCID: yes(rec["webhook_append_orcid"]),
		APIKey: secret.Text(rec["webhook_apikey"]), EmailEnabled: yes(rec["email_notifications_enabled"]), EmailAddress: rec["notification_email"],
	}
	if o.Name == "" {
		o.Name = "Organisation " + rec["id"]
		r.note(where, "has no name; it is called %q", o.Name)
	}
	o.ID = slug(o.Name)
	if o.ID == "" || r.slugs[o.ID] {
		o.ID = strings.TrimPrefix(clipSlug(o.ID, 50)+"-hub-"+rec["id"], "-")
	}
	r.slugs[o.ID] = true
	if o.WebhookEnabled && o.WebhookURL == "" {
		o.WebhookEnabled = false
		r.note(where, "%s has the webhook enabled without a URL, so the Hub never used it: it is not enabled", o.ID)
	}
	if clientID := rec["orcid_client_id"]; clientID != "" {
		o.Credential = r.credential(clientID, o.ID, rec["orcid_secret"])
	} else if o.WebhookEnabled || o.EmailEnabled {
		r.note(where, "%s has no ORCID client of its own", o.ID)
	}
	r.orgs[id] = len(r.Organisations)
	r.Organisations = append(r.Organisations, o)
}

// credential returns our name of an ORCID client, and notes a new one.
func (r *reading) credential(clientID, orgID, pass string) string {
	if name, ok := r.clients[clientID]; ok {
		return name
	}
	name, ok := r.names[clientID]
	if !ok {
		name = orgID
	}
	r.clients[clientID] = name
	r.Credentials = append(r.Credentials, Credential{Name: name, ClientID: clientID, Secret: secret.Text(pass)})
	return name
}

// org finds the organisation of the column organisation_id.
func (r *reading) org(where string, rec map[string]string) *Organisation {
	id, err := strconv.Atoi(rec["organisation_id"])
	i, ok := r.orgs[id]
	if err != nil || !ok {
		r.bad(where, "there is no organisation %q: the line is left out", clip(rec["organisation_id"]))
		return nil
	}
	return &r.Organisations[i]
}

func (r *reading) client(where string, rec map[string]string) {
	o := r.org(where, rec)
	switch {
	case o == nil:
	case o.APIClientID != "":
		r.note(where, "%s has a second API client, %q: an organisation has one here, this one is left out", o.ID, clip(rec["client_id"]))
	case rec["client_id"] == "" || rec["client_secret"] == "":
		r.bad(where, "the API client of %s has no id or no secret: it is left out", o.ID)
	default:
		o.APIClientID, o.APIClientSecret = rec["client_id"], secret.Text(rec["client_secret"])
	}
}

func (r *reading) user(where string, rec map[string]string) {
	hubID, err := strconv.Atoi(rec["id"])
	if err != nil || hubID < 1 || hubID > maxUserID {
		r.bad(where, "id is no number from 1 to %d (%q): the user is left out", maxUserID, clip(rec["id"]))
		return
	}
	if rec["orcid"] == "" {
		return // nobody can be told of them
	}
	id, err := orcid.Parse(rec["orcid"])
	if err != nil {
		r.bad(where, "user %d: %v: left out, ORCID has no such record", hubID, err)
		return
	}
	orgID, err := strconv.Atoi(rec["organisation_id"])
	if err != nil {
		orgID = 0
	}
	r.users[hubID] = User{
		Where: where, HubID: hubID, ORCID: id, Email: rec["email"], EPPN: rec["eppn"], Name: rec["name"], OrgID: orgID, Hooked: yes(rec["webhook_enabled"]),
	}
}

func (r *reading) membership(where string, rec map[string]string) {
	o := r.org(where, rec)
	if o == nil {
		return
	}
	hubID, err := strconv.Atoi(rec["user_id"])
	u, ok := r.users[hubID]
	if err != nil || !ok {
		return // noted where the user stands, or without an iD
	}
	if i := slices.IndexFunc(o.Users, func(x User) bool { return x.ORCID == u.ORCID }); i >= 0 {
		r.note(where, "%s is a user of %s twice, as %d and %d: the data of %d counts", u.ORCID, o.ID, o.Users[i].HubID, hubID, hubID)
		o.Users[i] = u
		return
	}
	o.Users = append(o.Users, u)
}

// legacy finds the callbacks that the Hub registered. It chose the credential of
// the organisation that had signed the user in last.
func (r *reading) legacy() {
	for _, u := range r.users {
		if !u.Hooked {
			continue
		}
		i, ok := r.orgs[u.OrgID]
		if !ok || r.Organisations[i].Credential == "" {
			r.bad(u.Where, "the Hub's callback of user %d cannot be taken over: its organisation has no ORCID client", u.HubID)
			continue
		}
		r.Legacy = append(r.Legacy, &Row{UserID: u.HubID, ORCID: u.ORCID, Credential: r.Organisations[i].Credential})
	}
	slices.SortFunc(r.Legacy, func(a, b *Row) int { return a.UserID - b.UserID })
}

// slug makes an organisation's id of its name.
func slug(name string) string {
	var b strings.Builder
	for _, c := range strings.ToLower(name) {
		if plainLetter, ok := letters[c]; ok {
			c = plainLetter
		}
		switch {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
			b.WriteRune(c)
		case c == '\'' || c == '’' || c == 'ʻ':
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	s := clipSlug(b.String(), 64)
	if !org.ValidID(s) {
		return ""
	}
	return s
}

func clipSlug(s string, most int) string { return strings.Trim(s[:min(len(s), most)], "-") }

// letters are those of Māori and of Western Europe without their marks.
var letters = map[rune]rune{
	'ā': 'a', 'ē': 'e', 'ī': 'i', 'ō': 'o', 'ū': 'u', 'à': 'a', 'á': 'a', 'â': 'a', 'ã': 'a', 'ä': 'a', 'å': 'a', 'ç': 'c', 'è': 'e', 'é': 'e',
	'ê': 'e', 'ë': 'e', 'ì': 'i', 'í': 'i', 'î': 'i', 'ï': 'i', 'ñ': 'n', 'ò': 'o', 'ó': 'o', 'ô': 'o', 'õ': 'o', 'ö': 'o', 'ø': 'o', 'ù': 'u',
	'ú': 'u', 'û': 'u', 'ü': 'u', 'ý': 'y',
}
