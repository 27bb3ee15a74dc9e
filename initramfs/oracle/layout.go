package oracle

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Layout writes an OCI image layout with one image into the folder dir, as skopeo
// does: config is what docker inspect has under Config, and layers are the names of
// tars.
func Layout(t testing.TB, dir string, config map[string]any, layers ...string) {
	t.Helper()
	blobs := filepath.Join(dir, "blobs/sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	type object = map[string]any
	blob := func(kind string, data []byte) object {
		sum := fmt.Sprintf("%x", sha256.Sum256(data))
		if err := os.WriteFile(filepath.Join(blobs, sum), data, 0o644); err != nil {
			t.Fatal(err)
		}
		return object{"mediaType": kind, "digest": "sha256:" + sum, "size": len(data)}
	}
	text := func(v object) []byte {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	var all []object
	for _, name := range layers {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		kind := "application/vnd.oci.image.layer.v1.tar"
		if bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
			kind += "+gzip"
		}
		all = append(all, blob(kind, data))
	}
	manifest := blob("application/vnd.oci.image.manifest.v1+json", text(object{
		"schemaVersion": 2,
		"config": blob("application/vnd.oci.image.config.v1+json", text(object{
			"os": "linux", "architecture": "amd64", "config": config,
		})),
		"layers": all,
	}))
	for name, data := range map[string][]byte{
		"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`),
		"index.json": text(object{"schemaVersion": 2, "manifests": []object{manifest}}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
