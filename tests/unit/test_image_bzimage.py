import bz2
import gzip
import lzma
import struct
import subprocess

import pytest

from buildvm_nb.errors import SourceError
from buildvm_nb.image.bzimage import decompress, kernel_release, unpack_kernel

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
