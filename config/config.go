package config

import (
	"log/slog"
	"net/netip"
	"time"

	"dispatchd/internal/org"
	"dispatchd/internal/secret"
)

// Config is the whole configuration. Tags of its fields: toml is the key, doc
// the comment in the example, ship what the shipped file sets (it may differ
// from the default, so that the file starts as it is), example what the shipped
// file shows commented out, reload:"restart" what SIGHUP cannot change.
type Config struct {
	// PublicURL has no trailing slash. It must be set.
	PublicURL string `toml:"public_url" ship:"http://localhost:8080" doc:"Where ORCID reaches [listen].callback: absolute, http or https, without query or user name; a path is allowed. It is part of every callback URL, so changing it registers every user again. Must be set."`
	// WebURL has no trailing slash and no path. Default: PublicURL without its
	// path.
	WebURL string `toml:"web_url" reload:"restart" ship:"http://localhost:8081" doc:"Where people and organisations reach [listen].web; links in e-mails and the User-Agent show it; no path. Default: public_url without its path."`
	// DataDir is absolute. Empty only with the embedded Redis: then the caller
	// chooses a temporary directory before it calls EnsureKeys.
	DataDir string `toml:"data_dir" reload:"restart" example:"/var/lib/dispatchd" doc:"The directory for pings that wait while Redis is away, the mark that shows a Redis that forgot, and keys made on first start. Relative to this file. Default: $STATE_DIRECTORY (systemd sets it); with redis.url = \"embedded\" and neither, a temporary directory is used and removed."`
	// CallbackKeys are base64url texts of at least 32 bytes; the first signs,
	// all verify. Nil until EnsureKeys when unset.
	CallbackKeys []secret.Text `toml:"callback_key" example:"callback.key" doc:"HMAC keys of the callback URLs, one a line: the first signs, all verify. Each is base64url of at least 32 random bytes. Default: callback.key in data_dir, made on first start."`
	// MasterKey is a base64url text of at least 32 bytes. Empty until
	// EnsureKeys when unset.
	MasterKey secret.Text `toml:"master_key" reload:"restart" example:"master.key" doc:"The key that encrypts recoverable secrets in Redis: base64url of at least 32 random bytes. Keep a copy: without it they are lost. Default: master.key in data_dir, made on first start."`

	Listen   Listen   `toml:"listen" reload:"restart" doc:"Where dispatchd listens: host:port, or :port for every address."`
	Admin    Admin    `toml:"admin" doc:"The operators' listener."`
	Redis    Redis    `toml:"redis" reload:"restart" doc:"Redis 7 or newer holds everything that must not be lost. It needs maxmemory-policy noeviction and an append-only file."`
	ORCID    ORCID    `toml:"orcid" doc:"ORCID and the API clients that we have there."`
	Delivery Delivery `toml:"delivery" doc:"How organisations are told."`
	SMTP     SMTP     `toml:"smtp" ship:"off" doc:"The mail server. Without host no e-mail is sent."`
	Hub      Hub      `toml:"hub" ship:"off" doc:"Only while dispatchd takes over from the NZ ORCID Hub: docs/migrate-from-hub.md."`
	Log      Log      `toml:"log" doc:"The log, on standard error."`
	Metrics  Metrics  `toml:"metrics" reload:"restart" doc:"Prometheus metrics, at /metrics of [listen].admin."`

	// Organisations are owned by the file.
	Organisations []org.Organisation `toml:"organisation" ship:"off" doc:"Organisations written here are changed here only; form, API and CLI show them read-only. Others are made with \"dispatchd org add\" and live in Redis. An organisation taken out of this file is suspended, never removed."`

	// Warnings are things that work but are likely mistakes, in file order.
	Warnings []Error `toml:"-"`

	// sources says where a key's value came from, by path; absent: the default.
	sources map[string]string
}

