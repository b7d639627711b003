package spool

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	lockTimeout = time.Second // how long a spool of another process is waited for
	fileMode    = 0o600
	// deepCheckSize is the largest file whose free list is checked, too, when
	// it is opened: bbolt's own check keeps a map of every page.
	deepCheckSize = 64 << 20
)

// damaged says what is wrong with the file and what to do about it.
func damaged(path, what string) error {
	what = strings.TrimPrefix(what, ErrDamaged.Error()+": ")
	return fmt.Errorf("%w: %s: %s; stop dispatchd, move the file away but keep it (it may hold acknowledged pings), "+
		"start again, then let a catch-up find what it held", ErrDamaged, path, what)
}

// openFile opens or creates the file and checks that it is whole.
func openFile(path string) (*bolt.DB, Stats, error) {
	switch fi, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		if err := createFile(path); err != nil {
			return nil, Stats{}, fmt.Errorf("create spool %s: %w", path, err)
		}
	case err != nil:
		return nil, Stats{}, fmt.Errorf("open spool: %w", err)
	case !fi.Mode().IsRegular():
		return nil, Stats{}, fmt.Errorf("open spool %s: not a regular file", path)
	case fi.Size() == 0:
		// bbolt would make a new spool of it; createFile never leaves one.
		return nil, Stats{}, damaged(path, "it is empty")
	}
	db, err := openBolt(path)
	if err != nil {
		return nil, Stats{}, err
	}
	stats, err := check(db)
	if err != nil {
		if errors.Is(err, errPanicked) {
			return nil, Stats{}, damaged(path, err.Error()) // closing it could hang
		}
		_ = db.Close() // the other error tells more
		return nil, Stats{}, damaged(path, err.Error())
	}
	return db, stats, nil
}

// openBolt opens the file; what a damaged one does to bbolt becomes an error.
func openBolt(path string) (db *bolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = damaged(path, fmt.Sprint(r))
		}
	}()
	// The free list stays synced: rebuilding it at start reads the whole file.
	db, err = bolt.Open(path, fileMode, &bolt.Options{Timeout: lockTimeout, FreelistType: bolt.FreelistMapType, NoStatistics: true})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("open spool %s: another process has it; is a second dispatchd running on this data_dir?", path)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch),
		errors.Is(err, bolterrors.ErrInvalidMapping):
		return nil, damaged(path, err.Error())
	case err != nil:
		var perr *fs.PathError
		if errors.As(err, &perr) {
			return nil, fmt.Errorf("open spool: %w", err)
		}
		return nil, damaged(path, err.Error()) // bbolt's texts about short files have no type
	}
	return db, nil
}

// createFile makes an empty spool beside path and puts it in place only when
// it is whole and on the disk, so that an unfinished or empty file at path is
// always damage.
func createFile(path string) error {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // an extra file does no harm
	if err := tmp.Close(); err != nil {
		return err
	}
	db, err := bolt.Open(tmp.Name(), fileMode, &bolt.Options{Timeout: lockTimeout, FreelistType: bolt.FreelistMapType, NoStatistics: true})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{metaBucket, keysBucket, orderBucket} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		b, err := bucketsOf(tx)
		if err != nil {
			return err
		}
		if err := b.meta.Put(formatKey, format); err != nil {
			return err
		}
		return b.saveStats(Stats{})
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	// A link, unlike a rename, never replaces the file of another process.
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		if err := os.Rename(tmp.Name(), path); err != nil { // no links on this file system
			return err
		}
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

var errPanicked = errors.New("reading it fails")

// check reads every key and every place once and compares them with each
// other and with the books. It is linear and sequential: 0.6 s was measured for a
// million pings.
func check(db *bolt.DB) (stats Stats, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errPanicked, r)
		}
	}()
	err = db.View(func(tx *bolt.Tx) error {
		fi, err := os.Stat(db.Path())
		if err != nil {
			return err
		}
		if fi.Size() < tx.Size() {
			return fmt.Errorf("it was cut off: %d bytes of %d are there", fi.Size(), tx.Size())
		}
		b, err := bucketsOf(tx)
		if err != nil {
			return err
		}
		if f := b.meta.Get(formatKey); !bytes.Equal(f, format) {
			return fmt.Errorf("its format is %q, this dispatchd knows %q", f, format)
		}
		if stats, err = b.loadStats(); err != nil {
			return err
		}
		if err := b.compare(stats.Waiting); err != nil {
			return err
		}
		if stats.Oldest, err = b.oldest(); err != nil {
			return err
		}
		if tx.Size() > deepCheckSize {
			return nil
		}
		// Only after every page could be read: bbolt's check runs in a
		// goroutine of its own, where a fault would end the process.
		var first error
		for err := range tx.Check() {
			if first == nil {
				first = err
			}
		}
		return first
	})
	return stats, err
}

// compare checks that keys and order hold the same pairs of key and place, and
// as many as the books say, by a sum that does not depend on their order.
func (b *buckets) compare(waiting int64) error {
	var keys, places int64
	var sum uint64
	seed := maphash.MakeSeed()
	pair := func(place, key []byte) uint64 {
		var h maphash.Hash
		h.SetSeed(seed)
		h.Write(place)
		h.Write(key)
		return h.Sum64()
	}
	var last []byte
	err := b.keys.ForEach(func(key, val []byte) error {
		v, err := decodeValue(val)
		if err != nil {
			return err
		}
		if _, _, err := decodeKey(key); err != nil {
			return err
		}
		if bytes.Compare(last, key) >= 0 {
			return fmt.Errorf("%w: keys are out of order", ErrDamaged)
		}
		last = key
		keys++
		sum += pair(encodePlace(v.place), key)
		return nil
	})
	if err != nil {
		return err
	}
	last = nil
	err = b.order.ForEach(func(place, key []byte) error {
		if len(place) != 8 || bytes.Compare(last, place) >= 0 {
			return fmt.Errorf("%w: places are out of order", ErrDamaged)
		}
		last = place
		places++
		sum -= pair(place, key)
		return nil
	})
	if err != nil {
		return err
	}
	if keys != places || keys != waiting || sum != 0 {
		return fmt.Errorf("%w: %d keys, %d places, %d in the books, or not the same ones", ErrDamaged, keys, places, waiting)
	}
	return nil
}
