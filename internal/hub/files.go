package hub

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// The files that WriteConfig writes, beside NAME.secret for each credential.
const (
	CredentialsFile = "credentials.toml"
	LegacyFile      = "legacy.csv"
)

// WriteConfig writes what the configuration file needs of an export into a
// directory: a piece of TOML with the ORCID credentials, a file with the secret
// of each, and the map of the Hub's callbacks. It overwrites nothing.
func (e *Export) WriteConfig(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory: %w", err)
	}
	type file struct {
		name string
		text []byte
	}
	var list []file
	var piece bytes.Buffer
	for _, c := range e.Credentials {
		fmt.Fprintf(&piece, "[orcid.credential.%s]\nclient_id = %q\nclient_secret_file = %q\n\n", c.Name, c.ClientID, c.Name+".secret")
		list = append(list, file{c.Name + ".secret", []byte(c.Secret.Reveal() + "\n")})
	}
	list = append(list, file{CredentialsFile, piece.Bytes()})
	var rows bytes.Buffer
	w := csv.NewWriter(&rows)
	_ = w.Write([]string{"user_id", "orcid", "credential"}) // into memory
	for _, r := range e.Legacy {
		_ = w.Write([]string{strconv.Itoa(r.UserID), r.ORCID.String(), r.Credential})
	}
	w.Flush()
	list = append(list, file{LegacyFile, rows.Bytes()})
	for _, f := range list {
		if _, err := os.Stat(filepath.Join(dir, f.name)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is there already; nothing was written", filepath.Join(dir, f.name))
		}
	}
	for _, f := range list {
		if err := os.WriteFile(filepath.Join(dir, f.name), f.text, 0o600); err != nil {
			return fmt.Errorf("write the configuration: %w", err)
		}
	}
	return nil
}

// CSV is the organisation's users as an import takes them.
func (o *Organisation) CSV() []byte {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	_ = w.Write([]string{"orcid", "email", "eppn", "name"}) // into memory
	for _, u := range o.Users {
		_ = w.Write([]string{u.ORCID.String(), u.Email, u.EPPN, u.Name})
	}
	w.Flush()
	return b.Bytes()
}
