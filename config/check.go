package config

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"maps"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// complete fills in what the file leaves to other keys or to the environment.
func (r *reader) complete(c *Config) {
	c.PublicURL = strings.TrimRight(c.PublicURL, "/")
	c.WebURL = strings.TrimRight(cmp.Or(c.WebURL, origin(c.PublicURL)), "/")
	if c.DataDir == "" && r.o.StateDir != "" {
		c.DataDir = r.o.StateDir
		r.sources["data_dir"] = "$STATE_DIRECTORY"
	}
	if c.DataDir != "" {
		c.DataDir = r.resolve(c.DataDir)
	}
	if len(c.Redis.Addresses) > 0 && !r.given("redis.url") {
		c.Redis.URL = ""
	}
	if c.Hub.LegacyMap != "" {
		c.Hub.LegacyMap = r.resolve(c.Hub.LegacyMap)
	}
	c.Hub.LegacyBaseURL = strings.TrimRight(c.Hub.LegacyBaseURL, "/")
	if c.Redis.CAFile != "" {
		c.Redis.CAFile = r.resolve(c.Redis.CAFile)
	}
	r.splitUser("redis.url", &c.Redis.URL, "redis.username", &c.Redis.Username, "redis.password", (*string)(&c.Redis.Password))
	r.splitUser("delivery.proxy", &c.Delivery.Proxy, "delivery.proxy_username", &c.Delivery.ProxyUsername, "delivery.proxy_password", (*string)(&c.Delivery.ProxyPassword))
	c.ORCID.fillURLs()
	for _, u := range []*string{&c.ORCID.APIURL, &c.ORCID.TokenURL, &c.ORCID.SiteURL} {
		*u = strings.TrimRight(*u, "/")
	}
	if c.SMTP.Host != "" && !r.given("smtp.port") {
		c.SMTP.Port = map[string]int{"tls": 465, "none": 25}[c.SMTP.TLS]
		c.SMTP.Port = cmp.Or(c.SMTP.Port, 587)
	}
	if len(c.ORCID.Credentials) == 1 {
		for name := range c.ORCID.Credentials {
			for i := range c.Organisations {
				c.Organisations[i].Credential = cmp.Or(c.Organisations[i].Credential, name)
			}
		}
	}
}

// origin is a URL without its path: the pages stand at the root of their host.
func origin(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return text // the check of its own key says what is wrong
	}
	return u.Scheme + "://" + u.Host
}

// splitUser moves user name and password out of a URL, so that the URL can be
// shown. A URL that cannot be parsed is left for the checks, which refuse it.
func (r *reader) splitUser(key string, text *string, userKey string, user *string, passwordKey string, password *string) {
	u, err := url.Parse(*text)
	if err != nil || u.User == nil {
		return
	}
	if r.o.exposed {
		r.warn(key, "everyone can read this file, and so the password in the URL; chmod it to 0600 or use %s_file", passwordKey)
	}
	move := func(key2 string, to *string, value string) {
		if *to != "" {
			r.refuse(key, "has a user name or password, and so has %s; give it once", key2)
		} else if value != "" {
			*to = value
			r.sources[key2] = r.sources[key]
		}
	}
	pw, _ := u.User.Password()
	move(userKey, user, u.User.Username())
	move(passwordKey, password, pw)
	u.User = nil
	*text = u.String()
}

// check looks at what the values mean.
func (r *reader) check(c *Config) {
	r.checkPublic(c)
	r.checkListen(&c.Listen)
	r.checkRedis(c)
	r.checkORCID(c)
	r.checkDelivery(&c.Delivery)
	r.checkSMTP(&c.SMTP)
	r.checkHub(c)
	if t := c.Admin.Token.Reveal(); t != "" && (len(t) < 16 || strings.ContainsFunc(t, func(x rune) bool { return x <= ' ' || x > '~' })) {
		r.refuse("admin.token", "must have at least 16 characters, visible ASCII without spaces; make one with: openssl rand -hex 32")
	}
	if t := c.MasterKey.Reveal(); t != "" {
		if err := checkKey(t); err != nil {
			r.refuse("master_key", "%s", err.Error())
		}
	}
	r.oneOf("log.format", c.Log.Format, "auto", "text", "json")
	if c.DataDir == "" && !c.Embedded() {
		r.refuse("data_dir", "must be set: pings wait there while Redis is away (systemd: StateDirectory=dispatchd sets it)")
	}
	r.checkOrganisations(c)
}

