package store

import (
	"testing"
	"time"
)

// BenchmarkLogEntry is what a ping costs on its way into the intake log and out
// of it again, without Redis: 32 of them make an entry, b.N counts pings.
func BenchmarkLogEntry(b *testing.B) {
	const group = 32
	items := make([]Item, group)
	for i := range items {
		items[i] = Item{KindPing, "main", testID(b, 1_000_000+uint64(i)), time.UnixMicro(1_790_000_000_123_456)}
	}
	buf := make([]byte, 0, 64*group)
	lines, _, err := appendItems(nil, items)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for n := 0; n < b.N; n += group {
			if buf, _, err = appendItems(buf[:0], items); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parse", func(b *testing.B) {
		b.ReportAllocs()
		for n := 0; n < b.N; n += group {
			if got, damaged := parseItems(lines); len(got) != group || len(damaged) != 0 {
				b.Fatalf("%d items, damaged %q", len(got), damaged)
			}
		}
	})
}
