package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"dispatchd/internal/hub"
	"dispatchd/internal/org"
	"dispatchd/internal/service"
)

type hubCmd struct {
	SQL    hubSQLCmd    `cmd:"" name:"sql" help:"Print the SQL script that exports what is needed of the Hub's database."`
	Config hubConfigCmd `cmd:"" help:"Write the ORCID credentials and the map of the Hub's callbacks for the configuration file."`
	Import hubImportCmd `cmd:"" help:"Make the Hub's organisations and affiliate their users; may be repeated."`
}

type hubSQLCmd struct{}

// Run implements the command.
func (*hubSQLCmd) Run(s *session) error {
	s.printf("%s", hub.SQL)
	return nil
}

// hubExport is the export that a command reads.
type hubExport struct {
	Dir        string            `arg:"" help:"The directory that export.sql filled."`
	Credential map[string]string `help:"What an ORCID client is called in the configuration file. Default: as its organisation." placeholder:"APP-ID=NAME"`
}

func (c *hubExport) read() (*hub.Export, error) { return hub.ReadExport(c.Dir, c.Credential) }

type hubConfigCmd struct {
	hubExport
	Out string `help:"The directory to write into." required:"" placeholder:"DIR"`
}

// Run implements the command.
func (c *hubConfigCmd) Run(s *session) error {
	e, err := c.read()
	if err != nil {
		return err
	}
	s.hubNotes(e.Notes)
	if err := e.WriteConfig(c.Out); err != nil {
		return err
	}
	s.printf("%s and %s of the Hub are written to %s.\n", count(len(e.Credentials), "ORCID credential", "ORCID credentials"),
		count(len(e.Legacy), "callback", "callbacks"), c.Out)
	wrap(s.env.Stdout, "Next: ", "      ", fmt.Sprintf("put %s into the configuration file, the *.secret files beside it, and reload; then `dispatchd hub import %s --dry-run`", hub.CredentialsFile, c.Dir))
	return nil
}

func (s *session) hubNotes(notes []string) {
	for _, n := range notes {
		wrap(s.env.Stdout, "", "  ", n)
	}
	if len(notes) > 0 {
		s.printf("\n")
	}
}

type hubImportCmd struct {
	hubExport
	DryRun bool `help:"Say what would be done and do nothing."`
}

// hubReport is what an import did, or would do.
type hubReport struct {
	DryRun        bool             `json:"dry_run"`
	Organisations []hubReportedOrg `json:"organisations"`
	Notes         []string         `json:"notes"`
	Bad           int              `json:"bad"`
}

type hubReportedOrg struct {
	ID      string   `json:"id"`
	Result  string   `json:"result"` // made, updated, unchanged, failed, read_only
	Changed []string `json:"changed,omitempty"`
	Lines   int      `json:"users"`
	service.ImportReport
}