func (r *reader) checkPublic(c *Config) {
	if c.PublicURL == "" {
		r.refuse("public_url", "must be set: where ORCID reaches [listen].callback, such as https://hub.example.edu")
	} else if u := r.baseURL("public_url", c.PublicURL); u != nil && c.ORCID.Environment == production {
		if u.Scheme == "http" {
			r.warn("public_url", "is plain http: callback URLs are secrets and anyone on the way can read them")
		}
		if host := u.Hostname(); isLocal(host) {
			r.warn("public_url", "ORCID cannot reach %s", host)
		}
	}
	if c.WebURL != "" && r.given("web_url") {
		u := r.baseURL("web_url", c.WebURL)
		switch {
		case u == nil:
		case u.Path != "":
			r.refuse("web_url", "must have no path: the pages stand at the root of their host (got %q)", clip(u.Path))
		case u.Scheme == "http" && c.ORCID.Environment == production:
			r.warn("web_url", "is plain http: API secrets and form links can be read on the way")
		}
	}
}

// baseURL checks a URL that others are built from; nil after an error.
func (r *reader) baseURL(path, text string) *url.URL {
	u, err := url.Parse(text)
	var why string
	switch {
	case err != nil || strings.ContainsFunc(text, func(x rune) bool { return isControl(x) || x == ' ' }):
		why = "is not a URL"
	case u.Scheme != "http" && u.Scheme != "https" || u.Opaque != "":
		why = "must start with https:// or http://"
	case u.Hostname() == "":
		why = "must name a host"
	case u.User != nil:
		why = "must not have a user name or password"
	case u.RawQuery != "" || u.ForceQuery:
		why = "must not have a ?query"
	case u.Fragment != "" || strings.Contains(text, "#"):
		why = "must not have a #fragment"
	case u.Port() != "" && !isPort(u.Port(), 1), strings.HasSuffix(u.Host, ":"):
		why = "has no valid port"
	default:
		return u
	}
	r.refuse(path, "%s", why)
	return nil
}

func isPort(s string, least int) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n >= least && n <= 65535 && s[0] != '+'
}

// isLocal reports whether a host is surely out of ORCID's reach.
func isLocal(host string) bool {
	if isLoopback(host) {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && (a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsUnspecified())
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback() || host == "localhost" || strings.HasSuffix(host, ".localhost")
}

func (r *reader) checkListen(l *Listen) {
	type listener struct{ path, host, port string }
	var all []listener
	for _, one := range []struct{ path, addr string }{
		{"listen.callback", l.Callback},
		{"listen.web", l.Web},
		{"listen.admin", l.Admin},
	} {
		if socket, ok := strings.CutPrefix(one.addr, "unix:"); ok && one.path == "listen.admin" {
			if !strings.HasPrefix(socket, "/") || len(socket) > 107 {
				r.refuse(one.path, "must have an absolute path of at most 107 bytes after unix: (got %q)", clip(one.addr))
			}
			continue
		}
		host, port, err := net.SplitHostPort(one.addr)
		if err != nil || !isPort(port, 0) || strings.ContainsAny(host, " /@") {
			r.refuse(one.path, "must be host:port or :port, the port 0 to 65535 (got %q)", clip(one.addr))
			continue
		}
		if port == "0" {
			r.warn(one.path, "port 0 listens on any free port, another one at every start")
		} else {
			all = append(all, listener{one.path, host, port})
		}
		if one.path != "listen.callback" && !isLoopback(host) {
			r.warn(one.path, "listens beyond this machine without TLS; put a TLS proxy in front and listen on 127.0.0.1")
		}
	}
	wild := func(host string) bool { return host == "" || host == "0.0.0.0" || host == "::" }
	for i, a := range all {
		for _, b := range all[:i] {
			if a.port == b.port && (a.host == b.host || wild(a.host) || wild(b.host)) {
				r.refuse(a.path, "wants the same port as %s (%s)", b.path, a.port)
			}
		}
	}
}

func (r *reader) oneOf(path, got string, words ...string) {
	if slices.Contains(words, got) {
		return
	}
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = strconv.Quote(w)
	}
	last := len(quoted) - 1
	r.refuse(path, "must be %s or %s (got %q)", strings.Join(quoted[:last], ", "), quoted[last], clip(got))
}

