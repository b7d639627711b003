package main

import (
	"fmt"
	"math"
	"strings"
)

// The drawing's size, and the frame of the plot inside it.
const (
	plotWide, plotHigh      = 760, 420
	plotLeft, plotRight     = 82, 590
	plotTop, plotBottom     = 50, 360
	plotLowest, plotHighest = 0.5, 20_000.0 // ms
)

// plotLine is one line of the plot.
type plotLine struct {
	name, colour, dash string
	value              func(load) float64
}

var plotLines = []plotLine{
	{"204, p99", "#1b7837", "", func(l load) float64 { return l.AnswerMS }},
	{"received, p50", "#2166ac", "6 3", func(l load) float64 { return l.P50MS }},
	{"received, p99", "#b2182b", "2 2", func(l load) float64 { return l.P99MS }},
}

// svg draws latency (ms, logarithmic) against offered load, with a mark where
// the daemon no longer keeps up.
func svg(curve []load, capacity float64, what string) string {
	most := capacity
	for _, l := range curve {
		most = max(most, l.Offered)
	}
	step := niceStep(most / 5)
	right := math.Ceil(most/step) * step
	x := func(rate float64) float64 { return plotLeft + (plotRight-plotLeft)*rate/right }
	y := func(ms float64) float64 {
		share := math.Log(min(max(ms, plotLowest), plotHighest)/plotLowest) / math.Log(plotHighest/plotLowest)
		return plotBottom - (plotBottom-plotTop)*share
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", plotWide, plotHigh)
	fmt.Fprintf(&b, `<title>Latency against offered load</title><rect width="%d" height="%d" fill="#fff"/>`+"\n", plotWide, plotHigh)
	fmt.Fprintf(&b, `<text x="%d" y="24" font-size="15">Latency against offered load</text><text x="%d" y="40" fill="#555">%s</text>`+"\n", plotLeft, plotLeft, what)
	for _, ms := range []float64{1, 10, 100, 1000, 10_000} {
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%s ms</text>`+"\n",
			plotLeft, plotRight, y(ms), y(ms), plotLeft-6, y(ms)+4, grouped(int64(ms)))
	}
	for rate := 0.0; rate <= right; rate += step {
		fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#999"/><text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n",
			x(rate), x(rate), plotBottom, plotBottom+5, x(rate), plotBottom+20, grouped(int64(rate)))
	}
	fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%d" height="%d" fill="none" stroke="#999"/>`+"\n", plotLeft, plotTop, plotRight-plotLeft, plotBottom-plotTop)
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">pings a second offered</text>`+"\n", (plotLeft+plotRight)/2, plotBottom+42)
	fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#555" stroke-dasharray="4 4"/>`+"\n", x(capacity), x(capacity), plotTop, plotBottom)
	fmt.Fprintf(&b, `<text x="%.1f" y="%d" fill="#555">beyond: the queue grows</text>`+"\n", x(capacity)+5, plotTop+14)
	for i, line := range plotLines {
		points := make([]string, len(curve))
		for j, l := range curve {
			points[j] = fmt.Sprintf("%.1f,%.1f", x(l.Offered), y(line.value(l)))
		}
		dash := ""
		if line.dash != "" {
			dash = ` stroke-dasharray="` + line.dash + `"`
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"%s/>`+"\n", strings.Join(points, " "), line.colour, dash)
		at := plotTop + 20 + 22*i
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%d" y2="%d" stroke="%s" stroke-width="2"%s/><text x="%d" y="%d">%s</text>`+"\n",
			plotRight+14, plotRight+44, at, at, line.colour, dash, plotRight+50, at+4, line.name)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// niceStep is the smallest of 1, 2, 5, 10 … that is not below v.
func niceStep(v float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= v {
			return m * power
		}
	}
	return 10 * power
}
