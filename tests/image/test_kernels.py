import shutil

import pytest

from buildvm_nb.host.cache import Cache
from buildvm_nb.image import DEBIAN_KERNELS, fetch_guest_tools, fetch_kernel, list_kernels
from buildvm_nb.image.initramfs import GUEST_TOOLS, read_linkage
from buildvm_nb.image.kernel import module_needs

pytestmark = pytest.mark.network

SERIES = dict(zip(DEBIAN_KERNELS, ["5.10.", "6.1.", "6.12.", "6.12.", "7."], strict=True))


@pytest.mark.parametrize("name", DEBIAN_KERNELS)
def test_a_kernel_comes_unpacked_with_its_modules_in_load_order(cache, name):
    kernel = fetch_kernel(name, cache)
    assert kernel.release.startswith(SERIES[name])
    assert kernel.release.endswith("-cloud-amd64")
    assert kernel.vmlinux.read_bytes()[:4] == b"\x7fELF"
    assert {"virtio_blk", "squashfs", "overlay"} <= set(kernel.modules)
    assert kernel.network_modules[-1] == "virtio_net"
    loaded: set[str] = set()
    for module in (*kernel.modules, *kernel.network_modules):
        content = kernel.module_path(module).read_bytes()
        assert content.startswith(b"\x7fELF")
        known = {*kernel.modules, *kernel.network_modules}
        assert {need for need in module_needs(content) if need in known} <= loaded
        loaded.add(module)
    for option in ("SQUASHFS_LZ4", "VIRTIO_CONSOLE", "PVH"):
        assert kernel.config(option) in {"y", "m"}


def test_a_damaged_kernel_is_fetched_anew(cache, tmp_path):
    kernel, copy = fetch_kernel("debian:bookworm", cache), Cache(tmp_path)
    shutil.copytree(kernel.path, copy.path("kernels", kernel.path.name))
    copied = fetch_kernel("debian:bookworm", copy)
    with copied.vmlinux.open("r+b") as stream:
        stream.seek(2**20)
        stream.write(b"damage")
    again = fetch_kernel("debian:bookworm", copy)
    assert b"damage" not in again.vmlinux.read_bytes()
    assert again.vmlinux.read_bytes()[:4] == b"\x7fELF"


def test_a_kernel_that_was_fetched_needs_no_network(cache, monkeypatch):
    kernel = fetch_kernel("debian:bookworm", cache)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert fetch_kernel("debian:bookworm", cache) == kernel
    assert any(listing.cached and listing.release for listing in list_kernels(cache))


def test_the_guests_tools_have_every_library_they_need(cache):
    root = fetch_guest_tools(cache)
    libraries = {path.name for path in (root / "lib/x86_64-linux-gnu").iterdir()}
    for path in [*(root / name for name in GUEST_TOOLS), *(root / "lib").rglob("*.so*")]:
        needed = {name for name in read_linkage(path).needed if not name.startswith("ld-linux")}
        assert needed <= libraries
    assert (root / "lib64/ld-linux-x86-64.so.2").is_file()
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 14 * 2**20


@pytest.mark.long
def test_damaged_guest_tools_are_noticed(cache):
    root = fetch_guest_tools(cache)
    tool = root / "bin/tar"
    whole = tool.read_bytes()
    tool.write_bytes(whole[:-1] + b"x")
    assert (fetch_guest_tools(cache) / "bin/tar").read_bytes() == whole