func (r *reader) checkRedis(c *Config) {
	d := &c.Redis
	switch {
	case len(d.Addresses) > 0:
		if r.given("redis.url") {
			r.refuse("redis.addresses", "give either url or addresses, not both")
		}
		if d.MasterName == "" && !d.Cluster {
			r.refuse("redis.addresses", "need master_name (Sentinel) or cluster = true")
		}
		for i, a := range d.Addresses {
			if _, port, err := net.SplitHostPort(a); err != nil || !isPort(port, 1) || strings.ContainsAny(a, "@/ ") {
				r.refuse(fmt.Sprintf("redis.addresses[%d]", i), "must be host:port")
			}
		}
	case d.MasterName != "" || d.Cluster:
		key := "redis.cluster"
		if d.MasterName != "" {
			key = "redis.master_name"
		}
		r.refuse(key, "needs redis.addresses")
	case c.Embedded():
		for _, one := range []struct {
			key string
			set bool
		}{
			{"redis.username", d.Username != ""},
			{"redis.password", d.Password != ""},
			{"redis.ca_file", d.CAFile != ""},
			{"redis.strict", d.Strict},
		} {
			if one.set {
				r.refuse(one.key, "does not go with the embedded Redis")
			}
		}
	default:
		// Its errors repeat parts of the URL, perhaps of a password.
		if _, err := redis.ParseURL(d.URL); err != nil {
			r.refuse("redis.url", "is not a Redis URL: redis://host:port/db, rediss://host:port/db, unix:///path?db=0 or %q (put a password into password_file)", embedded)
		}
	}
	if d.MasterName != "" && d.Cluster {
		r.refuse("redis.cluster", "give either cluster or master_name, not both")
	}
	if strings.ContainsFunc(d.Prefix, func(x rune) bool { return x <= ' ' || x > '~' || x == '{' || x == '}' }) || len(d.Prefix) > 32 {
		r.refuse("redis.prefix", "must have at most 32 characters, visible ASCII without { and }")
	}
	if d.Username != "" && d.Password == "" {
		r.refuse("redis.username", "needs redis.password_file")
	}
	if d.CAFile != "" && !c.Embedded() {
		pem, err := r.readFile(d.CAFile, false)
		switch {
		case err != nil:
			r.refuse("redis.ca_file", "%s", fileError(d.CAFile, err).Error())
		case !x509.NewCertPool().AppendCertsFromPEM(pem):
			r.refuse("redis.ca_file", "file %q has no PEM certificate", d.CAFile)
		case d.URL != "" && !strings.HasPrefix(d.URL, "rediss://"):
			r.refuse("redis.ca_file", "needs a rediss:// URL")
		}
	}
	if d.Strict && d.AllowVolatile {
		r.refuse("redis.allow_volatile", "contradicts redis.strict")
	} else if d.AllowVolatile && !c.Embedded() {
		r.warn("redis.allow_volatile", "a Redis without an append-only file forgets waiting notifications when it restarts")
	}
}

