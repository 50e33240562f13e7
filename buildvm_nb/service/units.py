"""Machines as services: a unit for systemd, a service for the Shepherd.

References
----------
systemd.service(5), systemd.unit(5) (specifiers begin with %, and $ begins a variable in ExecStart);
The Shepherd 1.0 Manual, "Defining Services".
"""

import grp
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from buildvm_nb.guix.machinefile import MachineFile

__all__ = ["kvm_group", "shepherd_service", "systemd_unit"]

_UNIT = """\
# Written by `buildvm machine unit {name} --systemd`.
[Unit]
Description=Virtual build machine {name}
{after}
[Service]
Type=notify
ExecStart={command}
{environment}# an image may have to be made first
TimeoutStartSec=1h
TimeoutStopSec=40
# 143: ended by SIGTERM, in order
SuccessExitStatus=143
Restart=on-failure
RestartSec=10
{confinement}{install}"""
_CONFINEMENT = """\
# An account of its own, which exists while the machine runs; its files are in /var/lib/{root} and
# /var/cache/{root}: BUILDVM_STATE for `buildvm machine` and `buildvm guix machines`.
DynamicUser=yes
{groups}StateDirectory={root}
CacheDirectory={root}
StateDirectoryMode=0700
CacheDirectoryMode=0700
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
DevicePolicy=closed
DeviceAllow=/dev/kvm rw
ProtectClock=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
"""
_INSTALL = """
[Install]
WantedBy={target}
"""
_NOT_BY_ITSELF = """
# It does not start by itself: auto_start is false in the machine's file. Where it is true, a unit
# written then has an [Install] section for `systemctl enable`.
"""
SYSTEM_ROOT = "buildvm-nb"
"""Of a system unit, below /var/lib and /var/cache."""
_SHEPHERD = """\
;; Written by `buildvm machine unit {name} --shepherd`.
;; Load it from the Shepherd's init.scm, or with: herd load root FILE
(register-services
 (list (service
        '({name})
        #:documentation "Virtual build machine {name}."
        #:start (make-forkexec-constructor
                 '({command})
                 #:environment-variables
                 (append (list {environment}) (default-environment-variables))
                 #:log-file {log})
        #:stop (make-kill-destructor #:grace-period 40)
        #:respawn? #t)))
{start}"""


def kvm_group(device: Path = Path("/dev/kvm")) -> str:
    """Name the group that may use KVM here; empty: there is none.

    A unit that names a group which is not there does not start.
    """
    try:
        name = grp.getgrgid(device.stat().st_gid).gr_name
    except (OSError, KeyError):
        return ""
    return "" if name == "root" else name


def systemd_unit(
    machine: MachineFile,
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    is_system: bool,
    group: str = "",
) -> str:
    """Write a unit for systemd.

    Parameters
    ----------
    machine : MachineFile
        The machine.
    argv : sequence of str
        Absolute program and arguments that run it in the foreground.
    environment : mapping of str to str
        Variables that it needs.
    is_system : bool
        Whether for the system's manager, or for a user's.
    group : str
        Of `kvm_group`, for a system unit.

    Returns
    -------
    str
        The unit. Where the machine's file says `auto_start`, it can be enabled, to start with the
        system or at the user's login. For the system it runs as an account of its own.
    """
    target = "multi-user.target" if is_system else "default.target"
    variables = "".join(
        f"Environment={_quoted(f'{name}={value}')}\n" for name, value in environment.items()
    )
    return _UNIT.format(
        name=machine.name,
        after="After=network.target\n" if is_system else "",
        command=" ".join(_quoted(word).replace("$", "$$") for word in argv),
        environment=variables,
        confinement=_CONFINEMENT.format(
            root=SYSTEM_ROOT, groups=f"SupplementaryGroups={group}\n" if group else ""
        )
        if is_system
        else "",
        install=_INSTALL.format(target=target) if machine.auto_start else _NOT_BY_ITSELF,
    )


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def shepherd_service(
    machine: MachineFile, argv: Sequence[str], environment: Mapping[str, str], *, log: str
) -> str:
    """Write a service for the Shepherd.

    Parameters
    ----------
    machine : MachineFile
        The machine; `auto_start` starts it when the file is loaded.
    argv : sequence of str
        Absolute program and arguments that run it in the foreground.
    environment : mapping of str to str
        Variables that it needs.
    log : str
        File for what it says.

    Returns
    -------
    str
        Scheme.
    """
    return _SHEPHERD.format(
        name=machine.name,
        command=" ".join(map(_scheme, argv)),
        environment=" ".join(_scheme(f"{name}={value}") for name, value in environment.items()),
        log=_scheme(log),
        start=f"(start-in-the-background '({machine.name}))\n" if machine.auto_start else "",
    )


def _scheme(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
