package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

// TestThePlotIsAnSVG with a line for each kind of latency and a point for each
// rate, whatever the figures are.
func TestThePlotIsAnSVG(t *testing.T) {
	t.Parallel()
	for name, curve := range map[string][]load{
		"usual":   {{250, 1.2, 1.8, 3.5, 0.01}, {5000, 4, 9, 25, 0.1}, {12_000, 40, 900, 2500, 3}},
		"extreme": {{0, 0, 0, 0, 0}, {1e6, 1e9, 1e9, 1e9, 1e3}},
		"nothing": nil,
	} {
		text := svg(curve, 6000, "a test")
		lines, d := 0, xml.NewDecoder(strings.NewReader(text))
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			el, ok := token.(xml.StartElement)
			if !ok || el.Name.Local != "polyline" {
				continue
			}
			lines++
			for _, a := range el.Attr {
				if a.Name.Local == "points" && len(strings.Fields(a.Value)) != len(curve) {
					t.Errorf("%s: %d points of %d", name, len(strings.Fields(a.Value)), len(curve))
				}
			}
		}
		if lines != len(plotLines) || strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
			t.Errorf("%s: %d lines\n%s", name, lines, text)
		}
	}
	for v, want := range map[float64]float64{0: 1, 0.3: 0.5, 1: 1, 1.1: 2, 2400: 5000, 7000: 10_000} {
		if got := niceStep(v); got != want {
			t.Errorf("a step for %v is %v", v, got)
		}
	}
}
