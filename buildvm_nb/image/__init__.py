"""Root file systems, kernels and the guest's own tools: what a build machine boots from."""

from buildvm_nb.image.initramfs import GUEST_TOOLS as GUEST_TOOLS
from buildvm_nb.image.initramfs import fetch_guest_tools as fetch_guest_tools
from buildvm_nb.image.kernel import DEBIAN_KERNELS as DEBIAN_KERNELS
from buildvm_nb.image.kernel import Kernel as Kernel
from buildvm_nb.image.kernel import KernelListing as KernelListing
from buildvm_nb.image.kernel import fetch_kernel as fetch_kernel
from buildvm_nb.image.kernel import list_kernels as list_kernels
from buildvm_nb.image.rootfs import Image as Image
from buildvm_nb.image.rootfs import build_image as build_image
from buildvm_nb.image.rootfs import find_image as find_image
from buildvm_nb.image.rootfs import list_images as list_images
from buildvm_nb.image.rootfs import remove_image as remove_image
from buildvm_nb.image.rootfs import verify_image as verify_image
