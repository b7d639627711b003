package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"dispatchd/config"
	"dispatchd/internal/cli"
	"dispatchd/internal/orcid"
	"dispatchd/internal/secret"
	"dispatchd/internal/sim"
	"dispatchd/internal/store"
)

// check says what a configuration amounts to; online it also asks Redis, the
// mail server and ORCID. It changes nothing.
func check(ctx context.Context, c *config.Config, path string, online bool, out io.Writer) error {
	for _, w := range c.Warnings {
		fmt.Fprintf(out, "warning: %s\n", w.Error())
	}
	callbacks, err := loadHub(c)
	if err != nil {
		return err
	}
	where := c.Redis.URL
	switch {
	case c.Embedded():
		where = "embedded (a trial: everything is lost at the end)"
	case where == "":
		where = strings.Join(c.Redis.Addresses, ", ")
	}
	fmt.Fprintf(out, "%s is valid\n  organisations %d\n  credentials   %d\n  ORCID         %s\n  redis         %s\n",
		path, len(c.Organisations), len(c.ORCID.Credentials), c.ORCID.Environment, where)
	if callbacks != nil {
		fmt.Fprintf(out, "  Hub callbacks %d, answered until %s\n", len(callbacks.Map.Rows), callbacks.Until.Format(time.DateTime))
		for _, err := range callbacks.Map.Skipped {
			fmt.Fprintf(out, "  skipped: %v\n", err)
		}
	}
	if !online {
		return nil
	}
	return checkOnline(ctx, c, out)
}

func checkOnline(ctx context.Context, c *config.Config, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var failed []string
	say := func(what string, err error, fine string) {
		if err != nil {
			failed = append(failed, what)
			fmt.Fprintf(out, "FAIL %-22s %v\n", what, err)
			return
		}
		fmt.Fprintf(out, "ok   %-22s %s\n", what, fine)
	}
	if !c.Embedded() {
		warnings, err := checkRedis(ctx, c)
		say("redis", err, "answers, is fit and ours")
		for _, w := range warnings {
			fmt.Fprintf(out, "     %-22s warning: %s\n", "", w)
		}
	}
	if c.SMTP.Host != "" {
		addr := net.JoinHostPort(c.SMTP.Host, strconv.Itoa(c.SMTP.Port))
		d := net.Dialer{Timeout: 5 * time.Second}
		conn, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			err = conn.Close()
		}
		say("smtp", err, addr+" accepts connections")
	}
	for _, name := range credentialNames(c) {
		cred := c.ORCID.Credentials[name]
		client, err := orcid.NewClient(orcid.ClientOptions{
			APIURL: c.ORCID.APIURL, TokenURL: c.ORCID.TokenURL, SiteURL: c.ORCID.SiteURL,
			ClientID: cred.ClientID, ClientSecret: cred.ClientSecret, UserAgent: "dispatchd/" + version,
		})
		if err == nil {
			err = client.Check(ctx)
			client.Close()
		}
		say("credential "+name, err, "ORCID gives it a token for /webhook")
	}
	if len(failed) > 0 {
		return fmt.Errorf("not all is well: %s", strings.Join(failed, ", "))
	}
	return nil
}

func checkRedis(ctx context.Context, c *config.Config) ([]string, error) {
	// Nothing is sealed or opened here, so the master key does not matter and
	// none is made.
	box, err := secret.NewBox([]byte(secret.NewKey(32).Reveal()))
	if err != nil {
		return nil, err
	}
	st, err := store.New(store.Options{
		URL: c.Redis.URL, Addresses: c.Redis.Addresses, MasterName: c.Redis.MasterName, Cluster: c.Redis.Cluster,
		Username: c.Redis.Username, Password: c.Redis.Password, CAFile: c.Redis.CAFile, Prefix: c.Redis.Prefix,
		Strict: c.Redis.Strict, AllowVolatile: c.Redis.AllowVolatile, DataDir: c.DataDir, Box: box, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	warnings, err := st.Check(ctx)
	return warnings, errors.Join(err, st.Close())
}

// adminOf reads from a configuration file where the admin listener is, and its
// token, which is unset while nobody has made one: health needs none.
func adminOf(path string) (url string, token secret.Text, err error) {
	c, err := config.Load(path)
	if err != nil {
		return "", "", err
	}
	if err := config.ReadAdminToken(c); err != nil {
		return "", "", err
	}
	if strings.HasPrefix(c.Listen.Admin, "unix:") {
		return c.Listen.Admin, c.Admin.Token, nil
	}
	host, port, err := net.SplitHostPort(c.Listen.Admin)
	if err != nil {
		return "", "", fmt.Errorf("use listen.admin: %w", err)
	}
	if host == "" || host == "0.0.0.0" || host == "::" {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port), c.Admin.Token, nil
}

// simulate serves a simulated ORCID until ctx ends.
func simulate(ctx context.Context, o cli.SimulateFlags, out io.Writer, log *slog.Logger) error {
	so := sim.Options{Logger: log, Speed: o.Speed}
	for _, c := range o.Client {
		id, pass, ok := strings.Cut(c, ":")
		if !ok || id == "" || pass == "" {
			return fmt.Errorf("--client must be ID:SECRET (got %q)", id)
		}
		so.Clients = append(so.Clients, sim.Client{ID: id, Secret: secret.Text(pass)})
	}
	r, err := sim.New(so)
	if err != nil {
		return err
	}
	r.AddProfiles(o.Profiles)
	ln, err := listen(o.Listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "simulated ORCID at http://%s (clock %gx, %d records); control API at http://%s/_sim/\n", ln.Addr(), o.Speed, o.Profiles, ln.Addr())
	for _, c := range r.Clients() {
		fmt.Fprintf(out, "client %s\n", c.ID)
	}
	return sim.Serve(ctx, ln, r)
}
