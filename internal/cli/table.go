package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// width is how wide everything for people is at most, so that it fits the
// smallest terminal in use and a mail.
const width = 80

// column is one column of a table.
type column struct {
	title string
	right bool // numbers
	// least is how narrow the column may become so that the table fits; 0 means
	// that it is never clipped.
	least int
}

// table prints rows under their titles, aligned and at most width wide: the
// widest column that may be clipped is, until the rest fits.
func table(w io.Writer, indent string, columns []column, rows [][]string) {
	widths := make([]int, len(columns))
	for i, c := range columns {
		widths[i] = textWidth(c.title)
		for _, row := range rows {
			widths[i] = max(widths[i], textWidth(safe(row[i])))
		}
	}
	total := textWidth(indent) + 2*(len(columns)-1)
	for _, n := range widths {
		total += n
	}
	for total > width {
		widest := -1
		for i, c := range columns {
			if c.least > 0 && widths[i] > c.least && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
		total--
	}
	line := func(cells []string) {
		var b strings.Builder
		b.WriteString(indent)
		for i, cell := range cells {
			if i > 0 {
				b.WriteString("  ")
			}
			cell = clip(safe(cell), widths[i])
			pad := strings.Repeat(" ", widths[i]-textWidth(cell))
			if columns[i].right {
				b.WriteString(pad + cell)
			} else {
				b.WriteString(cell + pad)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
	titles := make([]string, len(columns))
	for i, c := range columns {
		titles[i] = c.title
	}
	line(titles)
	for _, row := range rows {
		line(row)
	}
}

// safe replaces what could move the cursor or turn the text around: names and
// answers come from outside.
func safe(s string) string {
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029' {
			return '?'
		}
		return r
	}, s)
}

// clip shortens s to n columns, with an ellipsis for what is missing.
func clip(s string, n int) string {
	if textWidth(s) <= n {
		return s
	}
	used := 0
	for i, r := range s {
		w := runeWidth(r)
		if used+w > n-1 {
			return s[:i] + "…"
		}
		used += w
	}
	return s
}

func textWidth(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

// runeWidth is 2 for what terminals draw over two columns, 0 for what they draw
// over the rune before.
func runeWidth(r rune) int {
	switch {
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case r >= 0x1100 && r <= 0x115f, r >= 0x2e80 && r <= 0xa4cf, r >= 0xac00 && r <= 0xd7a3, r >= 0xf900 && r <= 0xfaff,
		r >= 0xfe30 && r <= 0xfe6f, r >= 0xff00 && r <= 0xff60, r >= 0xffe0 && r <= 0xffe6, r >= 0x1f300 && r <= 0x1faff, r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}

// wrap prints text with a first prefix and later ones, broken at spaces, and
// within words that are wider than a line (a URL). What stands in backquotes is
// a command to be copied and stays whole.
func wrap(w io.Writer, first, later, text string) { flow(w, first, later, text, true) }

// complain prints the lines of an error; words stay whole, so that paths can
// be copied.
func complain(w io.Writer, text string) {
	first := "dispatchd: "
	for line := range strings.Lines(text) {
		indent := line[:len(line)-len(strings.TrimLeft(line, " "))]
		flow(w, first+indent, indent+"  ", line, false)
		first = ""
	}
}

func flow(w io.Writer, first, later, text string, split bool) {
	line, prefix := "", first
	for _, word := range words(safe(strings.TrimSpace(text))) {
		switch {
		case line == "":
			line = word
		case textWidth(prefix)+textWidth(line)+1+textWidth(word) <= width:
			line += " " + word
		default:
			fmt.Fprintln(w, prefix+line)
			line, prefix = word, later
		}
		for split && word[0] != '`' && textWidth(prefix)+textWidth(line) > width {
			cut := strings.TrimSuffix(clip(line, width-textWidth(prefix)+1), "…")
			fmt.Fprintln(w, prefix+cut)
			line, prefix = line[len(cut):], later
		}
	}
	if line != "" {
		fmt.Fprintln(w, prefix+line)
	}
}

// words are the words of a text; what stands in backquotes is one.
func words(text string) []string {
	quoted := false
	return strings.FieldsFunc(text, func(r rune) bool {
		if r == '`' {
			quoted = !quoted
		}
		return r == ' ' && !quoted
	})
}

// number writes n with commas.
func number[T int | int64](n T) string {
	s := strconv.FormatInt(int64(n), 10)
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// clock writes a moment in UTC; "-" for none.
func clock(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// day is clock without the year, for tables.
func day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("01-02 15:04:05Z")
}

// age writes how long ago t was; "-" for never.
func age(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return span(now.Sub(t))
}

// span writes a duration with its two largest units.
func span(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

// yesNo writes a switch.
func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// orDash writes "-" for nothing.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