// Listen holds the three listeners.
type Listen struct {
	Callback string `toml:"callback" doc:"ORCID's pings, nothing else."`
	Web      string `toml:"web" doc:"Organisations: settings form and Hub-compatible API. Put TLS in front."`
	Admin    string `toml:"admin" doc:"Operators: admin API, metrics, health. Also unix:/run/dispatchd/admin.sock."`
}

// Admin is who may use the admin listener.
type Admin struct {
	// Token has at least 16 visible ASCII characters. Empty until EnsureKeys
	// when unset.
	Token secret.Text `toml:"token" example:"admin.token" doc:"The bearer token for /v1 and pprof; /metrics, /healthz and /readyz need none. Default: admin.token in data_dir, made on first start."`
}

// Redis says which Redis and how to reach it.
type Redis struct {
	// URL has no user info: Parse moves it to Username and Password. Empty when
	// Addresses are given.
	URL string `toml:"url" ship:"embedded" doc:"redis://host:port/db, rediss:// (TLS), unix:///path?db=0, or \"embedded\": a Redis inside this process for trials, which loses everything when it stops and refuses production ORCID."`
	// Addresses replace URL.
	Addresses []string `toml:"addresses" example:"['10.0.0.1:26379', '10.0.0.2:26379', '10.0.0.3:26379']" doc:"Instead of url: the host:port of each Sentinel (with master_name) or of some Cluster nodes (with cluster = true)."`
	// MasterName is empty without Sentinel.
	MasterName string `toml:"master_name" example:"mymaster" doc:"The name by which Sentinel knows the master."`
	Cluster    bool   `toml:"cluster" doc:"The addresses belong to a Redis Cluster."`
	// Username is empty for Redis's default user.
	Username string `toml:"username" example:"dispatchd" doc:"The Redis user. Default: Redis's default user."`
	// Password is empty when Redis asks for none.
	Password secret.Text `toml:"password" example:"redis.password" doc:"The Redis password."`
	// CAFile is absolute. Empty means the system's authorities.
	CAFile string `toml:"ca_file" example:"redis-ca.pem" doc:"PEM certificates of the authorities that may vouch for a rediss:// server; with addresses it turns TLS on. Default: the system's."`
	// Prefix is put before every key; empty means none.
	Prefix string `toml:"prefix" example:"dispatchd:" doc:"Put before every key, so that several daemons can share one Redis. Default: nothing."`
	Strict bool   `toml:"strict" doc:"true: refuse to start unless Redis has appendfsync always. false: a crash of the Redis machine may lose the last second."`
	// AllowVolatile accepts a Redis without an append-only file.
	AllowVolatile bool `toml:"allow_volatile" doc:"true: accept a Redis without an append-only file, which forgets when it restarts."`
}

// ORCID says which ORCID registry, and as whom.
type ORCID struct {
	// Environment is "production" or "sandbox".
	Environment string `toml:"environment" reload:"restart" ship:"sandbox" doc:"\"production\" or \"sandbox\". It decides the three URLs below."`
	// APIURL, TokenURL and SiteURL are never empty after Parse and have no
	// trailing slash.
	APIURL   string `toml:"api_url" reload:"restart" example:"https://api.sandbox.orcid.org" doc:"The member API. Default: by environment."`
	TokenURL string `toml:"token_url" reload:"restart" example:"https://sandbox.orcid.org/oauth/token" doc:"Where tokens are issued. Default: by environment."`
	SiteURL  string `toml:"site_url" reload:"restart" example:"https://sandbox.orcid.org" doc:"What researchers' links begin with. Default: by environment."`
	// CatchUp is 0 for never on a timer, else at least a minute.
	CatchUp time.Duration `toml:"catch_up" doc:"How often ORCID is searched for changes whose ping never came; \"0s\": only after an outage."`
	// Rate is requests a second, above 0 and at most 24.
	Rate float64 `toml:"rate" doc:"Requests a second to ORCID, and half as many in a burst, for all credentials and nodes together; above 0, at most 24."`
	// Credentials by our name for them, a slug like an organisation's id.
	Credentials map[string]Credential `toml:"credential" ship:"off" doc:"An ORCID API client with the scope /webhook; \"main\" is our name for it. Repeat the table for more."`
}

