// Checks logs that tilenode exported, with nothing but golang.org/x/mod/sumdb/{tlog,note} and the tlog-tiles paths.
//
//	go_log VKEY DIR...    directories in ascending order of their logs' sizes
//
// For each: the checkpoint's signature, every entry against its leaf hash, the root, inclusion proofs of entries over
// the whole range, and consistency with every directory before it, all from the tiles on disk.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

// tiles reads tiles in the tlog-tiles layout, where the path has no height in it.
type tiles struct{ dir string }

func (t tiles) Height() int { return height }

func (t tiles) ReadTiles(want []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range want {
		path := strings.Replace(tile.Path(), fmt.Sprintf("tile/%d/", height), "tile/", 1)
		data, err := os.ReadFile(filepath.Join(t.dir, path))
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

func (t tiles) SaveTiles([]tlog.Tile, [][]byte) {}

type state struct {
	dir  string
	tree tlog.Tree
}

func fatal(err error, what string, args ...interface{}) {
	if err != nil {
		fmt.Printf("%s: %v\n", fmt.Sprintf(what, args...), err)
		os.Exit(1)
	}
}

func open(dir string, verifier note.Verifier) tlog.Tree {
	data, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	fatal(err, "%s: checkpoint", dir)
	opened, err := note.Open(data, note.VerifierList(verifier))
	fatal(err, "%s: signed note", dir)
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() {
		fatal(fmt.Errorf("%q", opened.Text), "%s: checkpoint text", dir)
	}
	// Go's own tree notes have another first line and otherwise the same form.
	tree, err := tlog.ParseTree([]byte("go.sum database tree\n" + strings.Join(lines[1:], "\n")))
	fatal(err, "%s: tree", dir)
	return tree
}

func entries(dir string, size int64) [][]byte {
	var all [][]byte
	for start := int64(0); start < size; start += 256 {
		width := size - start
		if width > 256 {
			width = 256
		}
		// The geometry of data tiles is that of level 0; only the name of the level differs.
		path := tlog.Tile{H: height, L: 0, N: start / 256, W: int(width)}.Path()
		path = strings.Replace(path, fmt.Sprintf("tile/%d/0/", height), "tile/entries/", 1)
		data, err := os.ReadFile(filepath.Join(dir, path))
		fatal(err, "%s: entries", dir)
		for len(data) > 0 {
			length := int(binary.BigEndian.Uint16(data))
			all = append(all, data[2:2+length])
			data = data[2+length:]
		}
	}
	if int64(len(all)) != size {
		fatal(fmt.Errorf("%d", len(all)), "%s: number of entries, expected %d", dir, size)
	}
	return all
}

func check(now state, before []state) int {
	size := now.tree.N
	if size == 0 {
		// Go defines the empty root as zeros; RFC 9162 and C2SP as the hash of nothing.
		if now.tree.Hash.String() != "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" {
			fatal(fmt.Errorf("%v", now.tree.Hash), "%s: empty root", now.dir)
		}
		return 0
	}
	// TileHashReader authenticates every tile against the signed root before it hands out a hash.
	reader := tlog.TileHashReader(now.tree, tiles{now.dir})
	root, err := tlog.TreeHash(size, reader)
	fatal(err, "%s: tree hash", now.dir)
	if root != now.tree.Hash {
		fatal(fmt.Errorf("%v", root), "%s: root, expected %v", now.dir, now.tree.Hash)
	}
	proofs := 0
	for index, entry := range entries(now.dir, size) {
		n := int64(index)
		leaf := tlog.RecordHash(entry)
		stored, err := reader.ReadHashes([]int64{tlog.StoredHashIndex(0, n)})
		fatal(err, "%s: leaf %d", now.dir, n)
		if stored[0] != leaf {
			fatal(fmt.Errorf("%v", stored[0]), "%s: leaf %d, expected %v", now.dir, n, leaf)
		}
		if n%37 == 0 || n == size-1 || n%256 == 255 {
			proof, err := tlog.ProveRecord(size, n, reader)
			fatal(err, "%s: proving entry %d", now.dir, n)
			fatal(tlog.CheckRecord(proof, size, now.tree.Hash, n, leaf), "%s: inclusion of %d", now.dir, n)
			proofs++
		}
	}
	for _, old := range before {
		if old.tree.N == 0 {
			continue
		}
		proof, err := tlog.ProveTree(size, old.tree.N, reader)
		fatal(err, "%s: proving consistency with %d", now.dir, old.tree.N)
		fatal(tlog.CheckTree(proof, size, now.tree.Hash, old.tree.N, old.tree.Hash), "%s: consistency with %d", now.dir, old.tree.N)
		proofs++
	}
	return proofs
}

func main() {
	verifier, err := note.NewVerifier(os.Args[1])
	fatal(err, "verifier key")
	var before []state
	for _, dir := range os.Args[2:] {
		now := state{dir, open(dir, verifier)}
		fmt.Printf("size %d: %d proofs\n", now.tree.N, check(now, before))
		before = append(before, now)
	}
}