// Run implements the command.
func (c *hubImportCmd) Run(s *session) error {
	e, err := c.read()
	if err != nil {
		return err
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	defer cl.close()
	report := hubReport{DryRun: c.DryRun, Notes: e.Notes, Bad: e.Bad}
	for i := range e.Organisations {
		one, notes, err := c.organisation(s, cl, &e.Organisations[i])
		if err != nil {
			return err
		}
		report.Organisations = append(report.Organisations, one)
		report.Notes = append(report.Notes, notes...)
		report.Bad += len(notes)
	}
	if s.JSON {
		raw, err := json.Marshal(report)
		if err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
		s.printf("%s\n", raw)
	} else {
		s.showHubReport(report)
	}
	if report.Bad > 0 {
		return ExitCode(exitFail)
	}
	return nil
}

// organisation imports one organisation and its users. What the daemon refuses
// is a note; an error ends the import, which can be repeated.
func (c *hubImportCmd) organisation(s *session, cl *client, o *hub.Organisation) (hubReportedOrg, []string, error) {
	one := hubReportedOrg{ID: o.ID, Lines: len(o.Users)}
	in := hubSettings(o)
	raw, err := cl.do(s.ctx, http.MethodGet, at("organisations", o.ID), nil)
	method := http.MethodPatch
	var failed *apiError
	switch {
	case errors.As(err, &failed) && failed.Status == http.StatusNotFound:
		one.Result, method = "made", http.MethodPut
	case err != nil:
		return one, nil, err
	default:
		var v service.View
		if err := s.decode(raw, &v); err != nil {
			return one, nil, err
		}
		one.Changed = hubChanges(in, v)
		switch {
		case len(one.Changed) == 0:
			one.Result = "unchanged"
		case v.Owner == org.OwnedByFile:
			one.Result = "read_only"
		default:
			one.Result = "updated"
		}
	}
	if c.DryRun {
		return one, nil, nil
	}
	if one.Result == "made" || one.Result == "updated" {
		if _, err := cl.do(s.ctx, method, at("organisations", o.ID), in); err != nil {
			if !errors.As(err, &failed) || failed.Status >= 500 {
				return one, nil, err
			}
			one.Result = "failed"
			return one, []string{o.Where + ": " + o.ID + ": " + refusal(failed)}, nil
		}
	}
	if len(o.Users) == 0 {
		return one, nil, nil
	}
	res, err := cl.send(s.ctx, http.MethodPost, at("organisations", o.ID, "users"), http.Header{"Content-Type": {"text/csv"}, "Accept": {"application/json"}}, bytes.NewReader(o.CSV()))
	if err != nil {
		return one, nil, err
	}
	defer res.Body.Close()
	raw, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	switch {
	case err != nil:
		return one, nil, fmt.Errorf("read the answer: %w", err)
	case res.StatusCode >= 300:
		return one, nil, cl.failed(res, raw)
	}
	if err := s.decode(raw, &one.ImportReport); err != nil {
		return one, nil, err
	}
	var notes []string
	for _, b := range one.BadLines {
		where := o.Where
		if i := b.Line - 2; i >= 0 && i < len(o.Users) { // the header is line 1
			where = o.Users[i].Where
		}
		notes = append(notes, where+": "+b.Why)
	}
	one.BadLines = nil
	return one, notes, nil
}

// refusal is why the daemon did not take settings.
func refusal(e *apiError) string {
	var parts []string
	for _, p := range e.Problems {
		parts = append(parts, p.Key+": "+p.Why)
	}
	if len(parts) == 0 {
		parts = append(parts, strings.TrimSpace(e.Title+" "+e.Detail))
	}
	return strings.Join(parts, "; ")
}

// hubSettings are an organisation's settings as dispatchd writes them. The Hub
// sends its monthly summary to those who have both channels.
func hubSettings(o *hub.Organisation) service.Settings {
	yes, payload, monthly := true, string(org.PayloadHub), o.WebhookEnabled && o.EmailEnabled
	apikey := o.APIKey.Reveal()
	in := service.Settings{
		Name: &o.Name, TechnicalContact: &o.Contact,
		Webhook: &service.WebhookSettings{
			Enabled: &o.WebhookEnabled, URL: &o.WebhookURL, AppendORCID: &o.AppendORCID, APIKey: &apikey, Payload: &payload,
		},
		Email: &service.EmailSettings{Enabled: &o.EmailEnabled, Address: &o.EmailAddress, CC: &yes, Monthly: &monthly},
	}
	if o.Credential != "" {
		in.Credential = &o.Credential
	}
	if o.APIClientID != "" {
		pass := o.APIClientSecret.Reveal()
		in.API = &service.APISettings{ClientID: &o.APIClientID, ClientSecret: &pass}
	}
	return in
}

// hubChanges names what an import would change. Secrets cannot be compared: only
// whether one is set.
func hubChanges(in service.Settings, v service.View) []string {
	var out []string
	add := func(key string, same bool) {
		if !same {
			out = append(out, key)
		}
	}
	add("name", *in.Name == v.Name)
	add("credential", in.Credential == nil || *in.Credential == v.Credential)
	add("technical_contact", *in.TechnicalContact == v.TechnicalContact)
	add("webhook.enabled", *in.Webhook.Enabled == v.Webhook.Enabled)
	add("webhook.url", *in.Webhook.URL == v.Webhook.URL)
	add("webhook.append_orcid", *in.Webhook.AppendORCID == v.Webhook.AppendORCID)
	add("webhook.apikey", (*in.Webhook.APIKey != "") == v.Webhook.APIKeySet)
	add("webhook.payload", *in.Webhook.Payload == string(v.Webhook.Payload))
	add("email.enabled", *in.Email.Enabled == v.Email.Enabled)
	add("email.address", *in.Email.Address == v.Email.Address)
	add("email.cc", *in.Email.CC == v.Email.CC)
	add("email.monthly", *in.Email.Monthly == v.Email.Monthly)
	add("api.client_id", in.API == nil || *in.API.ClientID == v.API.ClientID && v.API.SecretSet)
	return out
}

func (s *session) showHubReport(r hubReport) {
	s.hubNotes(r.Notes)
	const form = "%-30s  %-9s  %8s  %8s  %8s  %5s\n"
	s.printf(form, "ORGANISATION", "RESULT", "USERS", "NEW", "KNOWN", "BAD")
	totals := map[string]int{}
	for _, o := range r.Organisations {
		totals[o.Result]++
		s.printf(form, clip(safe(o.ID), 30), strings.ReplaceAll(o.Result, "_", "-"), number(o.Lines), number(o.Added), number(o.Known), number(o.Bad))
		if len(o.Changed) > 0 {
			wrap(s.env.Stdout, "    ", "    ", strings.Join(o.Changed, ", "))
		}
	}
	word := "made"
	if r.DryRun {
		word = "to be made"
	}
	s.printf("\n%s: %d %s, %d updated, %d unchanged, %d failed, %d owned by the file; %s to look at.\n",
		count(len(r.Organisations), "organisation", "organisations"), totals["made"], word, totals["updated"], totals["unchanged"],
		totals["failed"], totals["read_only"], count(r.Bad, "line", "lines"))
	if r.DryRun {
		s.printf("Nothing was done.\n")
	}
}
