package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
	"dispatchd/internal/secret"
)

func splitOrFail(t *testing.T, text string) []secret.Text {
	t.Helper()
	keys, err := splitKeys(text)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// good parses testdata/conf.good.toml, changed by pairs of old and new text.
func good(t *testing.T, changes ...string) *Config {
	t.Helper()
	data, err := os.ReadFile("testdata/conf.good.toml")
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for i := 0; i < len(changes); i += 2 {
		if !strings.Contains(text, changes[i]) {
			t.Fatalf("conf.good.toml has no %q", changes[i])
		}
		text = strings.Replace(text, changes[i], changes[i+1], 1)
	}
	c, err := Parse("config.toml", []byte(text), LoadOptions{Dir: "/etc/dispatchd", ReadFile: testFiles})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestParseFillsEverything(t *testing.T) {
	t.Parallel()
	c := good(t)
	if c.PublicURL != "https://hub.example.edu/orcid" || c.WebURL != "https://hub.example.edu" || c.DataDir != "/etc/dispatchd/state" {
		t.Errorf("%q, %q, %q", c.PublicURL, c.WebURL, c.DataDir)
	}
	if c.Redis.URL != "rediss://redis.example.edu:6380/2" || c.Redis.Username != "app" || c.Redis.Password.Reveal() != "hunter2-inline" {
		t.Errorf("the user was not taken out of the URL: %+v", c.Redis)
	}
	if c.Delivery.Proxy != "http://proxy.example.edu:3128" || c.Delivery.ProxyUsername != "me" || c.Delivery.ProxyPassword.Reveal() != "hunter2-proxy" {
		t.Errorf("the user was not taken out of the proxy: %+v", c.Delivery)
	}
	if c.SMTP.Port != 465 || c.Log.Level != slog.LevelDebug || c.ORCID.Rate != 12.5 || len(c.Delivery.AllowPrivate) != 2 || c.Delivery.Retry[2] != day {
		t.Errorf("%+v %+v %+v %+v", c.SMTP, c.Log, c.ORCID, c.Delivery)
	}
	if c.ORCID.APIURL != "https://api.orcid.org" || c.ORCID.TokenURL != "https://orcid.org/oauth/token" || c.ORCID.SiteURL != "https://orcid.org" {
		t.Errorf("%+v", c.ORCID)
	}
	want := []org.Organisation{{
		ID: "uni-a", Name: "University A", Credential: "main", TechnicalContact: "it@uni-a.example", Timezone: "Pacific/Auckland", Owner: org.OwnedByFile,
		Webhook: org.Webhook{
			Enabled: true, URL: "https://uni-a.example/orcid", APIKey: "hunter2-a.apikey", SigningSecret: testWhsec,
			Headers: map[string]string{"X-Token": "hunter2-header"}, Payload: org.PayloadStandard, Events: []event.Type{event.Created, event.Updated},
		},
		Email: org.Email{Mode: org.Each, Monthly: true, MaxPerHour: 20},
		API:   org.API{ClientID: "uni-a", ClientSecret: "hunter2-a.secret"},
	}, {
		ID: "uni-b", Name: "University B", Credential: "main", TechnicalContact: "it@uni-b.example", Owner: org.OwnedByFile,
		Webhook: org.Webhook{URL: "https://uni-b.example/orcid", Payload: org.PayloadHub, Events: []event.Type{event.Updated}},
		Email:   org.Email{Enabled: true, Mode: org.Weekly, MaxPerHour: 20},
	}}
	if !reflect.DeepEqual(c.Organisations, want) {
		t.Errorf("got  %+v\nwant %+v", c.Organisations, want)
	}
}

func TestShowNamesTheSourceOfEveryKeyAndNoSecret(t *testing.T) {
	t.Parallel()
	c := good(t)
	show := c.Show()
	for _, want := range []string{
		`public_url = "https://hub.example.edu/orcid" +# config.toml:1`,
		`callback_key = \["<secret>"\] +# config.toml:3, from /etc/dispatchd/secrets/callback.key`,
		`url = "rediss://redis.example.edu:6380/2" +# config.toml:7`,
		`password = "<secret>" +# config.toml:7`,
		`timeout = "15s" +# default`,
		`\[orcid.credential.main\]\nclient_id = "APP-1234567890ABCDEF" +# config.toml:12`,
		`client_secret = "<secret>" +# config.toml:13, from /etc/dispatchd/secrets/main.secret`,
		`\[\[organisation\]\]\nid = "uni-a"`,
		`headers = \{ X-Token = "<secret>" \} +# config.toml:35`,
		`\[organisation.webhook\]\nenabled = false +# config.toml:45`,
		`token = "" +# default: made in data_dir at start`,
	} {
		if !regexp.MustCompile(want).MatchString(show) {
			t.Errorf("no %s in:\n%s", want, show)
		}
	}
	// It is TOML, so it can be read by programs.
	var raw map[string]any
	if _, err := toml.Decode(show, &raw); err != nil {
		t.Error(err)
	}
	js, err := json.Marshal(map[string]any{"p": c, "v": *c})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "p", c, "v", *c)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "p", c, "v", *c)
	for name, text := range map[string]string{
		"Show": show, "%v": fmt.Sprintf("%v %v", c, *c), "%+v": fmt.Sprintf("%+v %+v", c, *c), "%#v": fmt.Sprintf("%#v %#v", c, *c),
		"%s": fmt.Sprintf("%s %q", c, *c), "JSON": string(js), "log": log.String(),
		"parts": fmt.Sprintf("%+v %#v %+v %+v %+v %+v", c.Redis, c.Redis, c.ORCID, c.Delivery, c.SMTP, c.Admin),
		"diff":  strings.Join(Diff(good(t), good(t, "hunter2-header", "hunter2-other", "hunter2-inline", "hunter2-new")), "\n"),
	} {
		if strings.Contains(text, "hunter2") || strings.Contains(text, testKey) || strings.Contains(text, testWhsec) {
			t.Errorf("%s shows a secret: %s", name, text)
		}
	}
}

