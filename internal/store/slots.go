package store

type slotMergers struct{}

func newSlotMergers(*Store) slotMergers { return slotMergers{} }
func (s *Store) waitMergers()           {}

type slotScripts struct{}

func newSlotScripts() slotScripts { return slotScripts{} }
