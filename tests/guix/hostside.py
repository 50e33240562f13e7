"""A host with Guix: the daemon of Debian's package, in a mount name space of its own.

Guix's store is at ``/gnu/store`` and nowhere else, so its host is a directory with a root file
system, the one that our guests use too. Nothing of the machine that the tests run on is touched.
"""

import shutil
import subprocess
import threading

from buildvm_nb.host.process import find_tool

_START = """
mount --bind "$ROOT" "$ROOT"
mkdir -p "$ROOT$GUIX_CONFIGURATION_DIRECTORY"
mount --bind "$GUIX_CONFIGURATION_DIRECTORY" "$ROOT$GUIX_CONFIGURATION_DIRECTORY"
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
chroot "$ROOT" env -C /root guix archive --generate-key
exec chroot "$ROOT" env -C /root "$@"
"""


class GuixHost:
    """A root file system with a Guix, and what runs in it.

    Its settings are outside of it, for others to write, at the same path on either side.
    """

    def __init__(self, image, busybox, root, settings):
        self.root, self.settings = root, settings
        unpack = [find_tool("unsquashfs"), "-quiet", "-no-progress", "-d", root, image]
        subprocess.run(unpack, check=True, capture_output=True)
        with (root / "etc/passwd").open("a") as accounts:
            accounts.write("guixbuilder1:x:30001:30000::/nonexistent:/bin/false\n")
        with (root / "etc/group").open("a") as groups:
            groups.write("guixbuild:x:30000:guixbuilder1\n")
        # busybox is what its name says: the builder of a derivation is a shell
        (root / "tools").mkdir()
        (root / "tools/sh").write_bytes(busybox.read_bytes())
        (root / "tools/sh").chmod(0o755)
        settings.mkdir()
        self._environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "GUIX_CONFIGURATION_DIRECTORY": str(settings),
            "ROOT": str(root),
        }
        self.log = settings.parent / "daemon.log"
        self._daemon = None

    def start(self):
        """Make the host's signing key and start its daemon."""
        with self.log.open("wb") as log:
            self._daemon = subprocess.Popen(
                [
                    *("unshare", "--mount", "sh", "-e", "-c", _START, "sh"),
                    *("guix-daemon", "--build-users-group=guixbuild", "--no-substitutes"),
                ],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

        socket = self.root / "var/guix/daemon-socket/socket"
        tries = 600
        while not socket.exists() and tries and self._daemon.poll() is None:
            threading.Event().wait(0.05)
            tries -= 1
        if not socket.exists():
            self.stop()
            raise RuntimeError(self.log.read_text())

    def run(self, *argv, stdin=""):
        """Run a command on the host; return its status and all that it said."""
        enter = [
            "nsenter",
            f"--target={self._daemon.pid}",
            "--mount",
            "--root",
            "env",
            "-C",
            "/root",
        ]
        done = subprocess.run(
            [*enter, *map(str, argv)],
            env=self._environment,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=600,
        )
        return done.returncode, done.stdout

    def stop(self):
        if self._daemon:
            self._daemon.terminate()
            self._daemon.wait(600)
        shutil.rmtree(self.root, ignore_errors=True)
