package config

import (
	"fmt"
	"io"
	"reflect"
	"strings"
)

const manHead = `.\" Made from the program's own documentation by "make generate".
.TH DISPATCHD.TOML 5 "" "dispatchd" "File Formats Manual"
.SH NAME
dispatchd.toml \- configuration of dispatchd
.SH DESCRIPTION
.I /etc/dispatchd/config.toml
is TOML. Unknown keys are errors;
.B dispatchd check
reports every mistake at once, with its line.
.PP
Every key that is a secret, such as
.BR client_secret ,
may also be written with
.B _file
behind it and then names a file. A bare name is looked up in $CREDENTIALS_DIRECTORY, then in the directory
.I secrets
beside the file, then beside it; there others must not be able to read it.
.PP
Durations are written "15s", "2m", "24h" or "90d". Keys marked
.I restart
are not changed by a reload.
`

// WriteMan writes dispatchd.toml(5), made from the tags of the structs.
func WriteMan(out io.Writer) error {
	var b strings.Builder
	b.WriteString(manHead)
	b.WriteString(".SH THE TOP OF THE FILE\n")
	manTable(&b, "", reflect.ValueOf(Default()).Elem(), false)
	b.WriteString(".SH SEE ALSO\n.BR dispatchd (8)\n")
	_, err := io.WriteString(out, b.String())
	return err
}

// manTable writes the keys of a table and then its tables.
func manTable(b *strings.Builder, path string, v reflect.Value, restart bool) {
	all := fields(v.Type())
	for i := range all {
		if f := &all[i]; !f.table() {
			manKey(b, f, v.Field(f.index), restart)
		}
	}
	for i := range all {
		f := &all[i]
		if !f.table() {
			continue
		}
		here := below(path, f.name)
		head, sub, value := "["+here+"]", here, v.Field(f.index)
		switch f.typ {
		case typeOrgs:
			head, value = "[["+here+"]]", reflect.ValueOf(defaultOrganisation())
		case typeCreds:
			head, sub, value = "["+here+".NAME]", here+".NAME", reflect.ValueOf(Credential{})
		}
		fmt.Fprintf(b, ".SH %s\n%s\n", roff(head), roff(f.doc))
		manTable(b, sub, value, restart || f.restart)
	}
}

func manKey(b *strings.Builder, f *field, v reflect.Value, restart bool) {
	name := f.name
	if f.secret() {
		name += "\\fR, \\fB" + f.name + "_file"
	}
	notes := ""
	if !f.secret() && !v.IsZero() {
		notes = " Default: " + literal(v, true) + "."
	}
	if restart || f.restart {
		notes += " (restart)"
	}
	fmt.Fprintf(b, ".TP\n\\fB%s\\fR\n%s\n", name, roff(f.doc+notes))
}

// roff escapes a text for a man page.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", `\&...`).Replace(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	return text
}
