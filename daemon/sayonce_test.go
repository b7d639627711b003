package main

import (
	"slices"
	"testing"
)

// What a reload says of an organisation, it says once.
func TestAReloadTellsOfAnOrganisationOnce(t *testing.T) {
	t.Parallel()
	got := sayOnce(
		[]string{"uni-a: added", "uni-b: webhook.url changed", "uni-c: name changed", "uni-gone: not in the file any more, will be suspended; nothing removed", "delivery.timeout changed"},
		[]string{"uni-a: added", "uni-b: webhook.url changed; nothing removed", "uni-gone: it vanished and is suspended"},
	)
	want := []string{"uni-c: name changed", "delivery.timeout changed", "uni-a: added", "uni-b: webhook.url changed; nothing removed", "uni-gone: it vanished and is suspended"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}
