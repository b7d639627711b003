package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

// manHead and manTail are what the command table does not know.
const (
	manHead = `.\" Made from the command table by "make generate".
.TH DISPATCHD 8 "" "dispatchd" "System Manager's Manual"
.SH NAME
dispatchd \- tells organisations when their researchers' ORCID records change
.SH SYNOPSIS
.B dispatchd
.I command
.RI [ flags ]
.SH DESCRIPTION
The daemon takes ORCID's pings, registers them for every researcher of an organisation, and delivers signed JSON webhooks or e\-mails.
The other commands ask a running daemon's admin listener. Alone it prints help.
.SH FLAGS OF EVERY COMMAND
`
	manTail = `.SH FILES
.TP
.I /etc/dispatchd/config.toml
The configuration, see
.BR dispatchd.toml (5).
.TP
.I /etc/dispatchd/secrets
Secret files that the configuration names.
.TP
.I /var/lib/dispatchd
callback.key, master.key, admin.token, the spool and the marks of the Redis that is ours.
.TP
.I /usr/share/dispatchd
Alert rules and a dashboard.
.SH ENVIRONMENT
.TP
.B DISPATCHD_ADMIN
Where the admin listener is.
.TP
.B DISPATCHD_ADMIN_TOKEN_FILE
The file with its token.
.TP
.B CREDENTIALS_DIRECTORY, STATE_DIRECTORY
Where secrets are looked up first, and the default of data_dir; systemd sets them.
.TP
.B NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS, LISTEN_FDNAMES
The service manager's; sockets are named callback, web and admin.
.TP
.B GOMEMLIMIT
Go's soft memory limit. Default: nine tenths of the control group's.
.SH SIGNALS
.TP
.B TERM, INT
Stop: pings are taken until the last moment, deliveries under way get 5 s. A second one ends it at once, with exit code 1.
.TP
.B HUP
Read the configuration again, all or nothing.
.SH EXIT STATUS
.TP
.B 0
Fine.
.TP
.B 1
A failure, or a problem that was found.
.TP
.B 2
Bad usage or a bad configuration; systemd does not start the daemon again.
.TP
.B 3
Only
.BR "check \-\-strict" :
there are warnings and no mistakes.
.SH SEE ALSO
.BR dispatchd.toml (5),
.BR redis\-server (1),
.IR /usr/share/doc/dispatchd .
`
)

// WriteMan writes dispatchd(8), made from the command table.
func WriteMan(out io.Writer) error {
	env := Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard, Init: func(context.Context, InitFlags) error { return nil }}
	env.defaults()
	app, err := parser(&grammar{}, env)
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString(manHead)
	manFlags(&b, app.Model.Flags)
	group := ""
	for _, n := range app.Model.Children {
		if n.Hidden {
			continue
		}
		if n.Group != nil && n.Group.Title != group {
			group = n.Group.Title
			fmt.Fprintf(&b, ".SH COMMANDS: %s\n", strings.ToUpper(strings.TrimSuffix(group, ":")))
		}
		manCommand(&b, n)
	}
	b.WriteString(manTail)
	_, err = io.WriteString(out, b.String())
	return err
}

// manCommand writes a command, or the commands below it.
func manCommand(b *strings.Builder, n *kong.Node) {
	if len(n.Children) > 0 {
		for _, sub := range n.Children {
			if !sub.Hidden {
				manCommand(b, sub)
			}
		}
		return
	}
	fmt.Fprintf(b, ".SS %s\n%s\n", roff(manUsage(n)), roff(n.Help))
	for _, p := range n.Positional {
		if p.Help != "" {
			fmt.Fprintf(b, ".TP\n.I %s\n%s\n", roff(p.Name), roff(p.Help))
		}
	}
	manFlags(b, n.Flags)
}

// manUsage is a command with its arguments.
func manUsage(n *kong.Node) string {
	words := []string{strings.TrimPrefix(n.FullPath(), "dispatchd ")}
	for _, p := range n.Positional {
		words = append(words, p.Summary())
	}
	return strings.Join(words, " ")
}

func manFlags(b *strings.Builder, flags []*kong.Flag) {
	for _, f := range flags {
		if f.Hidden || f.Name == "help" {
			continue
		}
		name := `\-\-` + roff(f.Name)
		if f.Short != 0 {
			name = `\-` + string(f.Short) + ", " + name
		}
		if !f.IsBool() {
			name += "=" + roff(f.FormatPlaceHolder())
		}
		fmt.Fprintf(b, ".TP\n.B %s\n%s\n", name, roff(f.Help))
	}
}

// roff escapes a text for a man page.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "$$", "$", "…", `\&...`).Replace(text)
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			line = `\&` + line
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}
