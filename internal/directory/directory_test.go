package directory

import (
	"testing"

	"dispatchd/internal/org"
)

func TestDirectoryHandsOutWhatWasPutLast(t *testing.T) {
	t.Parallel()
	d := New()
	d.Put(org.Organisation{ID: "b", Name: "old"})
	old, ok := d.Organisation("b")
	if !ok {
		t.Fatal("b is not there")
	}
	d.Put(org.Organisation{ID: "b", Name: "new"})
	d.Put(org.Organisation{ID: "a"})
	if got, _ := d.Organisation("b"); got.Name != "new" || old.Name != "old" {
		t.Errorf("b is %q now and was %q", got.Name, old.Name)
	}
	if all := d.All(); len(all) != 2 || all[0].ID != "a" || d.Len() != 2 {
		t.Errorf("All is not in the order of ids: %v", all)
	}
	d.Remove("b")
	if _, ok := d.Organisation("b"); ok || d.Len() != 1 {
		t.Error("b is still there")
	}
}
