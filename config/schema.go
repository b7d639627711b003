package config

import (
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"dispatchd/internal/org"
	"dispatchd/internal/secret"
)

// The types that the walker, Show and the example treat by themselves.
var (
	typeDuration = reflect.TypeFor[time.Duration]()
	typeLevel    = reflect.TypeFor[slog.Level]()
	typePrefix   = reflect.TypeFor[netip.Prefix]()
	typeSecret   = reflect.TypeFor[secret.Text]()
	typeKeys     = reflect.TypeFor[[]secret.Text]()
	typeOrgs     = reflect.TypeFor[[]org.Organisation]()
	typeCreds    = reflect.TypeFor[map[string]Credential]()
)

// field is a key of a table, made of a struct field and its tags.
type field struct {
	name    string
	index   int
	typ     reflect.Type
	doc     string
	ship    string
	example string
	restart bool
}

// secret reports whether the key may also be written name_file.
func (f *field) secret() bool { return f.typ == typeSecret || f.typ == typeKeys }

// table reports whether the key is a table or an array or map of tables.
func (f *field) table() bool {
	return f.typ.Kind() == reflect.Struct || f.typ == typeOrgs || f.typ == typeCreds
}

// element returns the type of the table, or of each of its tables.
func (f *field) element() reflect.Type {
	switch f.typ {
	case typeOrgs:
		return reflect.TypeFor[organisation]()
	case typeCreds:
		return reflect.TypeFor[Credential]()
	}
	return f.typ
}

// fields returns the keys of a table's struct in order.
func fields(t reflect.Type) []field {
	var list []field
	for i := range t.NumField() {
		f := t.Field(i)
		name := f.Tag.Get("toml")
		if name == "" || name == "-" {
			continue
		}
		list = append(list, field{
			name: name, index: i, typ: f.Type, doc: f.Tag.Get("doc"), ship: f.Tag.Get("ship"),
			example: f.Tag.Get("example"), restart: f.Tag.Get("reload") == "restart",
		})
	}
	return list
}

// names returns every key that may stand in the table.
func names(list []field) []string {
	var all []string
	for i := range list {
		all = append(all, list[i].name)
		if list[i].secret() {
			all = append(all, list[i].name+"_file")
		}
	}
	return all
}

// tables returns, for a key, the headers of the tables that know it.
func tables(key string) []string {
	var found []string
	var visit func(header, path string, t reflect.Type)
	visit = func(header, path string, t reflect.Type) {
		list := fields(t)
		if slices.Contains(names(list), key) {
			found = append(found, header)
		}
		for i := range list {
			f := &list[i]
			if !f.table() {
				continue
			}
			below := strings.TrimPrefix(path+"."+f.name, ".")
			switch f.typ {
			case typeOrgs:
				visit("[["+below+"]]", below, f.element())
			case typeCreds:
				visit("["+below+".NAME]", below, f.element())
			default:
				visit("["+below+"]", below, f.element())
			}
		}
	}
	visit("the top of the file", "", reflect.TypeFor[Config]())
	return found
}

// nearest returns the word most like s, or "" when none is like it.
func nearest(s string, words []string) string {
	best, least := "", min(5, max(1, len(s)/3)+1)
	for _, w := range words {
		if d := distance(strings.ToLower(s), w); d < least {
			best, least = w, d
		}
	}
	return best
}

// distance counts insertions, deletions, changes and swaps of neighbours that
// make b of a, in their first 64 bytes.
func distance(a, b string) int {
	a, b = a[:min(len(a), 64)], b[:min(len(b), 64)]
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			rows[i][j] = min(change, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
