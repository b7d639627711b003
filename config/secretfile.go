package config

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"dispatchd/internal/secret"
)

// maxSecret is the largest secret file.
const maxSecret = 64 << 10

// secret fills a secret from name or from the file that name_file names.
func (r *reader) secret(path string, f *field, raw map[string]any, into reflect.Value) {
	direct, hasDirect := r.secretText(below(path, f.name), raw, f.name)
	file, hasFile := r.secretText(below(path, f.name+"_file"), raw, f.name+"_file")
	key := below(path, f.name)
	switch {
	case hasDirect && hasFile:
		r.wrong(below(path, f.name+"_file"), "give either %s or %s_file, not both", f.name, f.name)
		return
	case hasFile:
		key = below(path, f.name+"_file")
		content, found, err := r.readSecret(file)
		if err != nil {
			r.wrong(key, "%s", err.Error())
			return
		}
		direct = strings.TrimSpace(string(content))
		if direct == "" {
			r.wrong(key, "file %q is empty", found)
			return
		}
		r.sources[below(path, f.name)] = r.sources[key] + ", from " + found
	case !hasDirect:
		return
	default:
		if r.o.exposed {
			r.warn(key, "everyone can read this file, and so the secret; chmod it to 0600 or use %s_file", f.name)
		}
	}
	if f.typ == typeKeys {
		keys, err := splitKeys(direct)
		if err != nil {
			r.wrong(key, "%s", err.Error())
			return
		}
		into.Set(reflect.ValueOf(keys))
		return
	}
	if strings.ContainsFunc(direct, isControl) {
		r.wrong(key, "must be one line without control characters")
		return
	}
	into.SetString(direct)
}

// secretText returns a text that may be a secret or a file name; empty is unset.
func (r *reader) secretText(path string, raw map[string]any, key string) (string, bool) {
	v, ok := raw[key]
	if !ok {
		return "", false
	}
	s, ok := r.text(path, v)
	return s, ok && s != ""
}

// readSecret reads the file and says where it was found. A bare name is looked
// up in CredentialsDir, then in Dir/secrets, then in Dir.
func (r *reader) readSecret(name string) (content []byte, found string, err error) {
	var places []string
	if !strings.ContainsRune(name, filepath.Separator) && name != "." && name != ".." {
		if r.o.CredentialsDir != "" {
			places = append(places, filepath.Join(r.o.CredentialsDir, name))
		}
		places = append(places, r.resolve(filepath.Join("secrets", name)))
	}
	places = append(places, r.resolve(name))
	for _, place := range places {
		content, err = r.readFile(place, !r.isCredential(place))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, place, fileError(place, err)
		}
		return content, place, nil
	}
	for i := range places {
		places[i] = strconv.Quote(places[i])
	}
	return nil, "", fmt.Errorf("there is no file %s", strings.Join(places, " or "))
}

// isCredential reports whether the file is in CredentialsDir, whose maker guards
// it: systemd shows modes there that look open, and containers cannot set them.
func (r *reader) isCredential(path string) bool {
	return r.o.CredentialsDir != "" && strings.HasPrefix(path, filepath.Clean(r.o.CredentialsDir)+string(filepath.Separator))
}

func (r *reader) readFile(path string, guarded bool) ([]byte, error) {
	if r.o.ReadFile != nil {
		return r.o.ReadFile(path)
	}
	return readFile(path, guarded)
}

// readFile reads a small regular file. A guarded file must not be exposed.
func readFile(path string, guarded bool) ([]byte, error) {
	// Looked at before it is opened: opening a pipe would wait for its writer.
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if info, err = f.Stat(); err != nil {
		return nil, err
	}
	if guarded && exposed(info.Mode()) {
		return nil, fmt.Errorf("has mode %04o: others could read or change the secret; chmod 0600 it (0640 is fine too)", info.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(b) > maxSecret {
		return nil, errors.New("is larger than 64 KiB")
	}
	return b, err
}

// fileError words an error of a file once, without the operation's name.
func fileError(path string, err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return fmt.Errorf("file %q: %w", path, err)
}

// splitKeys reads keys, one a line; empty lines do not count.
func splitKeys(text string) ([]secret.Text, error) {
	var keys []secret.Text
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if err := checkKey(line); err != nil {
			return nil, fmt.Errorf("key in line %d %w", i+1, err)
		}
		if slices.Contains(keys, secret.Text(line)) {
			return nil, fmt.Errorf("key in line %d stands in the list twice", i+1)
		}
		keys = append(keys, secret.Text(line))
	}
	if len(keys) == 0 {
		return nil, errors.New("has no key")
	}
	return keys, nil
}

// checkKey says what keeps text from being a key, never the text.
func checkKey(text string) error {
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
	switch {
	case err != nil:
		return errors.New("is not base64url; make one with: openssl rand -base64 32 | tr '+/' '-_'")
	case len(b) < 32:
		return fmt.Errorf("has %d bytes, needs at least 32 random ones; make one with: openssl rand -base64 32 | tr '+/' '-_'", len(b))
	}
	return nil
}

func isControl(c rune) bool { return c < 0x20 || c >= 0x7f && c < 0xa0 }
