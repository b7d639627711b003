package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dispatchd/internal/orcid"
)

// terminal opens a pseudo-terminal of that width.
func terminal(t *testing.T, columns int) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminal here: %v", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: uint16(columns)}); err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// screen shows what a terminal would: the lines that stay, and every line that was
// drawn and drawn over.
func screen(out []byte) (stay, drawn []string) {
	for _, text := range strings.Split(strings.TrimSuffix(string(out), "\n"), "\n") {
		frames := strings.Split(strings.TrimRight(text, "\r"), "\r\x1b[K")
		drawn = append(drawn, frames[:len(frames)-1]...)
		stay = append(stay, frames[len(frames)-1])
	}
	return stay, drawn
}

// onTerminal runs a command of the CLI in a process of its own on a terminal of
// that width, and returns all that came to it.
func (b *bundle) onTerminal(columns int, meanwhile func(), args ...string) []byte {
	b.Helper()
	master, slave := terminal(b.T, columns)
	cmd := exec.CommandContext(context.Background(), os.Args[0], append(args, "--admin", "http://"+b.addr)...)
	file := filepath.Join(b.TempDir(), "token")
	b.must(os.WriteFile(file, []byte(token), 0o600))
	cmd.Env = append(os.Environ(), "DISPATCHD_TEST_IS_CLI=1")
	cmd.Args = append(cmd.Args, "--token-file", file)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	b.must(cmd.Start())
	b.must(slave.Close())
	var out bytes.Buffer
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(&out, master)
		read <- err
	}()
	meanwhile()
	if err := cmd.Wait(); err != nil {
		b.Errorf("%q: %v", args, err)
	}
	// With nobody left on the other side the kernel says EIO.
	if err := <-read; err != nil && !errors.Is(err, syscall.EIO) {
		b.Fatal(err)
	}
	return out.Bytes()
}

// TestProgressOnARealTerminal of 80 and of 40 columns: each picture fits, is whole
// and is drawn over the one before; nothing of it stays.
func TestProgressOnARealTerminal(t *testing.T) {
	t.Parallel()
	for _, columns := range []int{80, 40} {
		t.Run(fmt.Sprint(columns), func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			ids := make([]orcid.ID, 1200)
			csv := "orcid,name\n"
			for i := range ids {
				var err error
				ids[i], err = orcid.FromBase(uint64(15_000_000 + i))
				b.must(err)
				csv += fmt.Sprintf("%s,Researcher %d\n", ids[i], i)
			}
			b.must(b.store.SetWork(t.Context(), ids, b.now()))
			b.actors.Rate, b.actors.Speed = 20, 10
			out := b.onTerminal(columns, func() {
				// Pictures come once a second; two are enough.
				timer := time.NewTimer(2500 * time.Millisecond)
				defer timer.Stop()
				<-timer.C
				b.clock.Add(-60_000) // none is due any more
			}, "registration", "status", "--follow")
			look(t, columns, out, "1,200 left", "Nothing is left to do.")

			b.fine("org", "add", "uni-z", "--name", "Z", "--url", "https://z.example/orcid", "--contact", "it@z.example")
			file := filepath.Join(t.TempDir(), "users.csv")
			b.must(os.WriteFile(file, []byte(csv), 0o600))
			out = b.onTerminal(columns, func() {}, "user", "import", file, "--org", "uni-z")
			look(t, columns, out, "lines", "1,200 lines: 1,200 new, 0 known, 0 bad")
		})
	}
}

// look checks every picture of a progress line and what stays of the output.
func look(t *testing.T, columns int, out []byte, says, last string) {
	t.Helper()
	stay, drawn := screen(out)
	pictures := 0
	for _, line := range drawn {
		if line == "" {
			continue
		}
		pictures++
		if n := textWidth(line); n >= columns {
			t.Errorf("%d columns in %d: %q", n, columns, line)
		}
		if !strings.HasPrefix(line, "[") || !strings.Contains(line, says) || strings.Contains(line, "…") {
			t.Errorf("not a whole picture: %q", line)
		}
	}
	if pictures == 0 {
		t.Errorf("nothing was drawn: %q", out)
	}
	for _, line := range stay {
		if strings.Contains(line, "\x1b") || strings.HasPrefix(line, "[#") || strings.HasPrefix(line, "[.") {
			t.Errorf("this stays: %q", line)
		}
	}
	if got := stay[len(stay)-1]; got != last && !strings.HasSuffix(strings.Join(stay, "\n"), last) {
		t.Errorf("the last line is %q, want %q", got, last)
	}
}

// TestProgressElsewhereHasNoControlCharacters.
func TestProgressElsewhereHasNoControlCharacters(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ids := make([]orcid.ID, 40)
	for i := range ids {
		var err error
		ids[i], err = orcid.FromBase(uint64(15_000_000 + i))
		b.must(err)
	}
	b.must(b.store.SetWork(t.Context(), ids, b.now()))
	b.actors.Rate, b.actors.Speed = 20, 10
	finished := make(chan result, 1)
	go func() { finished <- b.run("", "registration", "status", "--follow") }()
	timer := time.NewTimer(1500 * time.Millisecond)
	defer timer.Stop()
	<-timer.C
	b.clock.Add(-60_000)
	r := <-finished
	if strings.ContainsAny(r.out+r.err, "\x1b\r") {
		t.Errorf("%q %q", r.out, r.err)
	}
	if n := strings.Count(r.out, "["); n != 1 {
		t.Errorf("%d lines of progress where nothing moved: %q", n, r.out)
	}
}
