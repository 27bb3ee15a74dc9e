package rootfs

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"cocoroot/initramfs/image/fsimage"
	"cocoroot/initramfs/oracle"
)

// Archives that the tools wrote of one image, which has three layers, of which the last is
// the first again, so that docker 20 has a link for it: "a" is made, then taken away as
// bin/b comes, then made again. skopeo copy wrote docker-archive:…:app:v1, podman load,
// podman save --format docker-archive and docker load, docker save the others of it, with
// docker 26 the layout that has both forms.
func TestGenuineArchives(t *testing.T) {
	for _, tool := range []string{"skopeo-1.9.3", "podman-4.3.1", "docker-20.10.24", "docker-26.1.5"} {
		seen := 0
		image := build(t, filepath.Join("testdata", tool+".tar.gz"), Options{Image: "v1", Container: func(root *fsimage.Node, config v1.ImageConfig) ([]byte, error) {
			seen++
			if got := append(config.Entrypoint, append(config.Cmd, config.User)...); !slices.Equal(got, []string{"/bin/b", "serve", "1000:1000"}) {
				t.Errorf("%s: it runs %q", tool, got)
			}
			return nil, nil
		}})
		all := contents(t, image)
		if !strings.HasPrefix(all["bin/b"], "\x7fELF") || seen != 1 {
			t.Errorf("%s: there is no /bin/b, or the configuration was shown %d times", tool, seen)
		}
		delete(all, "bin/b")
		wantAll(t, all, map[string]string{"a": "1", "bin": "/"})
	}
}

// dockerTar is docker's own archive of images, each of one layer.
func dockerTar(t *testing.T, manifest []descriptor, layer []byte, config any) []byte {
	return makeTar(t, file("layer.tar", string(layer)), file("c.json", string(marshal(t, config))), file("manifest.json", string(marshal(t, manifest))))
}

func TestDockerArchive(t *testing.T) {
	layer := makeTar(t, file("x", "1"))
	id := func(layer []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(layer)) }
	config := func(arch string, ids ...string) descriptor {
		return descriptor{"os": "linux", "architecture": arch, "rootfs": descriptor{"type": "layers", "diff_ids": ids}}
	}
	image := func(tag string, layers ...string) descriptor {
		return descriptor{"Config": "c.json", "RepoTags": []string{tag}, "Layers": layers}
	}
	good, one := config("amd64", id(layer)), []descriptor{image("a:1", "layer.tar")}

	// go-containerregistry's names, and compressed.
	packed := makeTar(t, file("sha256:"+strings.Repeat("a", 64), string(marshal(t, good))), file("0a.tar.gz", string(compress(t, "gz", layer))),
		file("manifest.json", string(marshal(t, []descriptor{{"Config": "sha256:" + strings.Repeat("a", 64), "Layers": []string{"0a.tar.gz"}}}))))
	for name, data := range map[string][]byte{
		"plain": dockerTar(t, one, layer, good), "compressed": packed, "with ./": []byte(oracle.Run(t, "tar", "-C", unpack(t, packed), "-c", ".")),
	} {
		t.Run(name, func(t *testing.T) {
			wantContents(t, build(t, write(t, "docker.tar", data), Options{}), map[string]string{"x": "1"})
		})
	}
	two := []descriptor{image("a:1", "layer.tar"), image("b:2", "layer.tar")}
	wantContents(t, build(t, write(t, "docker.tar", dockerTar(t, two, layer, good)), Options{Image: "b:2"}), map[string]string{"x": "1"})

	link := makeTar(t, file("c.json", string(marshal(t, good))), link(tar.TypeSymlink, "1/layer.tar", "../../../../etc/passwd"),
		file("manifest.json", string(marshal(t, []descriptor{image("a:1", "1/layer.tar")}))))
	for name, tc := range map[string]struct {
		data []byte
		tag  string
		want string
	}{
		"nothing in it":    {makeTar(t, file("manifest.json", "[]"), file("repositories", "{}")), "", "it has no image"},
		"no JSON":          {makeTar(t, file("manifest.json", "{")), "", "manifest.json"},
		"two images":       {dockerTar(t, two, layer, good), "", `["a:1" "b:2"]; say which one`},
		"another tag":      {dockerTar(t, one, layer, good), "2", `no image "2"; it has ["a:1"]`},
		"for arm64":        {dockerTar(t, one, layer, config("arm64", id(layer))), "", "the image is for linux/arm64"},
		"changed":          {dockerTar(t, one, makeTar(t, file("x", "2")), good), "", "not what its digest"},
		"with an end":      {dockerTar(t, one, append(layer, 0), good), "", "not what its digest"},
		"no such layer":    {dockerTar(t, []descriptor{image("a:1", "other.tar")}, layer, good), "", "no such file"},
		"no digests":       {dockerTar(t, one, layer, config("amd64")), "", "1 layers, and the digests of 0"},
		"no layers":        {dockerTar(t, []descriptor{image("a:1")}, layer, config("amd64")), "", "0 layers"},
		"malformed digest": {dockerTar(t, one, layer, config("amd64", "md5:0")), "", "a digest is malformed"},
		"a way out":        {dockerTar(t, []descriptor{image("a:1", "../../../etc/passwd")}, layer, good), "", "escapes"},
		"a link out":       {link, "", "escapes"},
	} {
		_, err := Make(t.Context(), write(t, "docker.tar", tc.data), t.TempDir(), Options{Image: tc.tag})
		if !errors.Is(err, ErrOCI) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v; want ErrOCI with %q", name, err, tc.want)
		}
	}
	// What has other names, too, is a root.
	wantContents(t, build(t, write(t, "root.tar", makeTar(t, file("manifest.json", "[]"), file("x", "1"))), Options{}), map[string]string{"manifest.json": "[]", "x": "1"})
}

// unpack returns a folder with what is in a tar.
func unpack(t *testing.T, data []byte) string {
	t.Helper()
	dir := t.TempDir()
	oracle.Run(t, "tar", "-C", dir, "--force-local", "-xf", write(t, "a.tar", data))
	return dir
}

func TestOCIPlatforms(t *testing.T) {
	dir := t.TempDir()
	platform := func(os, arch string) descriptor {
		d := addImage(t, dir, compress(t, "zst", makeTar(t, file(os+arch, ""))))
		d["platform"] = map[string]string{"os": os, "architecture": arch}
		return d
	}
	index := func(all ...descriptor) descriptor {
		return addBlob(t, dir, "application/vnd.oci.image.index.v1+json", marshal(t, descriptor{"schemaVersion": 2, "manifests": all}))
	}
	writeIndex(t, dir, index(platform("linux", "arm64"), platform("linux", "amd64"), platform("windows", "amd64"), platform("unknown", "unknown")))
	wantContents(t, build(t, dir, Options{}), map[string]string{"linuxamd64": ""})
	writeIndex(t, dir, index(platform("linux", "arm64"), platform("windows", "amd64")))
	if _, err := Make(t.Context(), dir, t.TempDir(), Options{}); !errors.Is(err, ErrOCI) || !strings.Contains(err.Error(), "no image for linux/amd64") {
		t.Errorf("without linux/amd64: %v; want ErrOCI that names it", err)
	}
}
