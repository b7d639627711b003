package peer

import (
	"context"
	"log/slog"
	"time"
)

// Audit writes the line about one change by a person: what, who, from where. It
// goes past the log's level, which is for what dispatchd says of itself: who
// wants less of that still wants to know who changed what.
func Audit(log *slog.Logger, what, who, from string, args ...any) {
	r := slog.NewRecord(time.Now(), slog.LevelInfo, "audit", 0)
	r.Add("what", what, "who", who, "from", from)
	r.Add(args...)
	_ = log.Handler().Handle(context.Background(), r) // as slog does: where else to say it?
}
