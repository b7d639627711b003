package config

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/org"
	"dispatchd/internal/secret"
)

// entry is one key of the effective configuration.
type entry struct {
	path    string // as in Config.sources
	name    string // below its table
	literal string // TOML, redacted
	plain   string // TOML with secrets; only for comparing
	restart bool
}

// section is one table of the effective configuration.
type section struct {
	header  string // "[delivery]", "[[organisation]]", empty at the top
	key     string // "delivery", or below the organisation: "webhook"
	org     string // the id of the organisation it is part of
	entries []entry
}

// sections lists the whole configuration in the order of the structs.
func (c *Config) sections() []section {
	return flatten(nil, section{}, "", reflect.ValueOf(c).Elem(), false)
}

// flatten appends s, filled with the scalars of v, and then v's tables.
func flatten(list []section, s section, path string, v reflect.Value, restart bool) []section {
	all := fields(v.Type())
	for i := range all {
		f := &all[i]
		if f.table() {
			continue
		}
		value := v.Field(f.index)
		s.entries = append(s.entries, entry{
			path: below(path, f.name), name: f.name, restart: restart || f.restart,
			literal: literal(value, true), plain: literal(value, false),
		})
	}
	list = append(list, s)
	for i := range all {
		f := &all[i]
		if !f.table() {
			continue
		}
		here, key, value := below(path, f.name), f.name, v.Field(f.index)
		if s.key != "" {
			key = s.key + "." + key
		}
		switch table := value.Interface().(type) {
		case map[string]Credential:
			for _, name := range slices.Sorted(maps.Keys(table)) {
				sub := section{header: "[" + below(key, name) + "]", key: below(key, name)}
				list = flatten(list, sub, below(here, name), reflect.ValueOf(table[name]), restart || f.restart)
			}
		case []org.Organisation:
			for i := range table {
				o := fromOrg(&table[i])
				sub := section{header: "[[organisation]]", org: o.ID}
				list = flatten(list, sub, fmt.Sprintf("%s[%d]", here, i), reflect.ValueOf(o), false)
			}
		default:
			header := "[" + key + "]"
			if s.org != "" {
				header = "[organisation." + key + "]"
			}
			list = flatten(list, section{header: header, key: key, org: s.org}, here, value, restart || f.restart)
		}
	}
	return list
}

// literal writes a value as TOML. Redacted, it hides secrets and the values of
// headers, which are often secrets too.
func literal(v reflect.Value, redact bool) string {
	switch x := v.Interface().(type) {
	case secret.Text:
		if redact {
			return quote(x.String())
		}
		return quote(x.Reveal())
	case time.Duration:
		return quote(FormatDuration(x))
	case slog.Level:
		return quote(strings.ToLower(x.String()))
	case netip.Prefix:
		return quote(x.String())
	case map[string]string:
		pairs := make([]string, 0, len(x))
		for _, k := range slices.Sorted(maps.Keys(x)) {
			pairs = append(pairs, below("", k)+" = "+literal(reflect.ValueOf(secret.Text(x[k])), redact))
		}
		if len(pairs) == 0 {
			return "{}"
		}
		return "{ " + strings.Join(pairs, ", ") + " }"
	}
	switch v.Kind() {
	case reflect.String:
		return quote(v.String())
	case reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = literal(v.Index(i), redact)
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	return fmt.Sprint(v.Interface()) // bool, int, float64
}

// quote writes a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case isControl(c):
			fmt.Fprintf(&b, `\u%04X`, c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// Show returns the effective configuration as TOML with, per key, where its
// value came from. Secrets read <secret>.
func (c *Config) Show() string {
	made := map[string]bool{"callback_key": true, "master_key": true, "admin.token": true}
	var b strings.Builder
	for i, s := range c.sections() {
		if i > 0 {
			b.WriteByte('\n')
		}
		if s.header != "" {
			b.WriteString(s.header + "\n")
		}
		width := 0
		for _, e := range s.entries {
			width = max(width, min(60, len(e.name)+len(e.literal)+3))
		}
		for _, e := range s.entries {
			source := c.sources[e.path]
			if source == "" {
				source = "default"
				if made[e.path] && (e.literal == `""` || e.literal == "[]") {
					source = "default: made in data_dir at start"
				}
			}
			fmt.Fprintf(&b, "%-*s  # %s\n", width, e.name+" = "+e.literal, source)
		}
	}
	return b.String()
}

// String is Show, so that no print of a Config gives a secret away.
func (c Config) String() string { return c.Show() }

// GoString is Show.
func (c Config) GoString() string { return c.Show() }

// MarshalText is Show, for JSON and TOML.
func (c Config) MarshalText() ([]byte, error) { return []byte(c.Show()), nil }

// LogValue keeps a Config out of the log: it has hundreds of lines.
func (c Config) LogValue() slog.Value {
	return slog.StringValue("config with " + strconv.Itoa(len(c.Organisations)) + " organisations")
}

// Diff says in words what a reload from old to next changes, in the order of
// the file; nothing when nothing does. What SIGHUP cannot change reads "restart
// needed: listen.callback". Call EnsureKeys on both first.
func Diff(old, next *Config) []string {
	var words []string
	type key struct{ org, path string }
	collect := func(c *Config) (map[key]entry, []key, map[string]bool) {
		values, order, groups := map[key]entry{}, []key(nil), map[string]bool{}
		for _, s := range c.sections() {
			groups[group(s)] = true
			for _, e := range s.entries {
				k := key{s.org, strings.TrimPrefix(s.key+"."+e.name, ".")}
				values[k] = e
				order = append(order, k)
			}
		}
		return values, order, groups
	}
	before, _, groupsBefore := collect(old)
	after, order, groupsAfter := collect(next)
	for _, s := range next.sections() {
		if g := group(s); !groupsBefore[g] {
			groupsBefore[g] = true
			words = append(words, g+": added")
		}
	}
	for _, s := range old.sections() {
		g := group(s)
		if groupsAfter[g] {
			continue
		}
		groupsAfter[g] = true
		if s.org != "" {
			words = append(words, g+": not in the file any more, will be suspended; nothing removed")
		} else {
			words = append(words, g+": removed")
		}
	}
	for _, k := range order {
		was, ok := before[k]
		now := after[k]
		if !ok || was.plain == now.plain {
			continue
		}
		switch {
		case now.restart:
			words = append(words, "restart needed: "+k.path)
		case k.org != "":
			words = append(words, k.org+": "+k.path+" changed")
		default:
			words = append(words, k.path+" changed")
		}
	}
	return words
}

// KeepRunning puts back into next what a reload cannot change, as it is in the
// configuration that the process was started with: half of it would be used at
// once, and half after a restart. Call Diff first.
func KeepRunning(next, running *Config) {
	keep(reflect.ValueOf(next).Elem(), reflect.ValueOf(running).Elem())
}

func keep(next, running reflect.Value) {
	list := fields(next.Type())
	for i := range list {
		f := &list[i]
		switch {
		case f.restart:
			next.Field(f.index).Set(running.Field(f.index))
		case f.typ.Kind() == reflect.Struct:
			keep(next.Field(f.index), running.Field(f.index))
		}
	}
}

// group names what is added and removed as a whole: an organisation or a
// credential. Other sections are always there.
func group(s section) string {
	if s.org != "" {
		return s.org
	}
	return s.key
}