// Credential is one ORCID API client.
type Credential struct {
	ClientID     string      `toml:"client_id" example:"APP-XXXXXXXXXXXXXXXX" doc:"The client id at ORCID. A new one gives every user a new callback URL. Must be set."`
	ClientSecret secret.Text `toml:"client_secret" example:"orcid.secret" doc:"The client secret. Must be set."`
	// Rate is requests a second; 0 means ORCID.Rate.
	Rate float64 `toml:"rate" example:"5" doc:"Requests a second, to go below [orcid].rate. Default: [orcid].rate."`
}

// Delivery says how organisations are told.
type Delivery struct {
	// Mode is "live" or "shadow".
	Mode    string        `toml:"mode" doc:"\"live\", or \"shadow\": everything works, but nothing is sent; \"dispatchd delivery log\" shows what would have been. For running beside the system that dispatchd is to replace."`
	Timeout time.Duration `toml:"timeout" doc:"How long one attempt may take, the answer's body included; at most 5m."`
	// Retry holds the waits between attempts, so one attempt more than waits.
	Retry []time.Duration `toml:"retry" doc:"Waits between attempts, each with 20 % jitter. After the last one the news becomes a dead letter."`
	// Concurrency is per organisation and channel, 1 to 1024.
	Concurrency int `toml:"concurrency" doc:"Deliveries at once per organisation and channel, 1 to 1024."`
	// MaxInFlight is for all organisations, at least Concurrency.
	MaxInFlight int `toml:"max_in_flight" doc:"Deliveries at once for all organisations together."`
	// QuietPeriod 0 means at once.
	QuietPeriod time.Duration `toml:"quiet_period" doc:"News waits this long after its first ping, so that ORCID's duplicates and a burst of edits make one notification; \"0s\": at once."`
	// AllowPrivate is empty for public addresses only.
	AllowPrivate []netip.Prefix `toml:"allow_private" doc:"Networks (CIDR) that organisations' URLs may resolve to besides public addresses, such as 10.1.0.0/16."`
	DeadLetters  int            `toml:"dead_letters" doc:"Dead letters kept per organisation; above that the oldest are dropped and counted."`
	// AttemptLog 0 keeps none.
	AttemptLog    int           `toml:"attempt_log" doc:"Attempts kept per organisation; 0: none."`
	AttemptLogAge time.Duration `toml:"attempt_log_age" doc:"How long an attempt is kept."`
	// Proxy has no user info: Parse moves it to the two fields below. Empty
	// means none; the environment's proxies are never used.
	Proxy         string      `toml:"proxy" example:"http://proxy.example.edu:3128" doc:"An http, https or socks5 proxy for webhooks. Default: none; proxies of the environment are not used."`
	ProxyUsername string      `toml:"proxy_username" example:"dispatchd" doc:"The user at the proxy."`
	ProxyPassword secret.Text `toml:"proxy_password" example:"proxy.password" doc:"The password at the proxy."`
}

// SMTP is the mail server.
type SMTP struct {
	// Host is empty when no e-mail is sent.
	Host string `toml:"host" example:"smtp.example.edu" doc:"The mail server's name."`
	// Port is never 0 after Parse when Host is set.
	Port     int         `toml:"port" example:"587" doc:"Default: 587 with starttls, 465 with tls, 25 with none."`
	Username string      `toml:"username" example:"dispatchd" doc:"The user at the mail server. Default: no login."`
	Password secret.Text `toml:"password" example:"smtp.password" doc:"The password at the mail server."`
	// TLS is "starttls", "tls" or "none".
	TLS string `toml:"tls" doc:"\"starttls\", \"tls\" (from the first byte) or \"none\"."`
	// From is an address as in a From header; set when Host is.
	From string `toml:"from" example:"ORCID Hub <no-reply@hub.example.edu>" doc:"The sender of every e-mail. Must be set with host."`
}

