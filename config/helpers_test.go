package config

import (
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testKey   = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"
	testWhsec = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
)

// secretFor makes the content of a secret file that suits its name.
func secretFor(path string) []byte {
	switch {
	case strings.HasSuffix(path, ".key"):
		return []byte(testKey + "\n")
	case strings.HasSuffix(path, ".whsec"):
		return []byte(testWhsec + "\n")
	}
	return []byte("hunter2-" + filepath.Base(path) + "\n")
}
