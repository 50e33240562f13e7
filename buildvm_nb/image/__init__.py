"""Root file systems, kernels and the guest's own tools: what a build machine boots from."""

from buildvm_nb.image.initramfs import GUEST_TOOLS, fetch_guest_tools
from buildvm_nb.image.kernel import (
    DEBIAN_KERNELS,
    Kernel,
    KernelListing,
    fetch_kernel,
    list_kernels,
)
from buildvm_nb.image.rootfs import (
    Image,
    build_image,
    find_image,
    list_images,
    remove_image,
    verify_image,
)

__all__ = [
    "DEBIAN_KERNELS",
    "GUEST_TOOLS",
    "Image",
    "Kernel",
    "KernelListing",
    "build_image",
    "fetch_guest_tools",
    "fetch_kernel",
    "find_image",
    "list_images",
    "list_kernels",
    "remove_image",
    "verify_image",
]