// Hub says how the callbacks that the Hub registered at ORCID go on working until
// each is replaced.
type Hub struct {
	// LegacyMap is absolute; empty means that there are none.
	LegacyMap string `toml:"legacy_map" example:"/etc/dispatchd/legacy.csv" doc:"CSV with the header user_id,orcid,credential: whose callback /services/<user_id>/updated is, and which credential registered it. Each is answered, replaced by one of ours, and unregistered 10 minutes later. \"dispatchd hub config\" writes it."`
	// LegacyBaseURL has no slash at its end.
	LegacyBaseURL string `toml:"legacy_base_url" example:"https://orcidhub.example" doc:"The Hub's address, which now leads here. Must be set with legacy_map."`
	// LegacyUntil is a date; see Until.
	LegacyUntil string `toml:"legacy_until" example:"2027-03-31" doc:"The last day on which the Hub's callbacks are answered: anybody can guess them. At most a year ahead. Must be set with legacy_map."`
}

// Until is the moment from which the Hub's callbacks are answered 404: the end of
// LegacyUntil everywhere on Earth; zero when that is not set.
func (h *Hub) Until() time.Time {
	day, err := time.Parse(time.DateOnly, h.LegacyUntil)
	if err != nil {
		return time.Time{} // the check has refused anything but a date
	}
	return day.Add(36 * time.Hour)
}

// Log says what is logged and how.
type Log struct {
	Level slog.Level `toml:"level" doc:"\"debug\", \"info\", \"warn\" or \"error\". Audit lines, of who changed what, come at every level."`
	// Format is "auto", "text" or "json".
	Format string `toml:"format" reload:"restart" doc:"\"text\", \"json\", or \"auto\": text on a terminal, else json."`
}

// Metrics says what is measured.
type Metrics struct {
	PerOrganisation bool `toml:"per_organisation" doc:"true: label delivery metrics with the organisation. Thousands of organisations make many series."`
}

// Default returns the configuration of an empty file. It does not pass the
// checks: public_url and data_dir have no default.
func Default() *Config {
	c := &Config{
		Listen: Listen{Callback: ":8080", Web: "127.0.0.1:8081", Admin: "127.0.0.1:9480"},
		Redis:  Redis{URL: "redis://127.0.0.1:6379/0"},
		ORCID:  ORCID{Environment: production, CatchUp: 24 * time.Hour, Rate: 20},
		Delivery: Delivery{
			Mode: live, Timeout: 15 * time.Second,
			Retry: []time.Duration{
				30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour,
				3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour, 24 * time.Hour,
			},
			Concurrency: 8, MaxInFlight: 512, QuietPeriod: time.Minute,
			DeadLetters: 100_000, AttemptLog: 1000, AttemptLogAge: 90 * day,
		},
		SMTP: SMTP{TLS: "starttls"},
		Log:  Log{Format: "auto"},
	}
	c.ORCID.fillURLs()
	return c
}

const (
	production = "production"
	sandbox    = "sandbox"
	embedded   = "embedded"
	live       = "live"
	shadow     = "shadow"
)

// fillURLs sets the URLs that were not given by the environment.
func (o *ORCID) fillURLs() {
	site, api := "https://orcid.org", "https://api.orcid.org"
	if o.Environment == sandbox {
		site, api = "https://sandbox.orcid.org", "https://api.sandbox.orcid.org"
	}
	if o.APIURL == "" {
		o.APIURL = api
	}
	if o.TokenURL == "" {
		o.TokenURL = site + "/oauth/token"
	}
	if o.SiteURL == "" {
		o.SiteURL = site
	}
}

// Shadow reports whether nothing is to be sent to organisations.
func (c *Config) Shadow() bool { return c.Delivery.Mode == shadow }

// Embedded reports whether Redis runs inside the process: a trial, in which
// everything is lost at the end.
func (c *Config) Embedded() bool { return c.Redis.URL == embedded }
