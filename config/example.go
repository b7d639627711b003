package config

import (
	"bytes"
	"reflect"
	"strings"
)

const exampleHead = `# The configuration of dispatchd. This file is generated from the program's own documentation
# ("dispatchd config example" prints it) and starts as it is, for a trial: with a Redis inside the
# process, which loses everything when it stops, the ORCID sandbox, and nobody to tell.
#
# For real use: set public_url, web_url and data_dir, give redis.url, choose the ORCID environment,
# take the # away from a credential and an organisation, and run "dispatchd check config.toml".
# Lines "#key = value" show what could be set, other values are the defaults. Unknown keys are errors.
#
# Secrets: "name_file" names a file that holds the secret; "name" would hold it here. A bare file name
# is looked up in $CREDENTIALS_DIRECTORY (systemd's LoadCredential=; in containers set it to
# /run/secrets), then in the directory "secrets" beside this file, then beside it; there others must
# not be able to read it (chmod 0600, or 0640 with the daemon's group). All are read again on reload.
# Durations are written "15s", "2m", "24h" or "90d".
`

// Example returns the annotated config.toml, generated from the tags of the
// structs. It loads without error, and so it does with every "#key" line on.
func Example() []byte {
	var b strings.Builder
	b.WriteString(exampleHead)
	exampleTable(&b, "", "", reflect.ValueOf(Default()).Elem(), false)
	return []byte(b.String())
}

// ExampleIn is Example with data_dir set.
func ExampleIn(dataDir string) []byte {
	const unset = `#data_dir = "/var/lib/dispatchd"`
	return bytes.Replace(Example(), []byte(unset), []byte("data_dir = "+quote(dataDir)), 1)
}

// exampleTable writes the scalars of a table and then its tables. In a table
// that is off, every line is commented out.
func exampleTable(b *strings.Builder, header, path string, v reflect.Value, off bool) {
	all := fields(v.Type())
	if header != "" {
		if off {
			b.WriteByte('#')
		}
		b.WriteString(header + "\n")
	}
	for i := range all {
		if f := &all[i]; !f.table() {
			if header == "" {
				b.WriteByte('\n')
			}
			exampleKey(b, f, v.Field(f.index), off)
		}
	}
	for i := range all {
		f := &all[i]
		if !f.table() {
			continue
		}
		here := strings.TrimPrefix(path+"."+f.name, ".")
		b.WriteByte('\n')
		comment(b, f.doc)
		head, sub, value := "["+here+"]", here, v.Field(f.index)
		switch f.typ {
		case typeOrgs:
			head, value = "[["+here+"]]", reflect.ValueOf(defaultOrganisation())
		case typeCreds:
			head, sub, value = "["+here+".main]", here+".main", reflect.ValueOf(Credential{})
		}
		exampleTable(b, head, sub, value, off || f.ship == "off")
	}
}

// exampleKey writes one key: what the shipped file sets, an example commented
// out, or the default.
func exampleKey(b *strings.Builder, f *field, v reflect.Value, off bool) {
	comment(b, f.doc)
	name, value := f.name, literal(v, true)
	if text := f.ship + f.example; text != "" {
		value = strings.ReplaceAll(text, "'", `"`) // a tag would need escapes
		if f.typ.Kind() == reflect.String || f.typ == typeKeys {
			value = quote(text)
		}
		if f.secret() {
			name += "_file"
		}
		off = off || f.ship == ""
	}
	if off {
		b.WriteByte('#')
	}
	b.WriteString(name + " = " + value + "\n")
}

// comment writes words in lines of at most 100 characters.
func comment(b *strings.Builder, text string) {
	line := "#"
	for _, word := range strings.Fields(text) {
		if len(line)+1+len(word) > 100 {
			b.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	b.WriteString(line + "\n")
}
