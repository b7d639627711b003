package config

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/*.want anew; read the difference before committing it")

// testFiles are the secret files of the cases.
func testFiles(path string) ([]byte, error) {
	switch filepath.Base(path) {
	case "missing", "missing.pem":
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	case "denied":
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrPermission}
	case "empty":
		return []byte(" \n\n"), nil
	case "lines":
		return []byte("hunter2-first\nhunter2-second\n"), nil
	}
	return secretFor(path), nil
}

// Each testdata/conf.CASE.toml gives exactly the errors and warnings that stand
// in conf.CASE.want, and never a secret: those are all called hunter2.
func TestEveryMistakeIsReportedWithItsLine(t *testing.T) {
	t.Parallel()
	cases, err := filepath.Glob("testdata/conf.*.toml")
	if err != nil || len(cases) < 10 {
		t.Fatalf("testdata is not there: %v, %v", cases, err)
	}
	for _, path := range cases {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			c, err := Parse("config.toml", data, LoadOptions{Dir: "/etc/dispatchd", CredentialsDir: "/run/credentials", ReadFile: testFiles})
			var got strings.Builder
			var warnings []Error
			var e *Errors
			if errors.As(err, &e) {
				got.WriteString(e.Error() + "\n")
				warnings = e.Warnings
			} else if err != nil {
				t.Fatalf("not *Errors: %v", err)
			} else {
				warnings = c.Warnings
			}
			for _, w := range warnings {
				got.WriteString("warning: " + w.Error() + "\n")
			}
			want := strings.TrimSuffix(path, ".toml") + ".want"
			if *update {
				if err := os.WriteFile(want, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			golden, err := os.ReadFile(want)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(golden) {
				t.Errorf("got:\n%s\nwant:\n%s", got.String(), golden)
			}
			if strings.Contains(got.String(), "hunter2") {
				t.Errorf("a secret shows:\n%s", got.String())
			}
		})
	}
}

// What the parser repeats of the file may be a secret.
func TestSyntaxErrorsDoNotRepeatTheFile(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"password = hunter2", "password = 424242424242424242424242", "password = 4242_", "password = 0x4242zz", "password = 4242.4242.4242",
		"password = 4242-42-42", "password = 424242hunter2", "password = \"hunter2", "password = \"hunter2\\q\"", "password = 'hunter2\n'", "hunter2=", "hunter2",
		"password = truehunter2", "password = +0x4242", "password = 424242e", "password = \"\"\"hunter2", "password = [hunter2]", "hunter2 = 1\nhunter2 = 2",
		"a = 1\n[redis.a.hunter2]", "password = { hunter2 }", "password = \"\\u4242424\" hunter2", "password = 042424242", "password = -", "password = 4242:42:42", "password = 'hunter2' 4242",
	} {
		_, err := Parse("c.toml", []byte("[redis]\n"+line+"\n"), LoadOptions{})
		var one Error
		if !errors.As(err, &one) || !strings.HasPrefix(one.Why, "is not TOML: ") {
			t.Errorf("%q: %v", line, err)
			continue
		}
		if strings.Contains(one.Error(), "hunter2") || strings.Contains(one.Error(), "4242") {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestErrorsGiveEachError(t *testing.T) {
	t.Parallel()
	_, err := Parse("x.toml", []byte("a = 1\n"), LoadOptions{})
	var one Error
	if !errors.As(err, &one) || one.File != "x.toml" || one.Line != 1 || one.Key != "a" {
		t.Errorf("errors.As gives %+v of %v", one, err)
	}
}

func TestTooMuchIsRefusedBeforeItIsParsed(t *testing.T) {
	t.Parallel()
	deep := "\na = " + strings.Repeat("[", 100_000)
	for text, want := range map[string]string{
		deep:                           "x.toml:2: syntax: is nested too deeply",
		strings.Repeat("#", maxSize+1): "x.toml:1: syntax: is larger than 32 MiB; is this the right file?",
	} {
		if _, err := Parse("x.toml", []byte(text), LoadOptions{}); err == nil || err.Error() != want {
			t.Errorf("got %.200v, want %s", err, want)
		}
	}
}
