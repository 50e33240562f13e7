"""Debian packages of any suite, checked by apt, without touching the system's own apt state."""

from buildvm_nb.debian.apt import PackageArchive
from buildvm_nb.debian.mirrors import (
    KNOWN_SUITES,
    MIRROR_HINT,
    AptSource,
    acquire_settings,
    check_suite,
    without_password,
)
from buildvm_nb.debian.private_apt import is_archives_answer
from buildvm_nb.debian.unpack import unpack_deb

__all__ = [
    "KNOWN_SUITES",
    "MIRROR_HINT",
    "AptSource",
    "PackageArchive",
    "acquire_settings",
    "check_suite",
    "is_archives_answer",
    "unpack_deb",
    "without_password",
]
