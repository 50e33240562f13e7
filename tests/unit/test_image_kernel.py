"""None"""

import bz2
import gzip
import lzma
import struct
import subprocess

import pytest

from buildvm_nb.errors import SourceError, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.image.kernel import (
    ModuleTree,
    decompress,
    fetch_kernel,
    kernel_release,
    list_kernels,
    load_order,
    module_needs,
    unpack_kernel,
)

ELF = b"\x7fELF" + bytes(range(256)) * 400


def by_program(*argv):
    return lambda data: subprocess.run(argv, input=data, capture_output=True, check=True).stdout


PACKERS = {
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "zstd": by_program("zstd", "-cq"),
    "lz4": by_program("lz4", "-lcq"),
    "none": bytes,
}


def bzimage(payload, *, release=b"6.1.0-30-cloud-amd64 (builder@example) #1 SMP"):
    """Lay out a kernel image as Documentation/arch/x86/boot.rst says."""
    setup_sectors = 3
    image = bytearray((setup_sectors + 1) * 512)
    image[0x1F1] = setup_sectors
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, 0x020F)
    struct.pack_into("<H", image, 0x20E, 0x400)
    struct.pack_into("<II", image, 0x248, 0x100, len(payload))
    image[0x600 : 0x600 + len(release) + 1] = release + b"\0"
    return bytes(image) + bytes(0x100) + payload + b"decompressor code follows"


@pytest.mark.parametrize("form", PACKERS)
def test_a_kernel_is_unpacked_whatever_it_is_packed_with(form):
    assert unpack_kernel(bzimage(PACKERS[form](ELF))) == ELF


@pytest.mark.parametrize("form", sorted(set(PACKERS) - {"none", "gzip"}))
def test_the_size_that_kernel_builds_append_is_ignored(form):
    payload = PACKERS[form](ELF) + struct.pack("<I", len(ELF))
    assert unpack_kernel(bzimage(payload)) == ELF


