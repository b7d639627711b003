package hub

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// testdata/export was made with export.sql on PostgreSQL 15 by the Hub's tables,
// and has lines added that no database should hold.
func TestReadExport(t *testing.T) {
	t.Parallel()
	e, err := ReadExport("testdata/export", map[string]string{"APP-BBBBBBBBBBBBBBBB": "second"})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, o := range e.Organisations {
		ids = append(ids, o.ID)
	}
	if want := []string{"the-university-of-akoranga-uni-a", "institute-b", "institute-b-hub-3", "organisation-5"}; !slices.Equal(ids, want) {
		t.Errorf("organisations %q, want %q", ids, want)
	}
	a := e.Organisations[0]
	if a.Credential != a.ID || !a.WebhookEnabled || !a.AppendORCID || a.APIKey.Reveal() != `key"with,comma` || !a.EmailEnabled ||
		a.EmailAddress != "research@uni-a.example" || a.Contact != "it@uni-a.example" || a.APIClientID != "hub-client" || a.APIClientSecret.Reveal() != "hub-client-secret" {
		t.Errorf("the first organisation is %+v", a)
	}
	if len(a.Users) != 2 || a.Users[0].Email != "again@uni-a.example" || a.Users[0].EPPN != "" || a.Users[1].Name != "Hine Pōtiki" {
		t.Errorf("its users are %+v", a.Users)
	}
	if b := e.Organisations[1]; b.WebhookEnabled || b.Credential != "second" || len(b.Users) != 1 {
		t.Errorf("the second organisation is %+v", b)
	}
	if c := e.Organisations[2]; c.Credential != a.ID || !c.EmailEnabled || len(c.Users) != 1 {
		t.Errorf("the third organisation is %+v", c)
	}
	if len(e.Credentials) != 2 || len(e.Legacy) != 2 || e.Legacy[0].UserID != 1 || e.Legacy[1].UserID != 4 {
		t.Errorf("credentials %+v, callbacks %+v", e.Credentials, e.Legacy)
	}
	notes := strings.Join(e.Notes, "\n")
	for _, want := range []string{
		"organisations.csv:3: institute-b has the webhook enabled without a URL", "organisations.csv:5: id is no number",
		`organisations.csv:6: has no name; it is called "Organisation 5"`, "organisations.csv:7: has 2 fields",
		`clients.csv:3: the-university-of-akoranga-uni-a has a second API client, "second"`, "clients.csv:4: the API client of institute-b",
		"users.csv:4: user 3: ", "users.csv:7: id is no number", "memberships.csv:6: 0000-0002-1825-0097 is a user of the-university-of-akoranga-uni-a twice, as 1 and 4",
		`memberships.csv:8: there is no organisation "77"`, "users.csv:6: the Hub's callback of user 5 cannot be taken over",
	} {
		if !strings.Contains(notes, want) {
			t.Errorf("no note %q in:\n%s", want, notes)
		}
	}
	if e.Bad != 7 || len(e.Notes) != 11 {
		t.Errorf("%d notes, %d of them bad:\n%s", len(e.Notes), e.Bad, notes)
	}
	for _, s := range []string{"secret-a", "hub-client-secret", "with,comma"} {
		if strings.Contains(notes, s) {
			t.Errorf("a note shows the secret %q", s)
		}
	}
	if got := string(a.CSV()); !strings.HasPrefix(got, "orcid,email,eppn,name\n0000-0002-1825-0097,again@uni-a.example,,Josiah Carberry\n") {
		t.Errorf("its list is %q", got)
	}
}

func TestWriteConfigOverwritesNothing(t *testing.T) {
	t.Parallel()
	e, err := ReadExport("testdata/export", nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "cfg")
	if err := e.WriteConfig(dir); err != nil {
		t.Fatal(err)
	}
	m, err := ReadMap(filepath.Join(dir, LegacyFile), []string{"the-university-of-akoranga-uni-a", "institute-b"})
	if err != nil || len(m.Rows) != 2 || len(m.Skipped) != 0 {
		t.Errorf("the map is %+v, %v", m, err)
	}
	pass, err := os.ReadFile(filepath.Join(dir, "institute-b.secret"))
	if err != nil || string(pass) != "secret-b\n" {
		t.Errorf("the secret is %q, %v", pass, err)
	}
	if st, err := os.Stat(filepath.Join(dir, "institute-b.secret")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v, %v", st.Mode(), err)
	}
	if err := os.Remove(filepath.Join(dir, LegacyFile)); err != nil {
		t.Fatal(err)
	}
	if err := e.WriteConfig(dir); err == nil || !strings.Contains(err.Error(), "nothing was written") {
		t.Errorf("written over: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, LegacyFile)); err == nil {
		t.Error("half of it was written")
	}
}

func TestAnExportThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := ReadExport(t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), "organisations.csv") {
		t.Errorf("an empty directory: %v", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "organisations.csv"), []byte("id,name\n1,A\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadExport(dir, nil); err == nil || !strings.Contains(err.Error(), "there is no column orcid_client_id") {
		t.Errorf("missing columns: %v", err)
	}
}

// Every \copy of the script makes a file with the columns that are read.
func TestTheScriptMakesWhatIsRead(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"organisations.csv", "clients.csv", "users.csv", "memberships.csv"} {
		raw, err := os.ReadFile(filepath.Join("testdata", "export", file))
		if err != nil {
			t.Fatal(err)
		}
		header, _, _ := strings.Cut(string(raw), "\n")
		i := strings.Index(SQL, "TO '"+file+"'")
		if i < 0 {
			t.Errorf("the script makes no %s", file)
			continue
		}
		line := SQL[strings.LastIndex(SQL[:i], "\n")+1 : i]
		if !strings.HasPrefix(line, `\copy (SELECT `) {
			t.Errorf("not in one line: %s", line)
		}
		at := 0
		for _, column := range strings.Split(header, ",") {
			n := strings.Index(line[at:], column)
			if n < 0 {
				t.Errorf("%s: the script does not select %s in this place", file, column)
				continue
			}
			at += n
		}
	}
}

func TestSlug(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"University of Otago": "university-of-otago", "  Te Wānanga o Aotearoa ": "te-wananga-o-aotearoa", "Crown's (NZ) Ltd.": "crowns-nz-ltd",
		"大学": "", "---": "", strings.Repeat("ab ", 40): strings.Repeat("ab-", 21) + "a",
	} {
		if got := slug(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}
