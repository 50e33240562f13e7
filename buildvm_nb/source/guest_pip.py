"""Pip as it would decide in the guest: run as a script, not imported.

Pip's ``--python-version`` chooses wheels for another Python, but environment markers such as
``python_version < "3.11"`` are still answered for the Python that runs pip, so that dependencies
of an older guest would be left out. Here the markers' environment is the guest's.

Usage: ``guest_pip.py 3.9 download …``

References
----------
pip's documentation of ``--python-version``; PEP 508, environment markers.
"""

import sys


def main() -> int:
    """Run pip with the guest's marker environment."""
    from pip._internal.cli.main import main as pip  # noqa: PLC0415 - pip has no other door
    from pip._vendor.packaging import markers  # noqa: PLC0415

    python, *arguments = sys.argv[1:]
    own = markers.default_environment()
    guest = own | {
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
    markers.default_environment = lambda: guest
    if markers.Marker(f"python_version != '{python}'").evaluate():
        sys.stderr.write("this version of pip does not take another marker environment\n")
        return 3
    return pip(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