@pytest.mark.parametrize("form", sorted(set(PACKERS) - {"none"}))
def test_a_cut_payload_is_noticed(form):
    payload = PACKERS[form](ELF)
    with pytest.raises(SourceError, match="damaged"):
        decompress(payload[: len(payload) // 2])


def test_the_release_is_read_without_booting():
    assert kernel_release(bzimage(b"")) == "6.1.0-30-cloud-amd64"


def test_a_payload_of_unknown_form_is_named():
    with pytest.raises(SourceError, match="magic number 21212121"):
        unpack_kernel(bzimage(b"!!!!!!!!"))


def test_a_payload_that_is_no_kernel_is_refused():
    with pytest.raises(SourceError, match="no ELF file"):
        unpack_kernel(bzimage(gzip.compress(b"hello")))


@pytest.mark.parametrize("image", [b"", b"\x7fELF" + bytes(1000), bytes(4096)])
def test_what_is_no_bzimage_is_refused(image):
    with pytest.raises(SourceError, match="not a Linux kernel image"):
        unpack_kernel(image)


def test_an_image_of_an_old_boot_protocol_is_refused():
    image = bytearray(bzimage(ELF))
    struct.pack_into("<H", image, 0x206, 0x0204)
    with pytest.raises(SourceError, match=r"boot protocol 2\.04"):
        unpack_kernel(bytes(image))


def module(*depends, softdep=""):
    info = [b"license=GPL", b"depends=" + ",".join(depends).encode()]
    if softdep:
        info.append(b"softdep=" + softdep.encode())
    return b"\x7fELF" + bytes(60) + b"\0".join(info) + b"\0name=x\0"


def read_from(modules):
    return lambda name: modules[name]


def test_each_module_comes_after_what_it_needs():
    modules = {
        "virtio_net": module("virtio", "net-failover"),
        "net_failover": module("failover"),
        "failover": module(),
        "virtio": module("virtio_ring"),
        "virtio_ring": module(),
    }
    order = load_order(["virtio-net"], read_from(modules))
    assert order == ("virtio_ring", "virtio", "failover", "net_failover", "virtio_net")


def test_what_is_built_in_is_left_out_with_what_only_it_needs():
    modules = {"virtio_pci": None, "squashfs": module()}
    assert load_order(["virtio_pci", "squashfs"], read_from(modules)) == ("squashfs",)


def test_modules_that_need_each_other_are_an_error():
    modules = {"a": module("b"), "b": module("a")}
    with pytest.raises(SourceError, match="a -> b -> a"):
        load_order(["a"], read_from(modules))


def test_soft_needs_count_when_they_come_before():
    assert module_needs(module("b", softdep="pre: c-d e post: f")) == ("b", "c_d", "e")
    assert module_needs(module(softdep="post: f")) == ()


def tree(root, *, builtin=""):
    (root / "kernel").mkdir(parents=True)
    (root / "kernel" / "plain.ko").write_bytes(module())
    (root / "kernel" / "packed-one.ko.xz").write_bytes(lzma.compress(module("plain")))
    zstd = subprocess.run(
        ["zstd", "-cq"], input=module("plain"), capture_output=True, check=True
    ).stdout
    (root / "kernel" / "packed_two.ko.zst").write_bytes(zstd)
    if builtin:
        (root / "modules.builtin").write_text(builtin)
    return ModuleTree(root)


def test_packed_modules_are_unpacked(tmp_path):
    modules = tree(tmp_path)
    assert modules.read("packed_one") == module("plain")
    assert modules.read("packed-two") == module("plain")
    assert load_order(["packed_one"], modules.read) == ("plain", "packed_one")


def test_a_module_that_is_nowhere_is_an_error_where_built_in_ones_are_known(tmp_path):
    modules = tree(tmp_path, builtin="kernel/drivers/virtio-pci.ko\n")
    assert modules.read("virtio_pci") is None
    with pytest.raises(SourceError, match="no module nosuch"):
        modules.read("nosuch")


def kernel_directory(root):
    image = bytearray(2048)
    image[0x1F1] = 3
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, 0x020F)
    struct.pack_into("<H", image, 0x20E, 0x300)
    struct.pack_into("<II", image, 0x248, 0, 68)
    image[0x500:0x50A] = b"6.6.6-own\0"
    root.mkdir()
    (root / "vmlinuz").write_bytes(bytes(image) + b"\x7fELF" + bytes(64))
    built_in = ("virtio_pci", "virtio_blk", "virtio_console", "overlay", "virtio_rng", "virtio_net")
    tree(root / "modules", builtin="".join(f"kernel/{name}.ko\n" for name in built_in))
    (root / "modules" / "squashfs.ko").write_bytes(module("packed_one"))
    (root / "config").write_text('CONFIG_PVH=y\n# CONFIG_KVM is not set\nCONFIG_HOST="x"\n')
    return root


def test_a_directory_of_the_users_own_is_a_kernel(tmp_path):
    root = kernel_directory(tmp_path / "own")
    cache = Cache(tmp_path / "cache")
    kernel = fetch_kernel(str(root), cache)
    assert kernel.release == "6.6.6-own"
    assert kernel.modules == ("plain", "packed_one", "squashfs")
    assert kernel.network_modules == ()
    assert kernel.module_path("packed_one").read_bytes() == module("plain")
    assert kernel.vmlinux.read_bytes().startswith(b"\x7fELF")
    assert [kernel.config(name) for name in ("CONFIG_PVH", "PVH", "KVM", "HOST")] == [
        "y",
        "y",
        None,
        "x",
    ]
    assert str(root) in [listing.name for listing in list_kernels(cache) if listing.cached]


def test_a_changed_directory_is_another_kernel(tmp_path):
    root = kernel_directory(tmp_path / "own")
    cache = Cache(tmp_path / "cache")
    before = fetch_kernel(str(root), cache)
    assert fetch_kernel(str(root), cache) == before
    (root / "modules" / "squashfs.ko").write_bytes(module())
    assert fetch_kernel(str(root), cache).path != before.path


def test_a_directory_without_kernel_is_refused(tmp_path):
    with pytest.raises(UsageError, match="it has no vmlinuz"):
        fetch_kernel(str(tmp_path), Cache(tmp_path / "cache"))


@pytest.mark.parametrize("name", ["bookworm", "ubuntu:noble", "debian:", "debian:Book worm"])
def test_an_unknown_kernel_is_refused_with_the_known_ones(name, tmp_path):
    with pytest.raises(UsageError, match="bullseye"):
        fetch_kernel(name, Cache(tmp_path / "cache"))
