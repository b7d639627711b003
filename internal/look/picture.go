package look

import (
	"fmt"
	"html/template"
	"strings"
)

// Column is one column of a picture: how much of it is good and how much poor
// news, and what stands below it; an empty label leaves the place free.
type Column struct {
	Good, Poor int
	Label      string
}

// The picture's measures, in its own units: it grows and shrinks with the page.
const (
	pictureWidth, pictureHeight = 720.0, 160.0
	pictureTop, pictureBottom   = 18.0, 28.0
	pictureLeft                 = 56.0
)

// Picture draws columns, the oldest first, as an SVG without any style of its
// own. Says is what somebody hears who does not see it.
func Picture(says string, columns []Column) template.HTML {
	most := 1
	for _, c := range columns {
		most = max(most, c.Good+c.Poor)
	}
	var b strings.Builder
	text := func(x, y float64, anchor, s string) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, x, y, anchor, template.HTMLEscapeString(s))
	}
	fmt.Fprintf(&b, `<svg class="picture" viewBox="0 0 %.0f %.0f" role="img" aria-label="%s">`, pictureWidth, pictureHeight, template.HTMLEscapeString(says))
	base, room := pictureHeight-pictureBottom, pictureHeight-pictureBottom-pictureTop
	step := (pictureWidth - pictureLeft) / float64(max(len(columns), 1))
	for i, c := range columns {
		x := pictureLeft + float64(i)*step
		y := base
		for _, part := range []struct {
			n     int
			class string
		}{{c.Good, "good"}, {c.Poor, "poor"}} {
			if part.n <= 0 {
				continue
			}
			h := max(room*float64(part.n)/float64(most), 1.5) // one of a thousand is seen too
			y -= h
			fmt.Fprintf(&b, `<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f"></rect>`, part.class, x+step*0.1, y, step*0.8, h)
		}
		if c.Label != "" {
			text(x+step/2, pictureHeight-6, "middle", c.Label)
		}
	}
	fmt.Fprintf(&b, `<line class="axis" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"></line>`, pictureLeft, base, pictureWidth, base)
	text(pictureLeft-6, pictureTop+4, "end", Num(most))
	text(pictureLeft-6, base, "end", "0")
	b.WriteString("</svg>")
	return template.HTML(b.String()) //nolint:gosec // every text in it was escaped above, the rest is numbers
}
