package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"dispatchd/internal/org"
)

func (r *reader) checkDelivery(d *Delivery) {
	r.oneOf("delivery.mode", d.Mode, live, shadow)
	r.positive("delivery.timeout", d.Timeout, 5*time.Minute)
	if len(d.Retry) == 0 || len(d.Retry) > 100 {
		r.refuse("delivery.retry", "must have 1 to 100 waits (got %d)", len(d.Retry))
	}
	for i, wait := range d.Retry {
		r.positive(fmt.Sprintf("delivery.retry[%d]", i), wait, 30*day)
	}
	r.between("delivery.concurrency", d.Concurrency, 1, 1024)
	r.between("delivery.max_in_flight", d.MaxInFlight, 1, 100_000)
	if d.MaxInFlight > 0 && d.MaxInFlight < d.Concurrency && d.Concurrency <= 1024 {
		r.refuse("delivery.max_in_flight", "must not be below delivery.concurrency, %d (got %d)", d.Concurrency, d.MaxInFlight)
	}
	switch {
	case d.QuietPeriod < 0 || d.QuietPeriod > day:
		r.refuse("delivery.quiet_period", `must be "0s" to "24h" (got %q)`, FormatDuration(d.QuietPeriod))
	case d.QuietPeriod == 0:
		r.warn("delivery.quiet_period", "with 0 every ping makes its own notification, also ORCID's duplicates and each step of an edit")
	}
	for i, p := range d.AllowPrivate {
		path := fmt.Sprintf("delivery.allow_private[%d]", i)
		if p.IsValid() && p.Bits() == 0 {
			r.warn(path, "%s lets organisations' URLs reach every address, this machine's included", p)
		} else if p.Contains(netip.AddrFrom4([4]byte{169, 254, 169, 254})) || p.Contains(netip.MustParseAddr("127.0.0.1")) || p.Contains(netip.IPv6Loopback()) {
			r.warn(path, "%s lets organisations' URLs reach this machine or its cloud's metadata service", p)
		}
	}
	r.between("delivery.dead_letters", d.DeadLetters, 1, 100_000_000)
	r.between("delivery.attempt_log", d.AttemptLog, 0, 1_000_000)
	r.positive("delivery.attempt_log_age", d.AttemptLogAge, 3650*day)
	if d.Proxy != "" {
		u, err := url.Parse(d.Proxy)
		if err != nil || !slices.Contains([]string{"http", "https", "socks5"}, u.Scheme) || u.Hostname() == "" ||
			strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			r.refuse("delivery.proxy", "must be http://host:port, https://host:port or socks5://host:port")
		}
	}
	if d.Proxy == "" && d.ProxyUsername != "" {
		r.refuse("delivery.proxy_username", "needs delivery.proxy")
	}
	if d.ProxyPassword != "" && d.ProxyUsername == "" {
		r.refuse("delivery.proxy_password", "needs delivery.proxy_username")
	}
}

func (r *reader) positive(path string, d, most time.Duration) {
	if d <= 0 {
		r.refuse(path, "must be above 0 (got %q)", FormatDuration(d))
	} else if d > most {
		r.refuse(path, "must be at most %q (got %q)", FormatDuration(most), FormatDuration(d))
	}
}

func (r *reader) between(path string, n, least, most int) {
	if n < least || n > most {
		r.refuse(path, "must be %d to %d (got %d)", least, most, n)
	}
}

// checkOrganisations checks each organisation by itself and all together.
func (r *reader) checkOrganisations(c *Config) {
	creds := slices.Sorted(maps.Keys(c.ORCID.Credentials))
	used, ids, clients := map[string]bool{}, map[string]int{}, map[string]int{}
	for i := range c.Organisations {
		o, path := &c.Organisations[i], fmt.Sprintf("organisation[%d]", i)
		var invalid *org.Invalid
		if err := o.Validate(); errors.As(err, &invalid) {
			for _, p := range invalid.Problems {
				r.refuse(path+"."+p.Key, "%s", p.Why)
			}
		}
		if line, twice := ids[o.ID]; twice {
			r.refuse(path+".id", "is also the id of the organisation in line %d", line)
		} else if o.ID != "" {
			ids[o.ID] = r.line(path + ".id")
		}
		r.checkCredential(path+".credential", o.Credential, creds)
		used[o.Credential] = true
		r.checkOrgChannels(path, o, c)
		if id := o.API.ClientID; id == "" {
			if o.API.ClientSecret != "" {
				r.refuse(path+".api.client_id", "must be set with client_secret")
			}
		} else if line, twice := clients[id]; twice {
			r.refuse(path+".api.client_id", "is also the API client id of the organisation in line %d", line)
		} else {
			clients[id] = r.line(path + ".api.client_id")
			if len(id) > 100 || strings.ContainsFunc(id, func(x rune) bool { return x <= ' ' || x > '~' || x == ':' }) {
				r.refuse(path+".api.client_id", "must have at most 100 characters, visible ASCII without : (got %q)", clip(id))
			}
		}
	}
	for _, name := range creds {
		if len(c.Organisations) > 0 && !used[name] {
			r.warn(below("orcid.credential", name), "no organisation in this file uses it")
		}
	}
}

func (r *reader) checkCredential(path, name string, creds []string) {
	switch {
	case name == "" && len(creds) == 0:
		r.refuse(path, "there is no credential: add [orcid.credential.main]")
	case name == "":
		r.refuse(path, "must be one of: %s", strings.Join(creds, ", "))
	case !slices.Contains(creds, name):
		why := "there is no [orcid.credential.NAME] of this name"
		if like := nearest(name, creds); like != "" {
			why += "; did you mean " + like + "?"
		}
		r.refuse(path, "%s (got %q)", why, clip(name))
	}
}

func (r *reader) checkOrgChannels(path string, o *org.Organisation, c *Config) {
	if u, err := url.Parse(o.Webhook.URL); err == nil && u.Scheme == "http" && !isLoopback(u.Hostname()) {
		r.warn(path+".webhook.url", "is plain http: iDs and the apikey can be read on the way")
	}
	if o.Email.Enabled && c.SMTP.Host == "" {
		r.refuse(path+".email.enabled", "needs smtp.host")
	}
	if o.AnyEnabled() && o.TechnicalContact == "" {
		r.warn(path+".technical_contact", "is not set: nobody is told when deliveries fail for long")
	}
}
