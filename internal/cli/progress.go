package cli

import (
	"fmt"
	"strings"
)

// bars are how wide the bar of a progress line is: the first that fits.
var bars = [...]int{20, 10, 5}

// word is a part of a progress line; where there is no room for all, those with
// the lowest rank go first.
type word struct {
	text string
	rank int
}

// progressLine says in at most room columns how far something is: a bar, when part
// (0 to 1) is known, and the words, as far as they fit.
func progressLine(room int, part float64, known bool, words ...word) string {
	part = min(max(part, 0), 1)
	for {
		var texts []string
		for _, w := range words {
			if w.text != "" {
				texts = append(texts, w.text)
			}
		}
		said := strings.Join(texts, ", ")
		if !known && (textWidth(said) <= room || len(texts) < 2) {
			return clip(said, room)
		}
		for _, full := range bars {
			done := int(part * float64(full))
			line := fmt.Sprintf("[%s%s] %3d%%  %s", strings.Repeat("#", done), strings.Repeat(".", full-done), int(part*100), said)
			if known && textWidth(line) <= room {
				return line
			}
		}
		if len(texts) < 2 {
			return clip(strings.TrimSpace(fmt.Sprintf("%d%% %s", int(part*100), said)), room)
		}
		words = withoutLowest(words)
	}
}

// withoutLowest leaves out the word of the lowest rank that says anything.
func withoutLowest(words []word) []word {
	low := -1
	for i, w := range words {
		if w.text != "" && (low < 0 || w.rank < words[low].rank) {
			low = i
		}
	}
	out := append([]word(nil), words...)
	out[low].text = ""
	return out
}

// room is how many columns a progress line may have on a stream: the last one is
// left free, where some terminals wrap.
func (s *session) room(stream any) int {
	if n := s.env.Columns(stream); n > 1 {
		return min(n, 2*width) - 1
	}
	return width - 1
}

// eraseLine goes back to the beginning of the line and empties it.
const eraseLine = "\r\x1b[K"
