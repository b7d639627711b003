package look

import (
	"strings"
	"testing"
)

func TestPicture(t *testing.T) {
	t.Parallel()
	got := string(Picture(`says "<b>"`, []Column{{Good: 3, Poor: 1, Label: "<i>"}, {}, {Poor: 1000}}))
	for want, n := range map[string]int{`class="good"`: 1, `class="poor"`: 2, "1,000": 1, "&lt;b&gt;": 1, "&lt;i&gt;": 1, "<b>": 0, "<i>": 0, "NaN": 0, "style": 0} {
		if strings.Count(got, want) != n {
			t.Errorf("%s stands %d times in it, want %d\n%s", want, strings.Count(got, want), n, got)
		}
	}
	if got := string(Picture("nothing", nil)); strings.Contains(got, "<rect") || strings.Contains(got, "NaN") || strings.Contains(got, "Inf") {
		t.Error(got)
	}
}
