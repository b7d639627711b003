// Command licences writes docs/dependencies.md: every module that is linked into
// dispatchd, with the licence that its own LICENSE file holds; `make generate`
// runs it. It fails for a licence that does not go with Apache-2.0.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	out := flag.String("o", "dependencies.md", "the page to write")
	flag.Parse()
	page, err := write()
	if err == nil {
		err = os.WriteFile(*out, page, 0o644) //nolint:gosec // a page for everyone to read
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "list the dependencies:", err)
		os.Exit(1) //nolint:forbidigo // a generator is a program of its own
	}
}

// licences are told by words that only they have, the longer texts first.
var licences = []struct{ name, words string }{
	{"Apache-2.0", "Apache License"},
	{"MPL-2.0", "Mozilla Public License"},
	{"BSD-3-Clause", "endorse or promote products"},
	{"BSD-2-Clause", "Redistributions in binary form"},
	{"ISC", "Permission to use, copy, modify, and/or distribute this software"},
	{"ISC", "Permission to use, copy, modify, and distribute this software"},
	{"MIT", "Permission is hereby granted, free of charge"},
	{"Unlicense", "This is free and unencumbered software"},
}

type module struct {
	Path, Version, Dir string
	Main, Indirect     bool
}

func write() ([]byte, error) {
	cmd := exec.Command("go", "list", "-deps", "-json=Module", "dispatchd/daemon") //nolint:noctx // it ends by itself
	cmd.Stderr = os.Stderr
	raw, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list the packages: %w", err)
	}
	all := map[string]module{}
	for dec := json.NewDecoder(bytes.NewReader(raw)); ; {
		var p struct{ Module *module }
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read the list of packages: %w", err)
		}
		if p.Module != nil && !p.Module.Main {
			all[p.Module.Path] = *p.Module
		}
	}
	list := make([]module, 0, len(all))
	direct := 0
	for _, m := range all {
		list = append(list, m)
		if !m.Indirect {
			direct++
		}
	}
	slices.SortFunc(list, func(a, b module) int { return strings.Compare(a.Path, b.Path) })
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Dependencies\n\nMade by `make generate`. %d modules are linked into dispatchd, %d of them named in go.mod by us and %d through those.\n"+
		"All licences go with Apache-2.0. `make sbom` writes the same for programs (CycloneDX).\n\n"+
		"| module | version | licence | |\n|---|---|---|---|\n", len(list), direct, len(list)-direct)
	for _, m := range list {
		licence, err := licenceOf(m.Dir)
		if err != nil {
			return nil, fmt.Errorf("module %s: %w", m.Path, err)
		}
		through := ""
		if m.Indirect {
			through = "through another"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", m.Path, m.Version, licence, through)
	}
	return b.Bytes(), nil
}

// licenceOf reads a module's LICENSE file.
func licenceOf(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		name := strings.ToUpper(e.Name())
		if e.IsDir() || !strings.HasPrefix(name, "LICEN") && !strings.HasPrefix(name, "COPYING") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", err
		}
		// Line breaks differ from copy to copy.
		flat := strings.Join(strings.Fields(string(text)), " ")
		for _, l := range licences {
			if strings.Contains(flat, l.words) {
				return l.name, nil
			}
		}
	}
	return "", errors.New("no licence that is known to go with Apache-2.0")
}