func TestDiffSaysWhatAReloadDoes(t *testing.T) {
	t.Parallel()
	uniB := "[[organisation]]\nid = \"uni-b\"\nname = \"University B\""
	for name, tc := range map[string]struct {
		changes []string
		want    []string
	}{
		"nothing":   {nil, nil},
		"a comment": {[]string{"[log]", "# hello\n[log]"}, nil},
		"a webhook": {[]string{"https://uni-a.example/orcid", "https://uni-a.example/new"}, []string{"uni-a: webhook.url changed"}},
		"a secret":  {[]string{"a.apikey", "b.apikey"}, []string{"uni-a: webhook.apikey changed"}},
		"a header":  {[]string{"hunter2-header", "hunter2-next"}, []string{"uni-a: webhook.headers changed"}},
		"a default": {[]string{`level = "debug"`, ``}, []string{"log.level changed"}},
		"restarts": {
			[]string{"/orcid//", "/", "[redis]", "[listen]\ncallback = \":9\"\n[redis]", ":6380/2", ":6380/3", `data_dir = "state"`, `data_dir = "s"`},
			[]string{"public_url changed", "restart needed: data_dir", "restart needed: listen.callback", "restart needed: redis.url"},
		},
		"organisations come and go": {
			[]string{uniB, "[[organisation]]\nid = \"uni-c\"\nname = \"University B\""},
			[]string{"uni-c: added", "uni-b: not in the file any more, will be suspended; nothing removed"},
		},
		"a credential comes": {
			[]string{"[delivery]", "[orcid.credential.two]\nclient_id = \"APP-2\"\nclient_secret = \"s\"\n[delivery]", "id = \"uni-a\"", "id = \"uni-a\"\ncredential = \"two\""},
			[]string{"orcid.credential.two: added", "uni-a: credential changed"},
		},
	} {
		if got := Diff(good(t), good(t, tc.changes...)); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
	swapped := good(t)
	slices.Reverse(swapped.Organisations)
	if got := Diff(good(t), swapped); len(got) > 0 {
		t.Errorf("another order of organisations: %q", got)
	}
	gone := good(t)
	delete(gone.ORCID.Credentials, "main")
	if got := Diff(good(t), gone); !slices.Equal(got, []string{"orcid.credential.main: removed"}) {
		t.Errorf("a credential goes: %q", got)
	}
}

func TestKeepRunningKeepsWhatNeedsARestart(t *testing.T) {
	t.Parallel()
	running := good(t)
	next := good(t, `level = "debug"`, ``, "[redis]", "[listen]\ncallback = \":9\"\n[redis]", ":6380/2", ":6380/3", `data_dir = "state"`, `data_dir = "s"`)
	KeepRunning(next, running)
	if got := Diff(running, next); !slices.Equal(got, []string{"log.level changed"}) {
		t.Errorf("differs still: %q", got)
	}
}

// Each key must say what it is, or the example would have a bare line.
func TestEveryKeyIsDocumented(t *testing.T) {
	t.Parallel()
	var visit func(t reflect.Type, path string) []string
	visit = func(typ reflect.Type, path string) (bad []string) {
		for _, f := range fields(typ) {
			if f.doc == "" || !strings.HasSuffix(f.doc, ".") {
				bad = append(bad, path+f.name)
			}
			if f.table() {
				bad = append(bad, visit(f.element(), path+f.name+".")...)
			}
		}
		return bad
	}
	if bad := visit(reflect.TypeFor[Config](), ""); len(bad) > 0 {
		t.Errorf("no full sentence at %v", bad)
	}
}

func TestNearestFindsWhatWasMeant(t *testing.T) {
	t.Parallel()
	words := []string{"timeout", "retry", "max_in_flight", "main"}
	for got, want := range map[string]string{
		"time_out": "timeout", "tiemout": "timeout", "retyr": "retry", "max_inflight": "max_in_flight", "mian": "main",
		"Timeout": "timeout", "colour": "", "": "", "x": "", strings.Repeat("x", 500): "",
	} {
		if n := nearest(got, words); n != want {
			t.Errorf("%.20q: %q, want %q", got, n, want)
		}
	}
}
