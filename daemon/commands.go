package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"

	"dispatchd/config"
	"dispatchd/internal/cli"
	"dispatchd/internal/secret"
	"dispatchd/internal/sim"
	"dispatchd/internal/store"
)

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