func (r *reader) checkORCID(c *Config) {
	o := &c.ORCID
	r.oneOf("orcid.environment", o.Environment, production, sandbox)
	for _, one := range []struct{ path, text string }{
		{"orcid.api_url", o.APIURL},
		{"orcid.token_url", o.TokenURL},
		{"orcid.site_url", o.SiteURL},
	} {
		u := r.baseURL(one.path, one.text)
		if u == nil || one.path == "orcid.site_url" {
			continue
		}
		if c.Embedded() && r.given(one.path) && isProduction(u.Hostname()) {
			r.refuse(one.path, "the embedded Redis loses everything when it stops and must not be used with production ORCID")
		}
		if u.Scheme == "http" && !isLoopback(u.Hostname()) {
			r.warn(one.path, "is plain http: the client secret and tokens can be read on the way")
		}
	}
	if c.Embedded() && o.Environment == production {
		key := "redis.url"
		if r.given("orcid.environment") {
			key = "orcid.environment"
		}
		r.refuse(key, `the embedded Redis loses everything when it stops and must not be used with production ORCID; set orcid.environment = "sandbox" or give a real redis.url`)
	}
	if o.CatchUp < 0 || o.CatchUp > 0 && o.CatchUp < time.Minute {
		r.refuse("orcid.catch_up", `must be "0s" or at least "1m" (got %q)`, FormatDuration(o.CatchUp))
	}
	goodRate := o.Rate > 0 && o.Rate <= 24
	if !goodRate {
		r.refuse("orcid.rate", "must be above 0 and at most 24 requests a second (got %v)", o.Rate)
	}
	first := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(o.Credentials)) {
		one, path := o.Credentials[name], below("orcid.credential", name)
		switch id := one.ClientID; {
		case id == "":
			r.refuse(path+".client_id", "must be set")
		case len(id) > 100 || strings.ContainsFunc(id, func(x rune) bool { return x <= ' ' || x > '~' || x == '|' || x == '/' }):
			r.refuse(path+".client_id", "must have at most 100 characters, visible ASCII without | and / (got %q)", clip(id))
		case first[id] != "":
			r.refuse(path+".client_id", "is also the client id of credential %s", first[id])
		default:
			first[id] = name
		}
		if one.ClientSecret == "" {
			r.refuse(path+".client_secret", "must be set (client_secret_file)")
		}
		if r.given(path+".rate") && !(one.Rate > 0 && one.Rate <= 24) {
			r.refuse(path+".rate", "must be above 0 and at most 24 requests a second (got %v)", one.Rate)
		} else if goodRate && one.Rate > o.Rate {
			r.refuse(path+".rate", "must not be above orcid.rate, %v (got %v)", o.Rate, one.Rate)
		}
	}
}

// isProduction reports whether a host is the real ORCID.
func isProduction(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	return host == "orcid.org" || strings.HasSuffix(host, ".orcid.org") &&
		host != "sandbox.orcid.org" && !strings.HasSuffix(host, ".sandbox.orcid.org")
}

func (r *reader) checkSMTP(s *SMTP) {
	r.oneOf("smtp.tls", s.TLS, "starttls", "tls", "none")
	if s.Host == "" {
		for _, key := range []string{"port", "username", "password", "from"} {
			if r.given("smtp."+key) || r.given("smtp."+key+"_file") {
				r.refuse("smtp.host", "must be set with smtp.%s", key)
				return
			}
		}
		return
	}
	if strings.ContainsAny(s.Host, " /@:") && net.ParseIP(s.Host) == nil {
		r.refuse("smtp.host", "must be a host name or address without port (got %q)", clip(s.Host))
	}
	if s.Port < 1 || s.Port > 65535 {
		r.refuse("smtp.port", "must be 1 to 65535 (got %d)", s.Port)
	}
	if _, err := mail.ParseAddress(s.From); err != nil || strings.ContainsFunc(s.From, isControl) {
		r.refuse("smtp.from", "must be an address such as ORCID Hub <no-reply@hub.example.edu> (got %q)", clip(s.From))
	}
	if (s.Username == "") != (s.Password == "") {
		r.refuse("smtp.username", "needs smtp.password_file, and the other way round")
	}
	if s.TLS == "none" && !isLoopback(s.Host) {
		r.warn("smtp.tls", "e-mails%s go over the network unencrypted", map[bool]string{true: " and the password"}[s.Password != ""])
	}
}
